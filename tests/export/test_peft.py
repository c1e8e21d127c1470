"""PEFT computes what any architecture computes, from one configuration for all layers."""

import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.architecture import TENSORS, Architecture, Choice, LayerChoices
from glora_automl.errors import ExportError
from glora_automl.export._peft import check_peft, load_peft, peft_choices, write_peft
from tests.export.adapters import adapter, shapes_of
from tests.models import ONE_TENSOR, backbone, images, random_architecture

pytest.importorskip("peft", reason="needs peft")


def expressible(name, seed):
    """A random architecture without the biases that C and E would give layers without one."""
    shapes = shapes_of(name)
    return Architecture(
        {
            layer: choices
            if shapes[layer].bias
            else choices._replace(C=Choice("none"), E=Choice("none"))
            for layer, choices in random_architecture(shapes, seed).items()
        }
    )


@torch.no_grad()
def check(name, architecture, folder, seed=3):
    taken, supernet = adapter(name, architecture, seed)
    check_peft(backbone(name), architecture, images())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns of keys that are missing
        files = write_peft(folder, backbone(name), taken)
        assert set(files) <= {file.name for file in folder.iterdir()}
        expected = supernet.model(images())
        for merge in (False, True):
            model = load_peft(folder, backbone(name), merge=merge)
            torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vit", "vit-no-qkv-bias", "distilled", "swin", "convnext"])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 1000))
def test_any_architecture_is_expressed(tmp_path_factory, name, seed):
    check(name, expressible(name, seed), tmp_path_factory.mktemp("peft"), seed)


@pytest.mark.parametrize(("tensor", "choice"), ONE_TENSOR, ids="-".join)
def test_any_choice_alone_is_expressed(tmp_path, tensor, choice):
    architecture = Architecture.uniform(shapes_of("vit"), **{tensor: choice})
    check("vit", architecture, tmp_path)


def test_layers_that_are_not_adapted_stay_plain(tmp_path):
    one = LayerChoices(B=Choice.parse("lora-2"))
    architecture = Architecture(
        {name: one if name == "blocks.0.attn.qkv" else LayerChoices() for name in shapes_of("vit")}
    )
    check("vit", architecture, tmp_path)
    model = load_peft(tmp_path, backbone("vit"), merge=False)
    names = {name for name, module in model.named_modules() if hasattr(module, "glora_A")}
    assert {name.removeprefix("base_model.model.") for name in names} == {"blocks.0.attn.qkv"}


@given(seed=st.integers(0, 10_000))
def test_the_configuration_is_the_smallest(seed):
    architecture = random_architecture(shapes_of("vit"), seed)
    rank, of_weight, of_coupling, of_bias = peft_choices(architecture)
    kinds = {t: {getattr(c, t).kind for c in architecture.values()} for t in TENSORS}
    ranks = [choice.rank for c in architecture.values() for choice in (c.A, c.B)]
    assert rank == max(1, *ranks)
    assert (of_weight == "lora") == ("lora" in kinds["A"] | kinds["B"])
    assert (of_coupling == "none") == (kinds["C"] == {"none"})
    assert (of_bias == "vector") == ("vector" in kinds["D"] | kinds["E"])


@pytest.mark.parametrize(
    ("name", "choices", "words"),
    [
        ("vit", {}, "of this architecture the head alone is trained"),
        ("vit-no-qkv-bias", {"E": "vector"}, "it has no bias, and C or E gives it one"),
        ("convnext-conv-mlp", {"B": "lora-1"}, "of class Conv2d, PEFT takes nn.Linear"),
        ("beit", {"B": "lora-1"}, "the model reads its weight without calling it"),
    ],
)
def test_what_cannot_be_expressed_is_refused(name, choices, words):
    architecture = Architecture.uniform(shapes_of(name), **choices)
    with pytest.raises(ExportError, match=re.escape(words)):
        check_peft(backbone(name), architecture, images())
