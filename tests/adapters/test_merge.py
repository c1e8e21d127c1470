import functools

import pytest
import torch
from torch import nn

from glora_automl.adapters import (
    GLoRALinear,
    activate,
    adapted_layers,
    attach,
    linear_shapes,
    merge,
)
from glora_automl.architecture import Architecture, Choice, LayerShape
from tests import models
from tests.adapters import reference
from tests.adapters.test_attach import Shared, assert_restored, snapshot

EVERY_MODEL = pytest.mark.parametrize("name", list(models.MODELS))
EVERY_CHOICE = pytest.mark.parametrize(("tensor", "choice"), models.ONE_TENSOR)


@functools.cache
def trained(
    name: str, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, dict[str, LayerShape], torch.Tensor]:
    """Return an adapted model with non-zero parameters, for tests that only read and undo."""
    with torch.no_grad():
        plain = models.backbone(name, dtype)(models.images(dtype))
    return *models.adapted(name, dtype), plain


def uniform(shapes: dict[str, LayerShape], tensor: str, choice: str) -> Architecture:
    return Architecture.uniform(shapes, **{tensor: choice})


def bias_givers(architecture: Architecture, shapes: dict[str, LayerShape]) -> set[str]:
    """Return the layers without bias to which the architecture adds one."""
    return {
        name
        for name, choices in architecture.items()
        if not shapes[name].bias and (choices.C.kind != "none" or choices.E.kind != "none")
    }


@torch.no_grad()
def by_reference(name: str, model: nn.Module) -> nn.Module:
    """Return a plain backbone with effective weights and biases from the reference."""
    plain = models.backbone(name, torch.float64)
    for path, layer in adapted_layers(model).items():
        weight, bias = reference.weight_and_bias(layer)
        linear = plain.get_submodule(path)
        linear.weight.copy_(weight.reshape(linear.weight.shape))
        if linear.bias is not None or bias.any():
            linear.bias = nn.Parameter(bias.clone())
    return plain


@torch.no_grad()
def outputs(model: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the model's outputs before and during the merge."""
    unmerged = model(models.images(dtype))
    with merge(model) as plain:
        return unmerged, plain(models.images(dtype))


class TestMergedEqualsUnmerged:
    @EVERY_MODEL
    @EVERY_CHOICE
    def test_merge_every_choice_keeps_the_outputs(self, name, tensor, choice):
        model, shapes, plain = trained(name)
        activate(model, uniform(shapes, tensor, choice))
        unmerged, merged = outputs(model, torch.float64)
        torch.testing.assert_close(merged, unmerged, rtol=0, atol=1e-10)
        # Without an effect of the choice the test could not fail.
        assert (unmerged - plain).abs().max() > 1e-3

    @EVERY_MODEL
    @EVERY_CHOICE
    def test_merge_every_choice_in_float32_keeps_the_outputs(self, name, tensor, choice):
        model, shapes, _ = trained(name, torch.float32)
        activate(model, uniform(shapes, tensor, choice))
        unmerged, merged = outputs(model, torch.float32)
        assert (merged - unmerged).norm() / unmerged.norm() <= 1e-6

    @EVERY_MODEL
    @pytest.mark.parametrize("seed", range(6))
    def test_merge_random_architecture_keeps_the_outputs(self, name, seed):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            model, shapes, _ = trained(name, dtype)
            activate(model, models.random_architecture(shapes, seed))
            unmerged, merged = outputs(model, dtype)
            assert (merged - unmerged).norm() / unmerged.norm() <= tolerance

    @EVERY_MODEL
    @pytest.mark.parametrize("seed", range(2))
    @torch.no_grad()
    def test_merge_equals_a_backbone_with_the_references_weights(self, name, seed):
        model, shapes, _ = trained(name)
        activate(model, models.random_architecture(shapes, seed))
        expected = by_reference(name, model)(models.images(torch.float64))
        for actual in outputs(model, torch.float64):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


class TestMergedModel:
    @EVERY_MODEL
    @pytest.mark.parametrize("seed", range(3))
    def test_merged_model_has_the_backbones_layers_and_keys_and_added_biases(self, name, seed):
        model, shapes, _ = trained(name)
        architecture = models.random_architecture(shapes, seed)
        activate(model, architecture)
        backbone = models.backbone(name)
        extra = {f"{layer}.bias" for layer in bias_givers(architecture, shapes)}
        with merge(model):
            assert adapted_layers(model) == {}
            assert not any(isinstance(m, GLoRALinear) for m in model.modules())
            assert {n: type(m) for n, m in model.named_modules()} == {
                n: type(m) for n, m in backbone.named_modules()
            }
            assert set(model.state_dict()) == set(backbone.state_dict()) | extra
            for key, value in backbone.state_dict().items():
                assert model.state_dict()[key].shape == value.shape

    def test_random_architectures_add_biases(self):
        for name in ("swin", "vit-no-qkv-bias"):
            shapes = linear_shapes(models.backbone(name))
            givers = [
                bias_givers(models.random_architecture(shapes, seed), shapes) for seed in range(3)
            ]
            assert any(givers)

    @pytest.mark.parametrize(
        ("text", "bias"),
        [("none", False), ("A=vector B=lora-2", False), ("C=vector", True), ("C=lora-2", True),
         ("E=scalar", True), ("E=vector", True), ("C=vector E=scalar", True)],
    )  # fmt: skip
    @torch.no_grad()
    def test_layer_without_bias_gets_one_from_c_and_e_only(self, text, bias):
        model = nn.Sequential(nn.Linear(6, 4, bias=False, dtype=torch.float64))
        attach(model, models.choices_of(linear_shapes(model)))
        models.randomise(model)
        activate(model, Architecture.parse(f"0: {text}"))
        x = torch.randn(3, 6, dtype=torch.float64)
        expected = reference.forward(model[0], x)
        with merge(model):
            assert (model[0].bias is not None) == bias
            assert ("0.bias" in model.state_dict()) == bias
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)

    @EVERY_MODEL
    @torch.no_grad()
    def test_merged_weights_in_a_fresh_backbone_give_the_same_outputs(self, name):
        model, shapes, _ = trained(name)
        activate(model, Architecture.uniform(shapes, A="vector", B="lora-2", D="scalar"))
        fresh = models.backbone(name, torch.float64)
        with merge(model):
            fresh.load_state_dict(model.state_dict(), strict=True)
            expected = model(models.images(torch.float64))
        assert torch.equal(fresh(models.images(torch.float64)), expected)

    def test_merged_weights_are_contiguous_frozen_and_of_the_layers_dtype(self):
        model, shapes, _ = trained("swin", torch.float32)
        activate(model, models.random_architecture(shapes, 1))
        with merge(model):
            for name in shapes:
                for parameter in model.get_submodule(name).parameters():
                    assert parameter.is_contiguous()
                    assert not parameter.requires_grad
                    assert parameter.dtype == torch.float32
                    assert parameter.device.type == "cpu"

    def test_merged_bias_from_a_scalar_is_a_full_vector(self):
        model = nn.Sequential(nn.Linear(6, 4, bias=False))
        attach(model, {"0": {"E": [Choice("scalar")]}})
        models.randomise(model)
        activate(model, Architecture.parse("0: E=scalar"))
        with merge(model):
            assert model[0].bias.is_contiguous()
            assert len(set(model[0].bias.tolist())) == 1
            assert model[0].bias.shape == (4,)

    @pytest.mark.parametrize("training", [True, False])
    def test_merge_keeps_the_mode(self, training):
        model, shapes = models.adapted("vit")
        model.train(training)
        with merge(model):
            assert all(model.get_submodule(name).training == training for name in shapes)

    def test_merge_without_handle_stays_merged(self):
        model, shapes = models.adapted("vit")
        activate(model, models.random_architecture(shapes, 0))
        merge(model)
        assert adapted_layers(model) == {}

    def test_merge_plain_model_changes_nothing(self):
        model = models.backbone("vit")
        before = snapshot(model)
        with merge(model) as same:
            assert same is model
            assert_restored(model, before)
        assert_restored(model, before)


class TestUndo:
    @EVERY_MODEL
    @pytest.mark.parametrize("seed", range(2))
    def test_undo_restores_the_same_objects_bit_for_bit(self, name, seed):
        model, shapes, _ = trained(name, torch.float32)
        architecture = models.random_architecture(shapes, seed)
        activate(model, architecture)
        layers, before, keys = adapted_layers(model), snapshot(model), list(model.state_dict())
        with torch.no_grad():
            expected = model(models.images())
            handle = merge(model)
            model(models.images())
            handle.undo()
            assert torch.equal(model(models.images()), expected)
        assert list(model.state_dict()) == keys
        assert_restored(model, before)
        after = adapted_layers(model)
        assert list(after) == list(layers)
        assert all(after[n] is layers[n] for n in layers)
        assert {n: layer.active for n, layer in after.items()} == dict(architecture)

    def test_undo_after_many_merges_restores_every_bit(self):
        model, shapes = models.adapted("vit")
        before = snapshot(model)
        for seed in range(20):
            activate(model, models.random_architecture(shapes, seed))
            with merge(model):
                pass
        assert_restored(model, before)

    def test_undo_after_an_error_in_the_block(self):
        model, shapes = models.adapted("vit")
        activate(model, models.random_architecture(shapes, 0))
        before = snapshot(model)
        with pytest.raises(ZeroDivisionError), merge(model):
            raise ZeroDivisionError
        assert list(adapted_layers(model)) == list(shapes)
        assert_restored(model, before)

    def test_undo_twice_does_nothing(self):
        model, shapes = models.adapted("vit")
        first = merge(model)
        first.undo()
        activate(model, models.random_architecture(shapes, 0))
        with merge(model):
            first.undo()
            assert adapted_layers(model) == {}
        assert list(adapted_layers(model)) == list(shapes)

    def test_undo_allows_further_training(self):
        model, shapes = models.adapted("vit")
        activate(model, Architecture.uniform(shapes, E="vector"))
        with merge(model):
            pass
        model(models.images()).square().sum().backward()
        for layer in adapted_layers(model).values():
            assert layer.E_vector.grad is not None
            assert layer.E_vector.grad.any()

    def test_later_change_of_the_adapters_does_not_reach_the_merged_model(self):
        model, shapes = models.adapted("vit-no-qkv-bias")
        activate(model, Architecture.uniform(shapes, B="lora-2", C="vector"))
        layers = adapted_layers(model)
        with merge(model), torch.no_grad():
            expected = model(models.images())
            for layer in layers.values():
                layer.B_left.add_(1)
                layer.C_vector.add_(1)
            assert torch.equal(model(models.images()), expected)


class TestSharedModules:
    @pytest.fixture
    def model(self):
        model = Shared()
        attach(
            model,
            {
                n: {"B": [Choice("lora", 2)], "C": [Choice("vector")]}
                for n in ("first", "between.1")
            },
        )
        models.randomise(model)
        activate(model, Architecture.parse("first: B=lora-2 C=vector\nbetween.1: B=lora-2"))
        return model

    @torch.no_grad()
    def test_shared_layer_is_merged_and_restored_under_both_names(self, model):
        x = torch.randn(3, 4, dtype=torch.float64)
        layer, expected, before = model.first, model(x), snapshot(model)
        with merge(model):
            assert model.first is model.second
            assert type(model.first) is nn.Linear
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
            assert {"first.weight", "second.weight"} <= set(model.state_dict())
        assert model.first is model.second is layer
        assert_restored(model, before)


def test_merge_copies_the_weights():
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    frozen = model[0].weight.detach().clone()
    layers = attach(model, {"0": {"E": [Choice("vector")]}})
    activate(model, Architecture.parse("0: E=vector"))
    with torch.no_grad(), merge(model) as plain:
        plain[0].weight.add_(1)
        plain[0].bias.add_(1)
    assert torch.equal(layers["0"].linear.weight, frozen)
    assert torch.equal(layers["0"].E_vector, torch.zeros(2))
