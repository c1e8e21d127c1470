import logging

import pytest
import torch
from torch import nn

from glora_automl.errors import TrainingError
from glora_automl.training import TrainingSettings, evaluate, train
from glora_automl.training._memory import Pieces


class Hungry(nn.Module):
    """A classifier of a device that holds some images at a time."""

    def __init__(self, holds: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)
        self.holds = holds
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.seen.append(len(x))
        return self.linear(x.flatten(1))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(20, 1, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(20) % 3


def test_an_evaluation_goes_on_with_half_the_batch_and_says_so(images, labels, caplog):
    hungry = Hungry(holds=5)
    with caplog.at_level(logging.WARNING, "glora_automl"):
        score = evaluate(hungry, images, labels, 16)
    assert score == evaluate(Hungry(holds=99), images, labels, 16)
    # 16 and 8 did not fit; the rest of the images comes in the size that did.
    assert hungry.seen == [4] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "Out of memory with 16 images at a time (evaluation); going on with 8.",
        "Out of memory with 8 images at a time (evaluation); going on with 4.",
    ]


def test_a_training_has_the_same_gradient_in_pieces(images, labels):
    weights = []
    for holds in (99, 7):
        model = Hungry(holds)
        settings = TrainingSettings(epochs=2, batch_size=10, lr=0.1)
        train(model, dict(model.named_parameters()), images, labels, settings, seed=0, stage="s")
        weights.append(model.linear.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
    assert max(model.seen) == 5


@pytest.mark.parametrize("holds", [0])
def test_a_device_that_does_not_hold_one_image_is_told(images, labels, holds):
    with pytest.raises(TrainingError, match=r"at least one image \(evaluation\): CUDA out"):
        evaluate(Hungry(holds), images, labels, 4)


def test_the_cpus_own_error_is_known_and_others_are_not_hidden():
    def attempt(most: int) -> int:
        if most > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        return most

    assert Pieces("test").run(9, attempt) == 2
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        Pieces("test").run(9, lambda most: torch.ones(2, 3) @ torch.ones(2, 3))
