import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture, LayerShape
from glora_automl.errors import ArchitectureError, BudgetError
from glora_automl.presets import (
    Preset,
    attention,
    check_architecture,
    fitting_loras,
    glora,
    loras,
    preset_label,
    read_architecture,
    resolve_architecture,
)
from glora_automl.search_space import SearchSpace
from tests.models import MODELS, backbone, images

SHAPES = {
    "blocks.0.fc1": LayerShape(16, 8),
    "blocks.0.fc2": LayerShape(8, 16, bias=False),
    "blocks.1.fc1": LayerShape(4, 4, takes_bias=False),
}


@pytest.mark.parametrize("name", ["lora", "lora-1", "lora-3", "bitfit", "ssf", "probe"])
@pytest.mark.parametrize("model", sorted(MODELS))
def test_resolve_preset_fits_any_backbone(model, name):
    shapes = linear_shapes(backbone(model), example=images())
    architecture = resolve_architecture(name, shapes, shapes, 10**6)
    assert set(architecture) == set(shapes)
    space = SearchSpace.of(architecture, shapes)
    assert space.architecture({}) == architecture
    assert space.minimum == space.maximum == architecture.count(shapes)
    assert (space.minimum == 0) == (name == "probe")


@settings(max_examples=50)
@given(budget=st.integers(0, 2000))
def test_resolve_lora_without_rank_takes_the_highest_that_fits(budget):
    fitting = loras(SHAPES, budget)
    if not fitting:
        with pytest.raises(BudgetError, match=f"'lora' must have at most {budget} "):
            resolve_architecture("lora", SHAPES, SHAPES, budget)
        return
    found = resolve_architecture("lora", SHAPES, SHAPES, budget)
    assert found.count(SHAPES) <= budget
    assert preset_label(found, SHAPES) == f"LoRA r={len(fitting)}"
    larger = resolve_architecture(f"lora-{len(fitting) + 1}", SHAPES, SHAPES, 10**6)
    assert larger == found or larger.count(SHAPES) > budget


def test_resolve_lora_below_rank_one_of_all_layers_is_the_baseline_in_attention():
    shapes = {"blocks.0.attn.qkv": LayerShape(4, 4), "blocks.0.mlp.fc1": LayerShape(8, 4)}
    found = resolve_architecture("lora", shapes, shapes, 16)
    baseline = fitting_loras(shapes, 16)[-1]
    assert found == baseline.architecture
    assert preset_label(found, shapes) == baseline.label == "LoRA r=2 in attention"
    with pytest.raises(BudgetError, match=r"'lora' must have at most 7 .*, got 8"):
        resolve_architecture("lora", shapes, shapes, 7)


def test_preset_label_names_presets_and_custom():
    names = ("probe", "bitfit", "ssf", "lora-2")
    found = [
        preset_label(resolve_architecture(name, SHAPES, SHAPES, 999), SHAPES) for name in names
    ]
    assert found == ["linear probe", "BitFit", "SSF-like", "LoRA r=2"]
    assert preset_label(Architecture.parse("blocks.0.fc1: A=lora-2"), SHAPES) == "custom"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lorra", "got 'lorra'. Did you mean 'lora'?"),
        ("lora-0", "got 'lora-0'"),
        ("", "got ''"),
        ("fc1: B=lora-0", "got 'lora-0'"),
        ("fc1: D=lora-2", "fc1: D must be one of none, scalar, vector"),
        ("fc1: none\nfc1: none", "each layer once, got 'fc1' twice"),
    ],
)
def test_check_architecture_malformed_text_raises_one_line(text, words):
    with pytest.raises(ArchitectureError, match=re.escape(words)) as error:
        check_architecture(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("fc9: none\nblocks.0.fc1: none", ArchitectureError, "got fc9. Choose from blocks.0.fc1, "),
        ("blocks.0.fc1: B=lora-9", ArchitectureError, "blocks.0.fc1: The rank of B must be"),
        ("blocks.0.fc2: D=vector", ArchitectureError, "blocks.0.fc2: D of a layer without bias"),
        ("blocks.1.fc1: E=vector", ArchitectureError, "whose bias the model does not use"),
        ("blocks.0.fc1: A=lora-2", BudgetError, "at most 47 trainable parameters, got 48"),
        ("lora-2", BudgetError, "'lora-2' must have at most 47"),
    ],
)
def test_resolve_architecture_that_does_not_fit_raises(text, error, words):
    with pytest.raises(error, match=re.escape(words)):
        resolve_architecture(text, SHAPES, SHAPES, 47)


def test_glora_is_a_labelled_preset_within_the_budget():
    shapes = {"fc1": LayerShape(8, 4), "fc2": LayerShape(4, 8)}
    preset = glora(shapes, 83)
    assert isinstance(preset, Preset)
    assert preset.label == "GLoRA r=1"
    assert str(preset.architecture["fc1"]) == "A=vector B=lora-1 C=vector E=vector"
    assert preset.architecture.count(shapes) == 60
    assert glora(shapes, 35) is None


def test_attention_without_attention_layers_is_empty():
    assert attention(SHAPES) == {}


def test_read_architecture_file_returns_its_lines(tmp_path):
    text = "blocks.0.attn.qkv: B=lora-2\nblocks.1.attn.qkv: none"
    (tmp_path / "mine.txt").write_text(f"\n{text}\n", encoding="utf-8")
    assert read_architecture("mine.txt", tmp_path) == text
    assert read_architecture(text) == text
    assert read_architecture("lora-2") == "lora-2"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "'none.txt' (No such file"),
        ("empty.txt", b"", "'empty.txt' (empty)"),
        ("odd.txt", b"\xff\xfe: ", "'odd.txt' (not UTF-8 text)"),
        ("mine.toml", b"a = 3", "'mine.toml': A line of an architecture must be"),
    ],
)
def test_read_architecture_unusable_file_raises(tmp_path, monkeypatch, name, content, words):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArchitectureError, match=re.escape(words)):
        read_architecture(name)


def test_fitting_loras_without_attention_are_none_under_a_small_budget():
    """A comparison asks for them on any backbone, such as a convolutional one."""
    shapes = {"conv": LayerShape(8, 8)}
    assert fitting_loras(shapes, 15) == []
    assert [preset.label for preset in fitting_loras(shapes, 32)] == ["LoRA r=1", "LoRA r=2"]
