"""Training and evaluation on a GPU; skipped without one.

Without a GPU the same code runs on the CPU where it can (`DEVICE`), so that the tests themselves do
not fail on the day: set GLORA_TEST_DEVICE=cpu.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.supernet import Scorer, Supernet, widest_architecture
from glora_automl.training import Joined, TrainingSettings, evaluate, train
from glora_automl.training._seeding import seeded
from glora_automl.training._step import TrainingStep

DEVICE = torch.device(os.environ.get("GLORA_TEST_DEVICE", "cuda"))
ON_CUDA = DEVICE.type == "cuda"
N_CLASSES = 4
AUGMENTED = {"shift": 0.2, "hflip": 0.5, "mixup": 0.4, "cutmix": 1.0}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON_CUDA and not torch.cuda.is_available(), reason="needs a CUDA device"),
]
needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="only CUDA has it")


class Case:
    """A supernet of a small model with the same weights in each call, images and labels."""

    def __init__(self, device=DEVICE, name="vit_tiny_patch16_224", **keywords):
        if name.startswith("vit"):
            keywords = {"img_size": 32, "patch_size": 8, "depth": 2, **keywords}
        with seeded(0):
            model = timm.create_model(name, num_classes=N_CLASSES, **keywords).to(device)
        size = keywords.get("img_size", 32)
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(64, 3, size, size, generator=generator).to(device)
        self.y = (torch.arange(64) % N_CLASSES).to(device)
        self.space = SearchSpace(
            load_search_space("lean"), linear_shapes(model, example=self.x[:2])
        )
        self.supernet = Supernet(model, self.space.layer_choices())
        self.wide = widest_architecture(self.space)
        self.supernet.activate(self.wide)

    def fit(self, images=None, labels=None, **options):
        settings = {
            key: options.pop(key) for key in list(options) if key in TrainingSettings.model_fields
        }
        settings = {"epochs": 2, "batch_size": 16, "lr": 1e-3, "clip_grad": 1.0, **settings}
        return train(
            self.supernet.model,
            self.supernet.trainable(),
            self.x if images is None else images,
            self.y if labels is None else labels,
            TrainingSettings(**settings),
            seed=0,
            stage="test",
            **options,
        )

    def randomise(self):
        with seeded(2), torch.no_grad():
            for parameter in self.supernet.trainable().values():
                parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter))

    def weights(self):
        return {name: value.cpu() for name, value in self.supernet.state_dict().items()}

    def architectures(self):
        shapes = self.space.shapes
        return [
            Architecture.uniform(shapes, A="vector", B="lora-8", C="vector", E="vector"),
            Architecture.uniform(shapes, B="lora-2"),
            Architecture.uniform(shapes, C="vector", E="vector"),
        ]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_convnext"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(None, 1e-4), (torch.float16, 0.01), (torch.bfloat16, 0.05)]
)
def test_merged_scores_equal_unmerged_ones(name, dtype, tolerance):
    case = Case(name=name)
    case.randomise()
    scorer = Scorer(case.supernet, case.x, case.y, dtype=dtype)
    for architecture in case.architectures():
        score = scorer.score(architecture)
        case.supernet.activate(architecture)
        unmerged = evaluate(case.supernet.model, case.x, case.y)
        assert score.loss == pytest.approx(unmerged.loss, rel=tolerance)


@pytest.mark.parametrize("settings", [{}, AUGMENTED, {"scale": 0.5}], ids=["plain", "all", "crop"])
def test_training_in_float32_equals_that_on_a_cpu(settings):
    here, cpu = Case(), Case(torch.device("cpu"))
    losses = here.fit(precision="fp32", **settings).losses
    assert losses == pytest.approx(cpu.fit(precision="fp32", **settings).losses, rel=1e-3)
    for name, value in cpu.weights().items():
        torch.testing.assert_close(here.weights()[name], value, rtol=0.02, atol=2e-4)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_convnext"])
def test_training_under_autocast_lowers_the_loss_as_in_float32(name, precision):
    keywords = {"conv_mlp": True} if name == "test_convnext" else {}
    half, exact = Case(name=name, **keywords), Case(name=name, **keywords)
    losses = half.fit(epochs=6, precision=precision).losses
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(exact.fit(epochs=6, precision="fp32").losses, rel=0.1)
    assert {p.dtype for p in half.supernet.trainable().values()} == {torch.float32}


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_resumed_training_equals_an_uninterrupted_one(tmp_path, precision):
    def stop_after_two(n_epochs, loss):
        if n_epochs == 2:
            raise Interrupted

    options = {"precision": precision, "epochs": 4, "checkpoint_every": 1, **AUGMENTED}
    whole, interrupted, resumed = Case(), Case(), Case()
    losses = whole.fit(**options).losses
    path = tmp_path / "x.json"
    with pytest.raises(Interrupted):
        interrupted.fit(checkpoint=path, on_epoch=stop_after_two, **options)
    # Sums of a GPU have no fixed order, so the bits may differ.
    assert resumed.fit(checkpoint=path, **options).losses == pytest.approx(losses, rel=1e-3)
    for name, value in whole.weights().items():
        torch.testing.assert_close(resumed.weights()[name], value, rtol=0.02, atol=5e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("joined", [False, True])
def test_host_waits_for_nothing_within_a_step(monkeypatch, precision, joined):
    run, n_steps = TrainingStep.run, []

    def strict(*arguments):
        n_steps.append(1)
        # The first step creates the state of the optimiser.
        before = torch.cuda.get_sync_debug_mode() if ON_CUDA else 0
        if ON_CUDA and len(n_steps) > 1:
            torch.cuda.set_sync_debug_mode("error")
        try:
            return run(*arguments)
        finally:
            if ON_CUDA:
                torch.cuda.set_sync_debug_mode(before)

    monkeypatch.setattr(TrainingStep, "run", strict)
    case = Case()
    images = Joined(case.x[:40], case.x[40:]) if joined else None
    case.fit(images, precision=precision, scale=0.8, class_weight="balanced", **AUGMENTED)
    assert len(n_steps) == 8


def test_joined_images_train_like_images_in_one_tensor():
    case, other = Case(), Case()
    losses = case.fit(Joined(case.x[:40], case.x[40:]), precision="fp32").losses
    assert losses == pytest.approx(other.fit(precision="fp32").losses, rel=1e-4)


def test_seeded_gives_the_same_noise_and_restores_the_generators():
    states = [torch.get_rng_state()]
    if ON_CUDA:
        states.append(torch.cuda.get_rng_state(DEVICE))
    draws = []
    for seed in (3, 3, 4):
        with seeded(seed, DEVICE):
            draws.append((torch.rand(3), torch.rand(3, device=DEVICE).cpu()))
    for first, second, third in zip(*draws, strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), states[0])
    if ON_CUDA:
        assert torch.equal(torch.cuda.get_rng_state(DEVICE), states[1])


def test_architectures_in_one_pass_have_the_scores_of_each():
    case = Case()
    case.randomise()
    scorer = Scorer(case.supernet, case.x, case.y)
    architectures = case.architectures()
    together = scorer.score_together(architectures)
    for score, architecture in zip(together, architectures, strict=True):
        assert score.loss == pytest.approx(scorer.score(architecture).loss, rel=1e-4)


@needs_cuda
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_cuda_graphs_give_the_scores_of_a_plain_model_in_two_threads(dtype):
    case = Case()
    case.randomise()
    plain = Scorer(case.supernet, case.x, case.y, dtype=dtype)
    graphed = Scorer(case.supernet, case.x, case.y, dtype=dtype, compiled=True)
    architectures = [*case.architectures(), *case.architectures()]
    expected = [plain.score(a).loss for a in architectures]
    tolerance = 1e-3 if dtype is None else 0.03
    assert [graphed.score(a).loss for a in architectures] == pytest.approx(expected, rel=tolerance)
    with ThreadPoolExecutor(1) as thread:
        found = list(thread.map(lambda a: graphed.score(a).loss, architectures))
    assert found == pytest.approx(expected, rel=tolerance)
    assert graphed.score(architectures[0]).loss == pytest.approx(expected[0], rel=tolerance)


@pytest.fixture
def little_memory():
    """Leave a process so little memory that large batches do not fit."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    free = torch.cuda.memory_reserved(DEVICE) + 400 * 2**20
    torch.cuda.set_per_process_memory_fraction(free / total, DEVICE)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)


@needs_cuda
def test_scorer_runs_out_of_memory_once_only(little_memory):
    case = Case(img_size=224, patch_size=16, depth=4)
    x = torch.randn(512, 3, 224, 224, dtype=torch.float16).to(DEVICE)
    y = torch.arange(512, device=DEVICE) % N_CLASSES
    scorer = Scorer(case.supernet, x, y, dtype=torch.float16)
    architecture = case.architectures()[1]
    first = scorer.score(architecture)
    n_ooms = torch.cuda.memory_stats(DEVICE)["num_ooms"]
    assert n_ooms > 0
    assert scorer.score(architecture).loss == pytest.approx(first.loss, rel=1e-3)
    assert torch.cuda.memory_stats(DEVICE)["num_ooms"] == n_ooms


@needs_cuda
def test_training_with_little_memory_equals_that_with_enough(little_memory):
    with seeded(5):
        x = torch.randn(96, 3, 224, 224)
    y = torch.arange(96, device=DEVICE) % N_CLASSES
    weights = []
    for fraction in (None, 1.0):
        if fraction is not None:
            torch.cuda.set_per_process_memory_fraction(fraction, DEVICE)
        case = Case(img_size=224, patch_size=16, depth=8)
        case.fit(x.to(DEVICE), y, batch_size=96, precision="fp32")
        weights.append(case.weights())
        del case
    for name, value in weights[1].items():
        torch.testing.assert_close(weights[0][name], value, rtol=0.02, atol=5e-4)
