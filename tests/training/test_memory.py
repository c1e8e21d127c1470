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


def test_evaluate_with_kept_sizes_does_not_run_out_of_memory_again(images, labels, caplog):
    model, kept = LimitedMemory(capacity=5), MicroBatching("evaluation")
    first = evaluate(model, images, labels, 16, micro_batching=kept)
    caplog.clear()
    model.batch_sizes.clear()
    assert evaluate(model, images, labels, 16, micro_batching=kept) == first
    assert model.batch_sizes == [4] * 5
    assert not caplog.records


class LimitedImages:
    """Images of which a device can read a number at once."""

    device = torch.device("cpu")

    def __init__(self, images: torch.Tensor, capacity: int) -> None:
        self.images, self.capacity = images, capacity

    def __getitem__(self, index):
        found = self.images[index]
        if len(found) > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return found

    def __len__(self) -> int:
        return len(self.images)


def test_evaluate_reads_images_in_micro_batches(images, labels):
    model = LimitedMemory(capacity=99)
    score = evaluate(model, LimitedImages(images, capacity=7), labels, 16)
    assert score == evaluate(LimitedMemory(capacity=99), images, labels, 16)
    assert model.batch_sizes == [4] * 5


def test_train_draws_one_augmentation_for_all_attempts(images, labels):
    weights = []
    for capacity in (99, 7):
        model = LimitedMemory(capacity)
        settings = TrainingSettings(epochs=2, batch_size=10, lr=0.1, shift=0.5, cutmix=1.0)
        train(model, dict(model.named_parameters()), images, labels, settings, seed=0, stage="s")
        weights.append(model.linear.weight.detach().clone())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "message", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "MPS backend out of memory (MPS allocated: 1 GB)"]
)  # fmt: skip
def test_micro_batching_catches_memory_errors_without_a_class_of_their_own(message):
    def attempt(size: int) -> int:
        if size > 2:
            raise RuntimeError(message)
        return size

    assert MicroBatching("test").run(9, attempt) == 2
