"""Export as PEFT adapter."""

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


def random_expressible(name, seed):
    """Return a random architecture without added biases."""
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
def check_logits(name, architecture, folder, seed=3):
    original, supernet = adapter(name, architecture, seed)
    check_peft(backbone(name), architecture, images())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns about missing keys
        files = write_peft(folder, backbone(name), original)
        assert set(files) <= {file.name for file in folder.iterdir()}
        expected = supernet.model(images())
        for merge in (False, True):
            model = load_peft(folder, backbone(name), merge=merge)
            torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vit", "vit-no-qkv-bias", "distilled", "swin", "convnext"])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 1000))
def test_write_peft_of_any_architecture_returns_equal_logits(tmp_path_factory, name, seed):
    check_logits(name, random_expressible(name, seed), tmp_path_factory.mktemp("peft"), seed)


@pytest.mark.parametrize(("tensor", "choice"), ONE_TENSOR, ids="-".join)
def test_write_peft_of_any_choice_returns_equal_logits(tmp_path, tensor, choice):
    architecture = Architecture.uniform(shapes_of("vit"), **{tensor: choice})
    check_logits("vit", architecture, tmp_path)


def test_write_peft_leaves_other_layers_plain(tmp_path):
    one = LayerChoices(B=Choice.parse("lora-2"))
    architecture = Architecture(
        {name: one if name == "blocks.0.attn.qkv" else LayerChoices() for name in shapes_of("vit")}
    )
    check_logits("vit", architecture, tmp_path)
    model = load_peft(tmp_path, backbone("vit"), merge=False)
    names = {name for name, module in model.named_modules() if hasattr(module, "glora_A")}
    assert {name.removeprefix("base_model.model.") for name in names} == {"blocks.0.attn.qkv"}


@given(seed=st.integers(0, 10_000))
def test_peft_choices_are_the_smallest(seed):
    architecture = random_architecture(shapes_of("vit"), seed)
    rank, config_ab, config_c, config_de = peft_choices(architecture)
    kinds = {t: {getattr(c, t).kind for c in architecture.values()} for t in TENSORS}
    ranks = [choice.rank for c in architecture.values() for choice in (c.A, c.B)]
    assert rank == max(1, *ranks)
    assert (config_ab == "lora") == ("lora" in kinds["A"] | kinds["B"])
    assert (config_c == "none") == (kinds["C"] == {"none"})
    assert (config_de == "vector") == ("vector" in kinds["D"] | kinds["E"])


@pytest.mark.parametrize(
    ("name", "choices", "words"),
    [
        ("vit", {}, "must adapt at least one layer"),
        ("vit-no-qkv-bias", {"E": "vector"}, "C or E adds a bias to a layer without one"),
        ("convnext-conv-mlp", {"B": "lora-1"}, "class Conv2d"),
        ("beit", {"B": "lora-1"}, "the model reads its weight without calling it"),
    ],
)
def test_check_peft_with_other_architecture_raises(name, choices, words):
    architecture = Architecture.uniform(shapes_of(name), **choices)
    with pytest.raises(ExportError, match=re.escape(words)):
        check_peft(backbone(name), architecture, images())
