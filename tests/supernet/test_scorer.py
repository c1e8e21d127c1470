import numpy as np
import pytest
import torch
from torch import nn

from glora_automl.adapters import linear_shapes
from glora_automl.errors import TrainingError
from glora_automl.supernet import Scorer, Supernet
from glora_automl.supernet._stem import split_stem
from glora_automl.training import Reordered, evaluate
from glora_automl.training._batches import Converted
from glora_automl.training._evaluation import CACHED, FEWEST, paying_batch_size
from tests import models

COUNT = 22


@pytest.fixture(params=models.MODELS)
def case(request):
    """A supernet with non-zero parameters, the shapes of its layers, images and labels."""
    return make(request.param)


def make(name: str):
    model = models.backbone(name)
    shapes = linear_shapes(model, example=models.images())
    supernet = Supernet(model, models.choices_of(shapes))
    models.randomise(model)
    labels = torch.arange(COUNT) % 3
    return supernet, shapes, models.images(count=COUNT), labels


def test_scores_are_those_of_the_unmerged_supernet(case):
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


def test_follows_weights_that_change(case):
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


def test_bfloat16_scores_almost_alike(case):
    supernet, shapes, images, labels = case
    exact = Scorer(supernet, images, labels)
    rough = Scorer(supernet, images, labels, dtype=torch.bfloat16)
    losses = []
    for seed in range(4):
        architecture = models.random_architecture(shapes, seed)
        losses.append([scorer.score(architecture).loss for scorer in (exact, rough)])
    one, other = np.transpose(losses)
    assert (one != other).any()
    np.testing.assert_allclose(other, one, rtol=0.05)


def stem_of(supernet):
    merged = supernet.merged_model()
    merged.write()
    return split_stem(merged.model, models.images()[:1], merged.changing)


def test_the_stem_is_what_no_adapter_changes(case):
    supernet, shapes, images, _ = case
    split = stem_of(supernet)
    assert split is not None
    theirs = {id(p) for p in split.stem.parameters()}
    assert theirs
    assert not theirs & supernet.merged_model().changing
    with supernet.merged(models.random_architecture(shapes, 1)) as plain, torch.no_grad():
        assert torch.equal(split.rest(split.stem(images)), plain(images))


def test_the_stem_sees_the_images_once():
    supernet, shapes, images, labels = make("vit")
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


class SeesTheImagesTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x).mean((2, 3)) + x.mean((1, 2, 3))[:, None])


class TwoStems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.one(x) + self.other(x)).mean((2, 3))


@pytest.mark.parametrize("kind", [SeesTheImagesTwice, TwoStems])
def test_images_that_do_not_go_through_one_module_alone_are_kept(kind):
    assert split_stem(kind(), torch.randn(1, 3, 4, 4)) is None


def test_a_stem_that_is_adapted_is_not_split_off():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    changing = {id(p) for p in model[0].parameters()}
    assert split_stem(model, torch.randn(1, 3, 2, 2), changing) is None
    assert split_stem(model, torch.randn(1, 3, 2, 2)) is not None


def test_images_that_are_made_batch_by_batch_are_scored_alike():
    supernet, shapes, images, labels = make("vit")

    class Slow(Reordered):
        def __init__(self) -> None:
            super().__init__(images, torch.arange(COUNT))
            self.slow = True

    architecture = models.random_architecture(shapes, 0)
    score = Scorer(supernet, Slow(), labels).score(architecture)
    assert score.loss == pytest.approx(
        Scorer(supernet, images, labels).score(architecture).loss, rel=1e-5
    )


def test_a_compiled_model_scores_alike_and_is_compiled_once(monkeypatch):
    supernet, shapes, images, labels = make("vit")
    compiled = []

    def backend(graph: torch.fx.GraphModule, example: list[torch.Tensor]):
        compiled.append(graph)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode: original(model, backend=backend))
    scorer = Scorer(supernet, images, labels, compiled=True)
    plain = Scorer(supernet, images, labels)
    seen = []
    for seed in range(3):
        architecture = models.random_architecture(shapes, seed)
        expected = plain.score(architecture).loss
        assert scorer.score(architecture).loss == pytest.approx(expected, rel=1e-5)
        seen.append(len(compiled))
    assert 1 <= seen[0] == seen[-1]


def test_a_model_that_cannot_be_compiled_is_told(monkeypatch):
    supernet, shapes, images, labels = make("vit")

    def fails(model, mode):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", fails)
    scorer = Scorer(supernet, images, labels, compiled=True)
    with pytest.raises(TrainingError, match=r"RuntimeError: no C\+\+ compiler; leave it out"):
        scorer.score(models.random_architecture(shapes, 0))


def test_batches_on_a_cpu_stay_in_the_cache():
    image = torch.zeros(1, 3, 8, 8)
    narrow, wide = nn.Conv2d(3, 64, 1), nn.Conv2d(3, 20000, 1)
    assert paying_batch_size(narrow, image) == CACHED // (64 * 64)
    assert paying_batch_size(wide, image) == FEWEST


def test_converted_images_keep_their_order_and_number():
    images = Converted(torch.tensor([0.5, 1.5]), torch.bfloat16)
    assert len(images) == 2
    assert images.device == torch.device("cpu")
    assert images[torch.tensor([1, 0])].tolist() == [1.5, 0.5]
