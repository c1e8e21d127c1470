import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn
from torch.nn import functional as F

from glora_automl.errors import TrainingError
from glora_automl.training import TrainingSettings, Weighted, train
from glora_automl.training._step import class_weights, create_loss, cross_entropy
from tests.training.runs import data


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_class_weights_are_those_of_scikit_learn_and_average_to_1(labels):
    y = torch.tensor(labels)
    weights = class_weights(y, 6)
    assert weights[y].numpy() == pytest.approx(compute_sample_weight("balanced", labels))
    assert weights[y].mean().item() == pytest.approx(1, rel=1e-5)
    assert weights[5] == 1


def test_create_loss_without_weights_is_the_cross_entropy():
    assert create_loss(None) is cross_entropy


def test_create_loss_of_parts_adds_up_to_that_of_the_batch():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 0, 0, 0, 1, 2])
    loss = create_loss(class_weights(labels, 3))
    parts = [loss(nn.Identity(), logits[p], labels[p]) * len(labels[p]) for p in
             (slice(0, 4), slice(4, 6))]  # fmt: skip
    assert sum(parts) / 6 == pytest.approx(loss(nn.Identity(), logits, labels).item(), rel=1e-6)


def test_create_loss_of_class_probabilities_weighs_each_class():
    logits, weights = torch.randn(2, 3), torch.tensor([0.5, 1.0, 2.0])
    mixed = torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]])
    by_hand = -(mixed * weights * logits.log_softmax(1)).sum(1).mean()
    loss = create_loss(weights)
    assert loss(nn.Identity(), logits, mixed).item() == pytest.approx(by_hand.item())
    indices = torch.tensor([2, 0])
    same = loss(nn.Identity(), logits, F.one_hot(indices, 3).float())
    assert loss(nn.Identity(), logits, indices).item() == pytest.approx(same.item())


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_train_with_class_weights_favours_the_small_class(mixup):
    images, _ = data(40)
    labels = torch.tensor([0] * 36 + [1] * 4)

    def recall(class_weight):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        how = TrainingSettings(epochs=3, lr=0.01, batch_size=40, mixup=mixup,
                               class_weight=class_weight)  # fmt: skip
        train(model, dict(model.named_parameters()), images, labels, how, seed=0, stage="t")
        return model(images).softmax(1)[36:, 1].mean().item()

    assert np.isfinite(recall("balanced"))
    assert recall("balanced") > recall("none") + 0.02


def test_train_with_a_weight_per_class_needs_one_for_each():
    with pytest.raises(TrainingError, match="one weight for each of the 3 classes, got 2"):
        class_weights(torch.tensor([0, 1, 2]), 3, (1.0, 2.0))
    assert class_weights(torch.tensor([0, 1]), 2, (1.0, 2.0)).tolist() == [1, 2]
    assert class_weights(torch.tensor([0, 1]), 2, "none") is None


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.4, "cutmix": 1.0}])
def test_train_with_equal_weights_equals_a_training_without(changes):
    images, labels = torch.randn(12, 1, 2, 2), torch.arange(12) % 3

    def trained(batches):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        recipe = TrainingSettings(epochs=3, batch_size=5, lr=0.1, **changes)
        train(model, dict(model.named_parameters()), batches, labels, recipe, seed=0, stage="a")
        return model[1].weight

    weighted = trained(Weighted(images, torch.full((12,), 7.0)))
    assert torch.allclose(weighted, trained(images), atol=1e-6)
