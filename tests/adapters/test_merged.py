import pytest
import torch
from torch import nn

from glora_automl.adapters import GLoRALinear, MergedModel, activate, attach, merge
from glora_automl.architecture import Architecture, Choice, LayerShape
from tests import models

EVERY_MODEL = pytest.mark.parametrize("name", list(models.MODELS))


@EVERY_MODEL
@torch.no_grad()
def test_write_equals_the_adapted_model_for_several_architectures(name):
    # In double precision, as float32 rounding depends on the processor.
    model, shapes = models.adapted(name, torch.float64)
    merged, images = MergedModel(model), models.images(torch.float64)
    pointers = {n: p.data_ptr() for n, p in merged.model.named_parameters()}
    outputs = []
    for seed in (0, 1, 0):
        activate(model, models.random_architecture(shapes, seed))
        outputs.append(merged.write()(images))
        expected = model(images)
        assert (outputs[-1] - expected).norm() <= 1e-12 * expected.norm()
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])
    assert not any(isinstance(m, GLoRALinear) for m in merged.model.modules())
    # Compiled models and captured graphs stay valid.
    assert {n: p.data_ptr() for n, p in merged.model.named_parameters()} == pointers


@EVERY_MODEL
@torch.no_grad()
def test_write_gives_the_effective_weights(name):
    model, shapes = models.adapted(name, torch.float64)
    activate(model, models.random_architecture(shapes, 3))
    plain = dict(MergedModel(model).write().named_parameters())
    with merge(model) as expected:
        for key, value in expected.named_parameters():
            torch.testing.assert_close(plain[key], value, rtol=0, atol=1e-12)


@torch.no_grad()
def test_write_follows_training():
    model, shapes = models.adapted("vit", torch.float64)
    activate(model, models.random_architecture(shapes, 0))
    merged = MergedModel(model)
    merged.write()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1)
    expected = model(models.images(torch.float64))
    actual = merged.write()(models.images(torch.float64))
    assert (actual - expected).norm() <= 1e-12 * expected.norm()


@EVERY_MODEL
@torch.no_grad()
def test_write_in_bfloat16_keeps_the_adapted_model(name):
    model, shapes = models.adapted(name, torch.float32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = MergedModel(model, torch.bfloat16)
    activate(model, models.random_architecture(shapes, 1))
    x = models.images(torch.float32)
    actual, expected = merged.write()(x.bfloat16()), model(x)
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).norm() <= 5e-2 * expected.norm()
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(after[key].dtype == value.dtype for key, value in before.items())


def test_write_in_bfloat16_follows_a_trained_head():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    attach(model, {"0": {"B": [Choice.parse("lora-2")]}})
    merged = MergedModel(model, torch.bfloat16)
    activate(model, Architecture.parse("0: B=lora-2"))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([8.0, -8.0]))
        assert merged.write()[1].bias.tolist() == [8.0, -8.0]


def test_layer_without_bias_has_one_if_a_choice_adds_it():
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    layers = attach(model, {"0": {"E": [Choice.parse("scalar")]}})
    merged = MergedModel(model)
    assert merged.write()[0].bias.tolist() == [0.0] * 4
    activate(model, Architecture.parse("0: E=scalar"))
    with torch.no_grad():
        layers["0"].E_scalar.fill_(3.0)
    assert merged.write()[0].bias.tolist() == [3.0] * 4
    activate(model, Architecture.uniform({"0": LayerShape(4, 6, False)}))
    assert merged.write()[0].bias.tolist() == [0.0] * 4
