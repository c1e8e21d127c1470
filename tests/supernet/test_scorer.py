import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from glora_automl.adapters import MergedModel
from glora_automl.architecture import Architecture
from glora_automl.errors import TrainingError
from glora_automl.supernet import Scorer
from glora_automl.training import Reordered, evaluate
from tests import models
from tests.supernet.cases import COUNT, create_case


def test_scorer_gives_the_scores_of_the_unmerged_supernet(case):
    supernet, shapes, images, labels = case
    scorer = Scorer(supernet, images, labels)
    for seed in (0, 1, 0):
        architecture = models.random_architecture(shapes, seed)
        score = scorer.score(architecture)
        supernet.activate(architecture)
        expected = evaluate(supernet.model, images, labels)
        assert score.n_images == COUNT
        assert score.loss == pytest.approx(expected.loss, rel=1e-5)
        assert score.accuracy == pytest.approx(expected.accuracy, abs=1.01 / COUNT)


def test_scorer_follows_changed_weights(case):
    supernet, shapes, images, labels = case
    scorer = Scorer(supernet, images, labels)
    architecture = models.random_architecture(shapes, 0)
    before = scorer.score(architecture)
    with torch.no_grad():
        for parameter in supernet.trainable().values():
            parameter.mul_(0.5)
    assert scorer.score(architecture) != before
    expected = evaluate(supernet.model, images, labels)
    assert scorer.score(architecture).loss == pytest.approx(expected.loss, rel=1e-5)


def test_scorer_in_bfloat16_gives_almost_the_same_losses(case):
    supernet, shapes, images, labels = case
    float32 = Scorer(supernet, images, labels)
    bfloat16 = Scorer(supernet, images, labels, dtype=torch.bfloat16)
    losses = []
    for seed in range(4):
        architecture = models.random_architecture(shapes, seed)
        losses.append([scorer.score(architecture).loss for scorer in (float32, bfloat16)])
    expected, rounded = np.transpose(losses)
    assert (rounded != expected).any()
    np.testing.assert_allclose(rounded, expected, rtol=0.05)


def test_scorer_runs_the_stem_once():
    supernet, shapes, images, labels = create_case("vit")
    calls = []
    embed = supernet.model.patch_embed
    supernet.merged_model().model.patch_embed.register_forward_hook(
        lambda module, args, output: calls.append(len(args[0]))
    )
    assert embed is not supernet.merged_model().model.patch_embed
    scorer = Scorer(supernet, images, labels)
    scorer.score(models.random_architecture(shapes, 0))
    calls.clear()
    scorer.score(models.random_architecture(shapes, 1))
    assert calls == []


def test_scorer_with_slow_images_gives_the_same_loss():
    supernet, shapes, images, labels = create_case("vit")

    class Slow(Reordered):
        def __init__(self) -> None:
            super().__init__(images, torch.arange(COUNT))
            self.slow = True

    architecture = models.random_architecture(shapes, 0)
    score = Scorer(supernet, Slow(), labels).score(architecture)
    assert score.loss == pytest.approx(
        Scorer(supernet, images, labels).score(architecture).loss, rel=1e-5
    )


def test_scorer_with_compilation_compiles_once_and_gives_the_same_losses(monkeypatch):
    supernet, shapes, images, labels = create_case("vit")
    compiled = []

    def backend(graph: torch.fx.GraphModule, example: list[torch.Tensor]):
        compiled.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode: original(model, backend=backend))
    scorer = Scorer(supernet, images, labels, compiled=True)
    plain = Scorer(supernet, images, labels)
    n_compiled = []
    for seed in range(3):
        architecture = models.random_architecture(shapes, seed)
        expected = plain.score(architecture).loss
        assert scorer.score(architecture).loss == pytest.approx(expected, rel=1e-5)
        n_compiled.append(len(compiled))
    assert 1 <= n_compiled[0] == n_compiled[-1]


def test_scorer_with_a_failed_compilation_raises(monkeypatch):
    supernet, shapes, images, labels = create_case("vit")

    def fails(model, mode):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", fails)
    scorer = Scorer(supernet, images, labels, compiled=True)
    with pytest.raises(TrainingError, match=r"RuntimeError: no C\+\+ compiler\. Remove `search"):
        scorer.score(models.random_architecture(shapes, 0))


def test_scorer_in_two_threads_gives_the_serial_scores(monkeypatch):
    supernet, shapes, images, labels = create_case("vit")
    architectures = [models.random_architecture(shapes, seed) for seed in range(12)]
    serial = [Scorer(supernet, images, labels).score(a) for a in architectures]
    assert len({score.loss for score in serial}) == len(serial)
    write = MergedModel.write

    def write_and_wait(merged):
        model = write(merged)
        time.sleep(0.005)  # lets the other thread run between write and evaluation
        return model

    monkeypatch.setattr(MergedModel, "write", write_and_wait)
    scorer = Scorer(supernet, images, labels)
    with ThreadPoolExecutor(max_workers=2) as threads:
        assert list(threads.map(scorer.score, architectures)) == serial


def test_scorers_of_one_supernet_in_two_threads_give_the_serial_scores():
    supernet, shapes, images, labels = create_case("vit")
    architectures = [models.random_architecture(shapes, seed) for seed in range(12)]
    scorers = [Scorer(supernet, images, labels), Scorer(supernet, images.flip(3), labels)]
    serial = [[scorer.score(a) for a in architectures] for scorer in scorers]
    with ThreadPoolExecutor(max_workers=2) as threads:
        futures = [[threads.submit(scorer.score, a) for scorer in scorers] for a in architectures]
        scores = [[future.result() for future in pair] for pair in futures]
    assert [list(column) for column in zip(*scores, strict=True)] == serial


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_scorer_of_architectures_together_gives_the_scores_of_each(case, dtype):
    supernet, shapes, images, labels = case
    scorer = Scorer(supernet, images, labels, dtype=dtype)
    architectures = [models.random_architecture(shapes, seed) for seed in range(3)]
    for chosen in (architectures, architectures[::-1], architectures[:1], architectures):
        together = scorer.score_together(chosen)
        for score, architecture in zip(together, chosen, strict=True):
            expected = scorer.score(architecture)
            assert score.n_images == COUNT
            assert score.loss == pytest.approx(expected.loss, rel=1e-5 if dtype is None else 0.02)


def test_scorer_together_stacks_all_but_models_that_read_weights():
    stacked = {}
    for name in ("vit", "convnext-conv-mlp", "beit"):
        supernet, shapes, images, labels = create_case(name)
        scorer = Scorer(supernet, images, labels)
        scorer.score_together([models.random_architecture(shapes, seed) for seed in range(2)])
        stacked[name] = scorer._stacked[2] is not None
    assert stacked == {"vit": True, "convnext-conv-mlp": True, "beit": False}


def test_scorer_remembers_the_batch_size_that_fitted(monkeypatch, caplog):
    supernet, shapes, images, labels = create_case("vit")
    expected = Scorer(supernet, images, labels).score(models.random_architecture(shapes, 0))
    scorer, sizes = Scorer(supernet, images, labels), []

    def limited(module, args):
        sizes.append(len(args[0]))
        if len(args[0]) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    merged = supernet.merged_model().model
    for module in (merged.patch_embed, merged.blocks[0]):
        module.register_forward_pre_hook(limited)
    scorer.score(models.random_architecture(shapes, 0))
    n_tried = len([size for size in sizes if size > 6])
    for seed in (1, 0):
        score = scorer.score(models.random_architecture(shapes, seed))
    assert len([size for size in sizes if size > 6]) == n_tried
    assert score.loss == pytest.approx(expected.loss, rel=1e-5)
    assert any("(stem)" in record.getMessage() for record in caplog.records)


def test_scorer_without_memory_for_features_of_the_stem_scores_images(monkeypatch):
    supernet, shapes, images, labels = create_case("vit")
    expected = Scorer(supernet, images, labels).score(models.random_architecture(shapes, 0))
    scorer = Scorer(supernet, images, labels)
    monkeypatch.setattr(scorer, "_features_of", lambda stem: None)
    score = scorer.score(models.random_architecture(shapes, 0))
    assert score.loss == pytest.approx(expected.loss, rel=1e-5)


def test_scorer_in_float16_with_an_overflow_names_the_precision(case):
    supernet, shapes, images, labels = case
    with torch.no_grad():
        for name, parameter in supernet.trainable().items():
            if name.endswith("E_vector"):
                parameter.fill_(1e30)
    scorer = Scorer(supernet, images, labels, dtype=torch.float16)
    architecture = Architecture.uniform(shapes, E="vector")
    with pytest.raises(TrainingError, match=r"`training.precision` must be bf16 or fp32"):
        scorer.score(architecture)


def test_scorer_with_compilation_keeps_outputs_that_the_next_pass_overwrites(monkeypatch):
    supernet, shapes, images, labels = create_case("vit")
    buffer = {}

    class Graphed(torch.nn.Module):
        """Returns one buffer for all outputs, as a CUDA graph does."""

        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            y = self.model(x)
            return buffer.setdefault(len(y), y.clone()).copy_(y)

    architecture = models.random_architecture(shapes, 0)
    expected = Scorer(supernet, images, labels, score_function=first_probability)
    monkeypatch.setattr(torch, "compile", lambda model, mode: Graphed(model))
    scorer = Scorer(supernet, images, labels, compiled=True, score_function=first_probability)
    scorer._micro_batching.size = 5
    found = scorer.score(architecture).custom
    assert found == pytest.approx(expected.score(architecture).custom, rel=1e-5)


def first_probability(labels, probabilities):
    """Depends on the logits of each batch."""
    return float(probabilities[:, 0] @ np.arange(len(labels)))
