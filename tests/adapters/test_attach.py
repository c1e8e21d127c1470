import copy

import pytest
import torch
from torch import nn

from glora_automl.adapters import (
    GLoRALinear,
    activate,
    adapted_layers,
    attach,
    detach,
    linear_shapes,
)
from glora_automl.architecture import Architecture, Choice, LayerChoices
from glora_automl.errors import ArchitectureError, LayerError
from tests import models
from tests.adapters import reference

EVERY_MODEL = pytest.mark.parametrize("name", list(models.MODELS))
E_VECTOR = {"E": [Choice("vector")]}


def snapshot(model: nn.Module) -> dict[str, tuple[int, torch.Tensor]]:
    """Return identity and bits of all parameters and buffers, by name."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: (id(tensor), tensor.detach().clone()) for name, tensor in tensors}


def assert_restored(model: nn.Module, before: dict[str, tuple[int, torch.Tensor]]) -> None:
    after = snapshot(model)
    assert list(after) == list(before)
    for name in before:
        assert after[name][0] == before[name][0], name
        assert torch.equal(after[name][1], before[name][1]), name


class Shared(nn.Module):
    """One layer under two names, called twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, dtype=torch.float64)
        self.between = nn.Sequential(nn.ReLU(), nn.Linear(4, 4, bias=False, dtype=torch.float64))
        self.second = self.first

    def forward(self, x):
        return self.second(self.between(self.first(x)))


class TestIdentityAtInitialisation:
    @EVERY_MODEL
    @torch.no_grad()
    def test_activate_random_architecture_keeps_the_backbones_outputs(self, name):
        expected = models.backbone(name, torch.float64)(models.images(torch.float64))
        model, shapes = models.adapted(name, torch.float64, trained=False)
        for seed in range(8):
            activate(model, models.random_architecture(shapes, seed))
            actual = model(models.images(torch.float64))
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)

    @EVERY_MODEL
    @torch.no_grad()
    def test_activate_random_architecture_in_float32_keeps_the_backbones_outputs(self, name):
        expected = models.backbone(name)(models.images())
        model, shapes = models.adapted(name, trained=False)
        for seed in range(3):
            activate(model, models.random_architecture(shapes, seed))
            error = (model(models.images()) - expected).norm() / expected.norm()
            assert error <= 1e-6

    @EVERY_MODEL
    @torch.no_grad()
    def test_attach_changes_no_bit_of_the_outputs(self, name):
        expected = models.backbone(name)(models.images())
        model, _ = models.adapted(name, trained=False)
        assert torch.equal(model(models.images()), expected)

    @EVERY_MODEL
    @torch.no_grad()
    def test_inactive_parameters_do_not_change_the_outputs(self, name):
        expected = models.backbone(name)(models.images())
        model, _ = models.adapted(name, trained=True)
        assert torch.equal(model(models.images()), expected)


class TestAttach:
    def test_attach_replaces_each_named_layer(self):
        model = models.backbone("vit")
        qkv = model.blocks[1].attn.qkv
        layers = attach(model, {"blocks.1.attn.qkv": E_VECTOR})
        assert list(layers) == ["blocks.1.attn.qkv"]
        assert model.blocks[1].attn.qkv is layers["blocks.1.attn.qkv"]
        assert layers["blocks.1.attn.qkv"].linear is qkv
        assert type(model.blocks[0].attn.qkv) is nn.Linear
        assert adapted_layers(model) == layers

    def test_attach_same_seed_gives_the_same_parameters(self):
        def state() -> dict[str, torch.Tensor]:
            return models.adapted("vit", trained=False)[0].state_dict()

        one, other = state(), state()
        assert all(torch.equal(one[key], other[key]) for key in one)
        rights = [t for key, t in one.items() if key.endswith("attn.qkv.B_right")]
        assert len(rights) == 2
        assert not torch.equal(*rights)

    def test_attach_layer_with_two_names_replaces_both(self):
        model = Shared()
        layers = attach(model, {"first": E_VECTOR})
        assert model.first is model.second is layers["first"]
        assert list(adapted_layers(model)) == ["first"]

    @pytest.mark.parametrize(
        "unknown", ["blocks.0.attn.qvk", "blocks.7.attn.qkv", "blocks.0.norm1", "blocks.0", "QKV"]
    )
    def test_attach_unknown_layer_raises_with_known_names(self, unknown):
        model = models.backbone("vit")
        before = snapshot(model)
        with pytest.raises(LayerError) as caught:
            attach(model, {"blocks.0.attn.proj": E_VECTOR, unknown: E_VECTOR})
        assert repr(unknown) in str(caught.value)
        assert "blocks.0.attn.qkv" in str(caught.value)
        assert adapted_layers(model) == {}
        assert_restored(model, before)

    def test_attach_adapted_layer_raises(self):
        model = models.backbone("vit")
        layers = attach(model, {"blocks.0.attn.qkv": E_VECTOR})
        with pytest.raises(LayerError, match=r"blocks\.0\.attn\.qkv"):
            attach(model, {"blocks.0.attn.qkv": E_VECTOR})
        assert adapted_layers(model) == layers

    @pytest.mark.parametrize(
        "choices",
        [{"B": [Choice("lora", 33)]}, {"E": [Choice("lora", 1)]}, {"C": [Choice("scalar")]}],
    )
    def test_attach_choice_that_does_not_fit_raises_and_keeps_the_model(self, choices):
        model = models.backbone("vit")
        before = snapshot(model)
        with pytest.raises(ArchitectureError, match=r"^blocks\.0\.attn\.proj: "):
            attach(model, {"blocks.0.attn.qkv": E_VECTOR, "blocks.0.attn.proj": choices})
        assert adapted_layers(model) == {}
        assert_restored(model, before)

    def test_attach_d_without_bias_raises(self):
        model = models.backbone("vit-no-qkv-bias")
        with pytest.raises(ArchitectureError, match="without bias"):
            attach(model, {"blocks.0.attn.qkv": {"D": [Choice("vector")]}})

    def test_attach_module_that_reads_the_weight_gets_the_effective_one(self):
        attention = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
        model = nn.ModuleDict({"attention": attention})
        x = torch.randn(2, 3, 8, dtype=torch.float64)
        choices = {t: [Choice("vector")] for t in "ABCDE"}
        layer = attach(model, {"attention.out_proj": choices})["attention.out_proj"]
        models.randomise(model)
        activate(model, Architecture({"attention.out_proj": LayerChoices(*[Choice("vector")] * 5)}))
        out = attention(x, x, x, need_weights=False)[0]

        plain = copy.deepcopy(attention)
        weight, bias = reference.weight_and_bias(layer)
        plain.out_proj = nn.Linear(8, 8, dtype=torch.float64)
        plain.out_proj.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        expected = plain(x, x, x, need_weights=False)[0]
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


class TestActivate:
    @EVERY_MODEL
    def test_active_parameters_equal_the_architectures_count(self, name):
        model, shapes = models.adapted(name)
        layers = adapted_layers(model)
        for seed in range(5):
            architecture = models.random_architecture(shapes, seed)
            activate(model, architecture)
            parts = [p for layer in layers.values() for p in layer.active_parameters().values()]
            assert sum(part.numel() for part in parts) == architecture.count(shapes)
            assert {n: layer.active for n, layer in layers.items()} == dict(architecture)

    @EVERY_MODEL
    def test_gradients_reach_only_active_parameters(self, name):
        model, shapes = models.adapted(name)
        layers = adapted_layers(model)
        frozen = [p for layer in layers.values() for p in layer.linear.parameters()]
        for seed in range(2):
            model.zero_grad()
            activate(model, models.random_architecture(shapes, seed))
            model(models.images()).square().sum().backward()
            for path, layer in layers.items():
                active = set(layer.active_parameters())
                reached = {
                    n for n, p in layer.named_parameters(recurse=False) if p.grad is not None
                }
                assert reached == active, path
            assert all(p.grad is None and not p.requires_grad for p in frozen)

    @pytest.fixture
    def model(self):
        model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
        attach(model, {n: {"B": [Choice("lora", 2)], "E": [Choice("vector")]} for n in "02"})
        activate(model, Architecture.parse("0: B=lora-2\n2: E=vector"))
        return model

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("0: E=vector", "2"),
            ("0: E=vector\n2: none\n4: none", "4"),
            ("0: E=vector\nlayer.2: none", "2"),
            ("", "0"),
        ],
    )
    def test_activate_other_layers_raises_and_keeps_the_model(self, model, text, fault):
        with pytest.raises(ArchitectureError, match="exactly the 2 adapted layers") as caught:
            activate(model, Architecture.parse(text))
        assert repr(fault) in str(caught.value)
        assert str(model[0].active) == "B=lora-2"
        assert str(model[2].active) == "E=vector"

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("0: E=vector\n2: B=lora-1", "2: B must be one of lora-2, none, got 'lora-1'"),
            ("0: E=vector\n2: D=vector", "2: D must be one of none, got 'vector'"),
            ("2: none\n0: A=scalar", "0: A must be one of none, got 'scalar'"),
        ],
    )
    def test_activate_unknown_choice_raises_and_keeps_the_model(self, model, text, fault):
        x = torch.randn(2, 6)
        before = model(x)
        with pytest.raises(ArchitectureError) as caught:
            activate(model, Architecture.parse(text))
        assert fault in str(caught.value)
        assert str(model[0].active) == "B=lora-2"
        assert str(model[2].active) == "E=vector"
        assert torch.equal(model(x), before)


class TestDetach:
    @EVERY_MODEL
    def test_detach_after_training_restores_the_same_layers(self, name):
        model = models.backbone(name)
        before, keys = snapshot(model), list(model.state_dict())
        modules = {n: id(m) for n, m in model.named_modules()}
        shapes = linear_shapes(model)
        attach(model, models.choices_of(shapes), torch.Generator().manual_seed(0))
        models.randomise(model)
        activate(model, models.random_architecture(shapes, 0))
        adapters = [p for m in adapted_layers(model).values() for p in m.parameters(recurse=False)]
        optimizer = torch.optim.AdamW(adapters, lr=0.1, weight_decay=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(models.images()).square().sum().backward()
            optimizer.step()

        assert detach(model) is model
        assert adapted_layers(model) == {}
        assert list(model.state_dict()) == keys
        assert {n: id(m) for n, m in model.named_modules()} == modules
        assert_restored(model, before)

    def test_detach_shared_layer_restores_both_names(self):
        model = Shared()
        linear, before = model.first, snapshot(model)
        attach(model, {"first": E_VECTOR, "between.1": E_VECTOR})
        detach(model)
        assert model.first is model.second is linear
        assert_restored(model, before)

    def test_detach_plain_model_does_nothing(self):
        model = models.backbone("vit")
        before = snapshot(model)
        assert detach(model) is model
        assert_restored(model, before)

    def test_detach_allows_another_attach(self):
        model, shapes = models.adapted("vit")
        detach(model)
        attach(model, models.choices_of(shapes))
        assert all(type(m.linear) is nn.Linear for m in adapted_layers(model).values())
        assert all(isinstance(m, GLoRALinear) for m in adapted_layers(model).values())
        assert list(adapted_layers(model)) == list(shapes)


def test_model_that_is_a_layer_raises():
    linear = nn.Linear(4, 2)
    with pytest.raises(LayerError):
        attach(linear, {"": {"E": [Choice("vector")]}})
    with pytest.raises(LayerError):
        linear_shapes(linear)


def test_detach_and_failed_attach_keep_requires_grad():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
    model[1].bias.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    attach(model, {"0": {"E": [Choice("vector")]}, "1": {"E": [Choice("vector")]}})
    detach(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    with pytest.raises(ArchitectureError):
        attach(model, {"0": {"E": [Choice("vector")]}, "1": {"E": [Choice("lora", 2)]}})
    assert [parameter.requires_grad for parameter in model.parameters()] == before
