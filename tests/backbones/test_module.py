import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from glora_automl.adapters import classifiers
from glora_automl.backbones import (
    BackboneSettings,
    check_outputs,
    copy_module,
    module_format,
    name_head,
    restore_module,
)
from glora_automl.errors import TaskError
from glora_automl.tasks import InputFormat, images_of

X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
VIT = {"embed_dim": 24, "depth": 1, "num_heads": 2}


class Net(nn.Module):
    """A classifier that registers its head first, and a layer that it does not use last."""

    def __init__(self, end=lambda logits: logits, classes=3):
        super().__init__()
        self.fc = nn.Linear(8, classes)
        self.hidden = nn.Linear(16, 8)
        self.same = nn.Linear(8, classes)
        self.aux = nn.Linear(8, classes)
        self.end = end

    def forward(self, x):
        features = self.hidden(x.flatten(1)).relu()
        logits = self.fc(features)
        self.same(features)  # called last, for nothing
        return self.end(logits)


class Positions(nn.Module):
    """A classifier whose head is applied at each position."""

    def __init__(self, head, last=False):
        super().__init__()
        self.last = last
        self.stem = nn.Conv2d(1, 6, 1)
        self.fc = head

    def forward(self, x):
        maps = self.stem(x).relu()
        if isinstance(self.fc, nn.Conv2d):
            return self.fc(maps).mean((2, 3))
        if self.last:
            return self.fc(maps.movedim(1, -1)).mean((1, 2))
        return self.fc(maps.flatten(2).mT).mean(1)


class Given(nn.Module):
    """A classifier whose logits are a function of features and head."""

    def __init__(self, logits, outputs=3):
        super().__init__()
        self.hidden = nn.Linear(16, 8)
        self.fc = nn.Linear(8, outputs)
        self.factor = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.logits = logits

    def forward(self, x):
        return self.logits(self, self.hidden(x.flatten(1)).relu())


def zeros(model):
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
    return model


HEADS = {
    "registered first, others unused": (Net, "fc"),
    "zero": (lambda: zeros(Net()), "fc"),
    "two classes": (lambda: Net(classes=2), "fc"),
    "log-softmax": (lambda: Net(lambda logits: logits.log_softmax(1)), "fc"),
    "temperature": (lambda: Net(lambda logits: logits / 0.07), "fc"),
    "bfloat16": (lambda: Net().bfloat16(), "fc"),
    "as wide as the layer before": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Linear(2, 2)),
        "2",
    ),
    "at each position": (lambda: Positions(nn.Linear(6, 3)), "fc"),
    "channels last": (lambda: Positions(nn.Linear(6, 3), last=True), "fc"),
    "channels last, as many classes as rows": (
        lambda: Positions(nn.Linear(6, 4), last=True),
        "fc",
    ),
    "1 x 1 convolution": (lambda: Positions(nn.Conv2d(6, 3, 1)), "fc"),
    "1 x 1 convolution, as many classes as columns": (
        lambda: Positions(nn.Conv2d(6, 4, 1)),
        "fc",
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_name_head_finds_the_layer_whose_output_the_model_returns(name):
    build, head = HEADS[name]
    for seed in range(5):
        torch.manual_seed(seed)
        model = build().train()
        name_head(model, None, X.to(next(model.parameters()).dtype))
        assert model.get_classifier() is model.get_submodule(head)
        assert model.training
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("model", "head", "hint"),
    [
        (Net(), "hidden", "got 'hidden'. Set `head` to 'fc'."),
        (Net(), "same", "got 'same'. Set `head` to 'fc'."),
        (Net(), "aux", "got 'aux'. Set `head` to 'fc'."),
        (Net(lambda logits: logits.softmax(1)), None, "got None. Set `head`, or return the"),
        (nn.Flatten(), None, "got None"),
    ],
)
def test_name_head_of_another_layer_raises_with_the_head(model, head, hint):
    with pytest.raises(TaskError) as caught:
        name_head(model, head, X)
    assert str(caught.value).startswith("head must name the layer whose output the model returns")
    assert hint in str(caught.value)
    assert not hasattr(model, "get_classifier")


FUNCTIONS = {
    "factor per class": (lambda m, x: m.fc(x) * m.factor, 3),
    "some of the classes": (lambda m, x: m.fc(x)[:, 1:4], 5),
    "functional": (lambda m, x: F.linear(x, m.fc.weight, m.fc.bias), 3),
    "cosine": (lambda m, x: 9 * F.normalize(x) @ F.normalize(m.fc.weight).T, 3),
}


@pytest.mark.parametrize("is_zero", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_name_head_takes_a_given_head_whose_output_is_changed(name, is_zero):
    model = Given(*FUNCTIONS[name])
    model = zeros(model) if is_zero else model
    model.hidden.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(TaskError, match=r"got None. Set `head`"):
        name_head(model, None, X)
    name_head(model, "fc", X)
    assert model.get_classifier() is model.fc
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["factor per class", "some of the classes"])
def test_name_head_of_a_layer_before_the_changed_head_raises(name):
    with pytest.raises(TaskError, match=r"got 'hidden'. Set `head`, or return"):
        name_head(Given(*FUNCTIONS[name]), "hidden", X)


def refusing(self, which):
    return self.fc


OWN = {
    "argument": (refusing, "got TypeError: .*'which'. Name a layer by `head`"),
    "None": (lambda self: None, "got NoneType from its get_classifier"),
    "text": (lambda self: "fc", "got str from its get_classifier"),
}


@pytest.mark.parametrize("name", OWN)
def test_name_head_with_a_wrong_get_classifier_needs_a_head(name):
    method, words = OWN[name]
    model = type("Own", (Net,), {"get_classifier": method})()
    with pytest.raises(TaskError, match=words) as caught:
        name_head(model, None, X)
    assert "\n" not in str(caught.value)
    name_head(model, "fc", X)
    assert classifiers(model) == [model.fc]


def test_name_head_takes_a_block_that_ends_in_the_logits():
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3)))
    for head in ("1", "1.1"):
        name_head(model, head, X)
        assert model.get_classifier() is model.get_submodule(head)
    with pytest.raises(TaskError, match=r"got '1.0'. Set `head` to '1.1'."):
        name_head(model, "1.0", X)


@pytest.mark.parametrize("distilled", [False, True])
def test_name_head_keeps_the_classifier_of_timm(distilled):
    name = "deit_tiny_distilled_patch16_224" if distilled else "test_vit"
    model = timm.create_model(name, img_size=32, num_classes=3)
    expected = classifiers(model)
    assert len(expected) == 1 + distilled
    name_head(model, None, torch.randn(2, 3, 32, 32))
    assert "get_classifier" not in vars(model)
    assert classifiers(model) == expected


def test_name_head_of_a_model_without_classifier_raises():
    model = timm.create_model("test_vit", img_size=32, num_classes=0)
    with pytest.raises(TaskError, match=r"got Identity .*num_classes.*`head`"):
        name_head(model, None, torch.randn(2, 3, 32, 32))


def test_name_head_of_a_classifier_that_the_model_does_not_use_raises():
    model = timm.create_model("test_vit", img_size=32, num_classes=3)
    model.head, own = nn.Identity(), model.head
    model = nn.Sequential(model, nn.Linear(64, 3))
    model.get_classifier = lambda: own
    with pytest.raises(TaskError, match=r"got its get_classifier. Set `head` to '1'"):
        name_head(model, None, torch.randn(2, 3, 32, 32))
    name_head(model, "1", torch.randn(2, 3, 32, 32))
    assert model.get_classifier() is model[1]


def test_copy_module_leaves_the_module_unchanged_and_can_be_undone():
    model = Net()
    copied = copy_module(model)
    name_head(copied, None, X)
    assert copied.get_classifier() is copied.fc is not model.fc
    assert not hasattr(restore_module(copied), "get_classifier")


def test_copy_module_of_a_compiled_module_has_its_head():
    model = Net()
    copied = copy_module(torch.compile(model, backend="eager"))
    assert type(copied) is Net
    assert torch.equal(copied(X), model(X))
    name_head(copied, None, X)
    assert copied.get_classifier() is copied.fc


def test_copy_module_that_cannot_be_copied_raises_one_line():
    model = Net()
    model.normed = model.hidden.weight / 2  # as old weight norm keeps it
    with pytest.raises(TaskError, match=r"copy\.deepcopy .*weight_norm") as caught:
        copy_module(model)
    assert "\n" not in str(caught.value)


FORMATS = {
    "position embedding before the stem": (
        "samvit_base_patch16", {**VIT, "img_size": 32}, 3, (3, 32, 32),
    ),
    "no convolution": ("naflexvit_base_patch16_gap", VIT, 3, (3, 384, 384)),
    "one channel": ("test_vit", {"in_chans": 1}, 1, (1, 160, 160)),
    "grey images": ("test_vit", {}, 1, (3, 160, 160)),
    "rearranged pixels": ("tresnet_m", {}, 3, (3, 224, 224)),
    "size of the images alone": ("coatnet_pico_rw_224", {"img_size": 64}, 3, (3, 64, 64)),
    "any size": ("test_resnet", {}, 3, (3, 160, 160)),
}  # fmt: skip


def pictures(channels, side=64):
    pixels = np.zeros((2, side, side, channels), dtype=np.uint8)
    return images_of((pixels, [0, 1]), "train")


@pytest.mark.parametrize("name", FORMATS)
def test_module_format_is_one_that_the_model_takes(name):
    timm_name, kwargs, channels, size = FORMATS[name]
    model = timm.create_model(timm_name, num_classes=2, **kwargs)
    settings = BackboneSettings(model=timm_name)
    target = module_format(model, settings, pictures(channels))
    assert target.size == size
    assert len(target.mean) == size[0]
    assert check_outputs(model, pictures(channels), "train", target, 2).shape == (2, *size)


def test_module_format_takes_a_mean_of_the_models_channels():
    model = timm.create_model("test_vit", num_classes=2, in_chans=1)
    settings = BackboneSettings(model="test_vit", mean=(0.25,), std=(0.5,))
    assert module_format(model, settings, pictures(1)).mean == (0.25,)


def test_module_format_of_another_size_raises():
    model = timm.create_model("coatnet_pico_rw_224", num_classes=2, img_size=96)
    settings = BackboneSettings(model="coatnet_pico_rw_224")
    with pytest.raises(TaskError, match=r"model must take images of 224 x 224, .* or of 64 x 64"):
        module_format(model, settings, pictures(3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_check_outputs_of_a_module_of_another_type_names_the_conversion(dtype):
    images = images_of((X, [0, 1]), "train")
    target = module_format(Net(), BackboneSettings(model="test_vit"), images)
    with pytest.raises(TaskError, match="Convert `model` by its method float"):
        check_outputs(Net().to(dtype), images, "train", target, 3)


def test_check_outputs_of_images_with_channels_last_names_the_axes():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    images = images_of((torch.rand(2, 8, 8, 3), [0, 1]), "validation")
    target = InputFormat((8, 8, 3), (0.0,) * 8, (1.0,) * 8)
    with pytest.raises(TaskError, match=r"validation must be .*\(n, channels, height, width\)"):
        check_outputs(model, images, "validation", target, 2)


def test_check_outputs_of_probabilities_raises():
    images = images_of((X, [0, 1]), "train")
    target = module_format(Net(), BackboneSettings(model="test_vit"), images)
    with pytest.raises(TaskError, match=r"model must return logits, got probabilities.*softmax"):
        check_outputs(zeros(Net(lambda logits: logits.softmax(1))), images, "train", target, 3)
    check_outputs(Net(lambda logits: logits.log_softmax(1)), images, "train", target, 3)
