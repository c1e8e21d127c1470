import threading

import pytest
import torch
from torch import nn

from glora_automl.training import (
    Converted,
    Joined,
    Reordered,
    TrainingSettings,
    Weighted,
    batches,
    evaluate,
    train,
    weights_of,
)


class Slow:
    """Images that are read on demand and record the indices and threads of the reads."""

    slow = True

    def __init__(self, images):
        self.images = images
        self.device = images.device
        self.indices = []
        self.threads = set()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.indices.append(index)
        self.threads.add(threading.current_thread())
        return self.images[index].clone()


@pytest.fixture
def images():
    return torch.randn(50, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.arange(50) % 3


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


def test_batches_of_slow_images_are_read_in_order_and_one_ahead(images):
    slow = Slow(images)
    slices = [slice(i, i + 10) for i in range(0, 50, 10)]
    iterator = batches(slow, slices)
    for number, batch in enumerate(slices):
        assert torch.equal(next(iterator), images[batch])
        assert number + 1 <= len(slow.indices) <= number + 2
    assert next(iterator, None) is None
    assert threading.main_thread() not in slow.threads


def test_batches_without_indices_yield_nothing(images):
    assert list(batches(Slow(images), [])) == []
    assert list(batches(images, [])) == []


def test_batches_with_an_error_in_the_thread_raise_it_at_that_batch(images):
    class Broken(Slow):
        def __getitem__(self, index):
            if index.start == 20:
                raise ValueError("torn")
            return super().__getitem__(index)

    iterator = batches(Broken(images), [slice(i, i + 10) for i in range(0, 50, 10)])
    next(iterator)
    next(iterator)
    with pytest.raises(ValueError, match="torn"):
        next(iterator)


def test_batches_closed_early_leave_no_thread(images):
    before = threading.active_count()
    iterator = batches(Slow(images), [slice(0, 10)] * 5)
    next(iterator)
    iterator.close()
    assert threading.active_count() == before


def test_train_and_evaluate_with_slow_images_give_the_same_results(images, labels):
    results = []
    for source in (images, Slow(images)):
        net = model()
        settings = TrainingSettings(epochs=3, batch_size=16, lr=1e-2)
        result = train(
            net, dict(net.named_parameters()), source, labels, settings, seed=0, stage="x"
        )
        score = evaluate(net, source, labels, batch_size=7)
        results.append((result.losses, score))
    assert results[0] == results[1]


def test_reordered_images_follow_the_order(images):
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    for source in (images, Slow(images)):
        reordered = Reordered(source, order)
        assert (len(reordered), reordered.device) == (50, images.device)
        assert torch.equal(reordered[3:9], images[order[3:9]])
        assert torch.equal(reordered[torch.tensor([4, 4])], images[order[[4, 4]]])


def test_converted_images_keep_their_order_and_number():
    images = Converted(torch.tensor([0.5, 1.5]), torch.bfloat16)
    assert len(images) == 2
    assert images.device == torch.device("cpu")
    assert images[torch.tensor([1, 0])].tolist() == [1.5, 0.5]


def test_joined_reads_on_an_accelerator_what_it_reads_on_a_cpu():
    joined = Joined(torch.randn(3, 1, 2, 2), torch.randn(4, 1, 2, 2))
    indices = torch.tensor([6, 0, 2, 3, 1])
    assert torch.equal(joined._merged(indices, indices >= 3), joined[indices])


def test_weights_follow_their_images():
    images = Weighted(torch.tensor([5, 6]), torch.tensor([1.0, 3.0]))
    joined = Joined(images, torch.tensor([7]))
    assert weights_of(joined).tolist() == [1, 3, 1]
    assert weights_of(Reordered(joined, torch.tensor([2, 1]))).tolist() == [1, 3]
    assert weights_of(Joined(torch.tensor([7]), torch.tensor([8]))) is None
