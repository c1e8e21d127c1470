import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from glora_automl.adapters import attach, classifiers, linear_shapes, unadaptable
from glora_automl.architecture import Choice, LayerShape
from glora_automl.errors import LayerError
from tests import models

SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 16}
EVERY_MODEL = pytest.mark.parametrize("name", list(models.MODELS))


class TestLinearShapes:
    def test_linear_shapes_vit_has_its_layers_in_order(self):
        assert linear_shapes(models.backbone("vit")) == {
            f"blocks.{i}.{name}": shape
            for i in range(2)
            for name, shape in {
                "attn.qkv": LayerShape(96, 32),
                "attn.proj": LayerShape(32, 32),
                "mlp.fc1": LayerShape(128, 32),
                "mlp.fc2": LayerShape(32, 128),
            }.items()
        }

    @EVERY_MODEL
    def test_linear_shapes_has_every_linear_layer_but_the_classifier(self, name):
        model = models.backbone(name)
        linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
        pointwise = [m for m in model.modules() if getattr(m, "kernel_size", None) == (1, 1)]
        linear |= {n for n, m in model.named_modules() if m in pointwise}
        heads = {n for n in linear if n.startswith("head")}
        assert heads
        assert set(linear_shapes(model)) == linear - heads

    def test_linear_shapes_distilled_model_omits_both_classifiers(self):
        model = models.backbone("distilled")
        assert classifiers(model) == [model.head, model.head_dist]
        assert not {"head", "head_dist"} & set(linear_shapes(model))

    def test_linear_shapes_marks_layers_without_bias(self):
        bare = {n for n, s in linear_shapes(models.backbone("swin")).items() if not s.bias}
        assert bare == {f"layers.{i}.downsample.reduction" for i in (1, 2, 3)}
        bare = {
            n for n, s in linear_shapes(models.backbone("vit-no-qkv-bias")).items() if not s.bias
        }
        assert bare == {"blocks.0.attn.qkv", "blocks.1.attn.qkv"}

    def test_linear_shapes_model_without_classifier_has_all_layers(self):
        model = timm.create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, **models.VIT
        )
        assert len(linear_shapes(model)) == 8

    def test_linear_shapes_plain_module_has_all_layers(self):
        model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
        assert classifiers(model) == []
        assert linear_shapes(model) == {"0": LayerShape(4, 8), "2": LayerShape(2, 4, False)}

    def test_linear_shapes_model_without_layers_raises(self):
        with pytest.raises(LayerError, match="got Sequential"):
            linear_shapes(nn.Sequential(nn.ReLU()))

    def test_linear_shapes_no_adaptable_layer_raises_with_reasons(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2))
        with pytest.raises(
            LayerError, match=r"0: a convolution over 3 x 3.*2: a grouped"
        ) as caught:
            linear_shapes(model)
        assert "\n" not in str(caught.value)


class Overriding(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


class Inherited(nn.Linear):
    pass


class Reader(nn.Module):
    """Calls layers, reads their weights, or leaves them unused."""

    def __init__(self):
        super().__init__()
        self.called = nn.Linear(4, 4)
        self.called_bare = nn.Linear(4, 4, bias=False)
        self.read = nn.Linear(4, 4, bias=False)
        self.own_bias = nn.Parameter(torch.zeros(4))
        self.read_with_bias = nn.Linear(4, 4)
        self.asked = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        x = self.called_bare(self.called(x).to(self.asked.weight.dtype))
        x = F.linear(x, self.read.weight, bias=self.own_bias)
        return F.linear(x, weight=self.read_with_bias.weight, bias=self.read_with_bias.bias)


class TestUsage:
    def test_linear_shapes_example_finds_unused_layers_and_biases(self):
        model = Reader().train()
        shapes = linear_shapes(model, example=torch.zeros(1, 4))
        assert {name: shape[2:] for name, shape in shapes.items()} == {
            "called": (True, True),
            "called_bare": (False, True),
            "read": (False, False),
            "read_with_bias": (True, True),
        }
        assert unadaptable(model, torch.zeros(1, 4)) == {
            "asked": "unused by the model",
            "unused": "unused by the model",
        }
        assert unadaptable(model) == {}
        assert all(module.training for module in model.modules())
        assert not any(module._forward_hooks for module in model.modules())

    def test_linear_shapes_multihead_attention_uses_the_projections_bias(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

            def forward(self, x):
                return self.attention(x, x, x, need_weights=False)[0]

        model, example = Block(), torch.zeros(1, 3, 4)
        shapes = linear_shapes(model, example=example)
        assert shapes == {"attention.out_proj": LayerShape(4, 4)}
        assert unadaptable(model, example) == {"attention": "of class MultiheadAttention"}

    @pytest.mark.parametrize(
        ("model", "kwargs", "leaf"),
        [
            ("beit_base_patch16_224", models.VIT, "attn.qkv"),
            ("eva02_tiny_patch14_224", models.VIT, "attn.qkv"),
            (
                "swinv2_tiny_window8_256",
                {
                    "img_size": 32,
                    "window_size": 4,
                    "embed_dim": 16,
                    "depths": (1, 1),
                    "num_heads": (1, 2),
                },
                "attn.qkv",
            ),
        ],
    )
    def test_linear_shapes_timm_model_with_its_own_bias_takes_no_bias(self, model, kwargs, leaf):
        model = timm.create_model(model, num_classes=3, **kwargs)
        shapes = linear_shapes(model, example=torch.zeros(1, 3, 32, 32))
        assert set(shapes) == set(linear_shapes(model))
        own = {name for name, shape in shapes.items() if not shape.takes_bias}
        assert own == {name for name in shapes if name.endswith(leaf)}


class TestUnadaptable:
    @pytest.mark.parametrize(
        ("layer", "reason"),
        [
            (nn.Linear(4, 4), None),
            (Inherited(4, 4), None),
            (Overriding(4, 4), "of class Overriding, which overrides Linear.forward"),
            (nn.Conv2d(4, 4, 1), None),
            (nn.Conv2d(4, 4, 1, padding="same"), None),
            (nn.Conv2d(4, 4, (1, 3)), "a convolution over 1 x 3 pixels"),
            (nn.Conv2d(4, 4, 1, stride=2), "a 1 x 1 convolution with stride or padding"),
            (nn.Conv2d(4, 4, 1, padding=1), "a 1 x 1 convolution with stride or padding"),
            (nn.Conv2d(4, 4, 3, groups=4), "a grouped convolution"),
            (timm.layers.StdConv2d(4, 4, 1), "of class StdConv2d, which overrides Conv2d.forward"),
            (nn.Conv1d(4, 4, 1), "of class Conv1d"),
            (nn.LSTM(4, 4), "of class LSTM"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_unadaptable_layer_has_a_reason(self, layer, reason):
        model = nn.Sequential(layer, nn.Linear(4, 4))
        found = unadaptable(model)
        assert ("0" in found) == (reason is not None) == ("0" not in linear_shapes(model))
        assert reason is None or found["0"].startswith(reason)

    @pytest.mark.parametrize(
        "register",
        [
            lambda layer: layer.register_forward_hook(lambda *_: None),
            lambda layer: layer.register_forward_pre_hook(lambda *_: None),
            lambda layer: layer.register_full_backward_hook(lambda *_: None),
            lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
        ],
        ids=["forward", "before forward", "backward", "before backward"],
    )
    def test_unadaptable_layer_with_hooks_until_they_are_removed(self, register):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        hook = register(model[0])
        assert unadaptable(model) == {"0": "with hooks, which its adapter would not call"}
        assert set(linear_shapes(model, example=torch.zeros(1, 4))) == {"1"}
        with pytest.raises(LayerError, match=r"got '0' \(with hooks"):
            attach(model, {"0": {"E": [Choice("vector")]}})
        hook.remove()
        assert unadaptable(model) == {}

    def test_unadaptable_layer_with_a_forward_of_its_own(self):
        model = nn.Sequential(nn.Linear(4, 4))
        model[0].forward = torch.relu
        assert unadaptable(model)["0"].endswith("which overrides Linear.forward")

    def test_unadaptable_has_the_classifier(self):
        found = unadaptable(models.backbone("distilled"))
        assert found == {
            "patch_embed.proj": "a convolution over 8 x 8 pixels",
            "head": "the classifier, which is always trained",
            "head_dist": "the classifier, which is always trained",
        }

    def test_linear_shapes_convolutional_classifier_is_omitted(self):
        model = timm.create_model("levit_conv_128s", num_classes=3)
        assert not [name for name in linear_shapes(model) if name.startswith("head")]
        assert "stages.0.blocks.0.attn.qkv.linear" in linear_shapes(model)
