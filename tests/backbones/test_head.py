import numpy as np
import pytest
import timm
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from glora_automl.backbones import fit_head, frozen_features
from glora_automl.training import seeded
from tests.backbones.models import SMALL


class Features(nn.Module):
    """A classifier of the images' own pixels."""

    def __init__(self, classes, bias=True):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12, classes, bias=bias)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(self.drop(x.flatten(1)))


def data(count=40, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randn(count, 3, 2, 2, generator=generator) * 3 + 5
    return images + labels[:, None, None, None], labels


def expected(images, labels):
    """scikit-learn's class probabilities for the same images."""
    x, y = images.flatten(1).double().numpy(), labels.numpy()
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(x, y)
    return probe.predict_proba(x)


def test_fit_head_of_logits_that_are_not_its_outputs_leaves_it():
    images, labels = data()
    model = Features(5)
    model.register_forward_hook(lambda model, args, logits: logits[:, 2:])
    before = model.head.weight.clone()
    assert not fit_head(model, images, labels)
    assert torch.equal(model.head.weight, before)


def probabilities(model, images):
    with torch.no_grad():
        return model.eval()(images).softmax(1).double().numpy()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_fit_head_equals_logistic_regression_on_the_features(classes):
    images, labels = data(classes=classes)
    model = Features(classes)
    assert fit_head(model, images, labels)
    found = probabilities(model, images)
    np.testing.assert_allclose(found, expected(images, labels), atol=1e-4)


def test_fit_head_with_class_weights_gives_the_small_class_more_images():
    images, labels = data(classes=2)
    labels[: len(labels) // 2] = 0
    predicted = []
    for class_weight in ("none", "balanced"):
        model = Features(2)
        assert fit_head(model, images, labels, class_weight=class_weight)
        predicted.append(probabilities(model, images)[:, 1].sum())
    assert predicted[1] > predicted[0]


def test_fit_head_of_a_timm_model_equals_logistic_regression_on_its_features():
    with seeded(0):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **SMALL)
    images, labels = torch.randn(30, 1, 8, 8), torch.arange(30) % 3
    before = {n: p.clone() for n, p in model.state_dict().items() if not n.startswith("head.")}
    model.eval()
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    assert fit_head(model, images, labels)
    np.testing.assert_allclose(probabilities(model, images), expected(features, labels), atol=1e-4)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_frozen_features_are_those_before_the_classifier():
    with seeded(0):
        model = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    images, calls = torch.randn(300, 1, 32, 32), []
    found = frozen_features(model, images, 290, lambda: calls.append(1))
    model.eval()
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images[:290]), pre_logits=True)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)
    assert len(calls) > 1


def test_frozen_features_out_of_memory_are_the_same():
    class Limited(Features):
        def forward(self, x):
            scores = super().forward(x)
            if len(x) > 3:  # after the classifier has seen the images
                raise torch.OutOfMemoryError
            return scores

    images, labels = data()
    model = Limited(3)
    found = frozen_features(model, images, len(labels))
    assert torch.equal(found, images.flatten(1).double())


@pytest.mark.parametrize("present", [[0, 2, 4], [1, 3]])
def test_fit_head_absent_classes_are_improbable(present):
    images, labels = data(classes=len(present))
    labels = torch.tensor(present)[labels]
    model = Features(6)
    assert fit_head(model, images, labels)
    found = probabilities(model, images)
    absent = sorted({*range(6)} - {*present})
    assert found[:, absent].sum(1).max() < 0.1
    rest = found[:, present] / found[:, present].sum(1, keepdims=True)
    np.testing.assert_allclose(rest, expected(images, labels), atol=1e-4)
    assert not model.head.weight[absent].any()


@pytest.mark.parametrize("case", ["no bias", "one class", "no head", "two heads", "no linear head"])
def test_fit_head_other_classifiers_stay(case):
    images, labels = data()
    model = Features(3, bias=case != "no bias")
    if case == "one class":
        labels = torch.ones_like(labels)
    elif case == "no linear head":
        model.head = nn.Sequential(nn.Linear(12, 3))
    elif case == "no head":
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    elif case == "two heads":
        model.get_classifier = lambda: (model.head, model.head)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not fit_head(model, images, labels)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_fit_head_of_features_at_each_position_stays():
    class Positions(Features):
        def forward(self, x):
            return self.head(x.flatten(1)[:, None].expand(-1, 4, -1)).mean(1)

    images, labels = data()
    model = Positions(3)
    before = model.head.weight.clone()
    assert not fit_head(model, images, labels)
    assert torch.equal(model.head.weight, before)


def test_fit_head_keeps_modes_dtype_and_leaves_no_hook():
    images, labels = data()
    model = Features(3).bfloat16().train()
    assert fit_head(model, images.bfloat16(), labels)
    assert model.training
    assert model.drop.training
    assert model.head.weight.dtype == torch.bfloat16
    assert not model.head._forward_pre_hooks
    assert model.head.weight.requires_grad


def test_fit_head_repeats_itself():
    images, labels = data()
    one, other = Features(3), Features(3)
    assert fit_head(one, images, labels)
    assert fit_head(other, images, labels)
    assert torch.equal(one.head.weight, other.head.weight)
    assert torch.equal(one.head.bias, other.head.bias)
