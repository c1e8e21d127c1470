import logging

import pytest
import torch
from torch import nn

from glora_automl.errors import TrainingError
from glora_automl.training import TrainingSettings, evaluate, train
from glora_automl.training._memory import MicroBatching


class LimitedMemory(nn.Module):
    """A classifier on a device with memory for a number of images."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)
        self.capacity = capacity
        self.batch_sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.batch_sizes.append(len(x))
        return self.linear(x.flatten(1))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(20, 1, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(20) % 3


def test_evaluate_out_of_memory_halves_the_batch_and_warns(images, labels, caplog):
    model = LimitedMemory(capacity=5)
    with caplog.at_level(logging.WARNING, "glora_automl"):
        score = evaluate(model, images, labels, 16)
    assert score == evaluate(LimitedMemory(capacity=99), images, labels, 16)
    # Neither 16 nor 8 images fit; all batches use the size that fits.
    assert model.batch_sizes == [4] * 5
    assert [record.getMessage() for record in caplog.records] == [
        "Out of memory with 16 images per forward pass (evaluation). Retrying with 8.",
        "Out of memory with 8 images per forward pass (evaluation). Retrying with 4.",
    ]


def test_train_in_micro_batches_gives_the_same_weights(images, labels):
    weights = []
    for capacity in (99, 7):
        model = LimitedMemory(capacity)
        settings = TrainingSettings(epochs=2, batch_size=10, lr=0.1)
        train(model, dict(model.named_parameters()), images, labels, settings, seed=0, stage="s")
        weights.append(model.linear.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)
    assert max(model.batch_sizes) == 5


def test_evaluate_without_memory_for_one_image_raises(images, labels):
    with pytest.raises(TrainingError, match=r"at least one image \(evaluation\), got: CUDA out"):
        evaluate(LimitedMemory(capacity=0), images, labels, 4)


def test_micro_batching_catches_only_memory_errors():
    def attempt(size: int) -> int:
        if size > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        return size

    assert MicroBatching("test").run(9, attempt) == 2
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        MicroBatching("test").run(9, lambda size: torch.ones(2, 3) @ torch.ones(2, 3))
