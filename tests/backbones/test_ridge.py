from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn

from glora_automl.backbones import forward_latency, leave_one_out_accuracy
from glora_automl.backbones._ridge import N_REPEATS, PENALTIES


def one_by_one(features, labels):
    """The best accuracy over the penalties, from one training per image."""
    x = StandardScaler().fit_transform(features.double().numpy())
    y = labels.numpy()
    accuracies = []
    for penalty in PENALTIES:
        n_correct = 0
        for left_out in range(len(y)):
            kept = np.arange(len(y)) != left_out
            probe = RidgeClassifier(penalty).fit(x[kept], y[kept])
            n_correct += probe.predict(x[left_out : left_out + 1])[0] == y[left_out]
        accuracies.append(n_correct / len(y))
    return max(accuracies)


@pytest.mark.parametrize(("n_classes", "size"), [(2, 3), (3, 3), (4, 40)])
def test_leave_one_out_accuracy_equals_one_training_per_image(n_classes, size):
    generator = torch.Generator().manual_seed(size)
    labels = torch.arange(18) % n_classes
    features = torch.randn(18, size, generator=generator)
    features[:, 0] += 1.5 * labels
    found = leave_one_out_accuracy(features, labels)
    assert found == pytest.approx(one_by_one(features, labels))
    assert found < 1


def test_leave_one_out_accuracy_of_one_class_is_1():
    assert leave_one_out_accuracy(torch.randn(3, 2), torch.ones(3).long()) == 1


@pytest.mark.parametrize("name", ["cpu", "cuda", "mps", "xpu"])
def test_forward_latency_waits_for_any_accelerator_before_and_after_each_pass(monkeypatch, name):
    device, calls = torch.device(name), []
    monkeypatch.setattr(torch.accelerator, "synchronize", calls.append)

    class Model(nn.Module):
        def forward(self, image):
            calls.append("pass")

    forward_latency(Model(), SimpleNamespace(device=device))
    each = ["pass"] if name == "cpu" else [device, "pass", device]
    assert calls == each * (2 + N_REPEATS)


def test_forward_latency_keeps_modes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.BatchNorm1d(2)).train()
    assert forward_latency(model, torch.randn(1, 1, 2, 2)) > 0
    assert all(module.training for module in model)
    assert model[2].num_batches_tracked == 0
