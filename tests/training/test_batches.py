import threading

import pytest
import torch
from torch import nn

from glora_automl.training import Reordered, TrainingSettings, batches, evaluate, train


class Slow:
    """Images that are made when they are asked for, and tell when and where."""

    slow = True

    def __init__(self, images):
        self.images = images
        self.device = images.device
        self.asked = []
        self.threads = set()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.asked.append(index)
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


def test_batches_come_in_order_and_one_is_made_ahead(images):
    slow = Slow(images)
    parts = [slice(i, i + 10) for i in range(0, 50, 10)]
    coming = batches(slow, parts)
    for number, part in enumerate(parts):
        assert torch.equal(next(coming), images[part])
        assert number + 1 <= len(slow.asked) <= number + 2
    assert next(coming, None) is None
    assert threading.main_thread() not in slow.threads


def test_no_batch_is_none(images):
    assert list(batches(Slow(images), [])) == []
    assert list(batches(images, [])) == []


def test_what_fails_in_the_thread_fails_where_the_batch_is_wanted(images):
    class Broken(Slow):
        def __getitem__(self, index):
            if index.start == 20:
                raise ValueError("torn")
            return super().__getitem__(index)

    coming = batches(Broken(images), [slice(i, i + 10) for i in range(0, 50, 10)])
    next(coming)
    next(coming)
    with pytest.raises(ValueError, match="torn"):
        next(coming)


def test_who_stops_early_leaves_no_thread(images):
    before = threading.active_count()
    coming = batches(Slow(images), [slice(0, 10)] * 5)
    next(coming)
    coming.close()
    assert threading.active_count() == before


def test_training_and_evaluation_see_no_difference(images, labels):
    found = []
    for given in (images, Slow(images)):
        net = model()
        settings = TrainingSettings(epochs=3, batch_size=16, lr=1e-2)
        result = train(
            net, dict(net.named_parameters()), given, labels, settings, seed=0, stage="x"
        )
        score = evaluate(net, given, labels, batch_size=7)
        found.append((result.losses, score))
    assert found[0] == found[1]


def test_another_order_is_that_of_the_index(images):
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    for given in (images, Slow(images)):
        other = Reordered(given, order)
        assert (len(other), other.device) == (50, images.device)
        assert torch.equal(other[3:9], images[order[3:9]])
        assert torch.equal(other[torch.tensor([4, 4])], images[order[[4, 4]]])


def test_the_decision_can_be_among_some_classes_alone():
    logits = torch.tensor([[5.0, 1.0, 2.0], [5.0, 2.0, 1.0]])[:, :, None, None]
    labels = torch.tensor([2, 1])
    assert evaluate(nn.Flatten(), logits, labels).accuracy == 0
    score = evaluate(nn.Flatten(), logits, labels, among=torch.tensor([1, 2]))
    assert score.accuracy == 1
    expected = nn.functional.cross_entropy(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    assert score.loss == pytest.approx(expected.item())
