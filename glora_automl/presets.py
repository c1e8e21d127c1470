"""Presets: architectures by name (LoRA, BitFit, SSF, linear probe), as text or from a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from glora_automl._declarations import MAX_TEXT, suggest
from glora_automl._files import read_file, user_path
from glora_automl._messages import short
from glora_automl.architecture import TENSORS, Architecture, Choice, LayerChoices, LayerShape
from glora_automl.errors import ArchitectureError, BudgetError

__all__ = [
    "PRESETS",
    "Preset",
    "attention",
    "check_architecture",
    "fitting_loras",
    "glora",
    "is_preset",
    "lora",
    "loras",
    "preset_label",
    "read_architecture",
    "resolve_architecture",
    "ssf",
]

PRESETS = ("lora", "lora-r", "bitfit", "ssf", "probe")
"""Names of presets. ``lora-r`` is LoRA of rank r, ``lora`` the last of :func:`fitting_loras`."""


class Preset(NamedTuple):
    """An architecture and its label in tables of results, such as ``LoRA r=4``."""

    label: str
    architecture: Architecture


def is_preset(text: str) -> bool:
    """Return whether a text is a name of :data:`PRESETS`.

    Example:
        >>> [is_preset(text) for text in ("lora", "lora-4", "lora-0", "winner.txt")]
        [True, True, False, False]
    """
    return bool(re.fullmatch("lora(-[1-9][0-9]{0,8})?|bitfit|ssf|probe", text))


def check_architecture(text: str) -> None:
    """Check that a text is a preset's name or a printed architecture, of any backbone.

    Raises:
        ArchitectureError: If it is neither.
    """
    if is_preset(text):
        return
    if not _is_printed(text):
        raise ArchitectureError(
            f"The architecture must be one of {', '.join(PRESETS)}, or one line per layer such as "
            f"'blocks.0.attn.qkv: B=lora-4 E=vector', got {short(text)}. "
            f"{suggest(text, list(PRESETS))}"
        )
    Architecture.parse(text)


def _is_printed(text: str) -> bool:
    # A colon and a space follow a layer's name; neither a preset's name nor a path has them.
    return bool(re.search(r":\s", text))


def read_architecture(text: str, folder: Path | None = None) -> str:
    """Return a preset's name or a printed architecture, read from a file if ``text`` is a path.

    Args:
        text: A name of :data:`PRESETS`, a printed architecture, or the path of a file with one.
        folder: Folder of a relative path; by default the working directory.

    Raises:
        ArchitectureError: If the file cannot be read or contains no architecture.
    """
    if is_preset(text) or _is_printed(text):
        return text
    path = (folder or Path()) / user_path(text, "The architecture", ArchitectureError)
    try:
        found = read_file(path, MAX_TEXT).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ArchitectureError(
            f"The architecture must be one of {', '.join(PRESETS)}, or a file with a printed "
            f"architecture, got {short(text)} ({reason}). {suggest(text, list(PRESETS))}"
        ) from None
    if not found.strip():
        raise ArchitectureError(
            f"The architecture file must have one line per layer, got {str(path)!r} (empty)."
        )
    try:
        return str(Architecture.parse(found))
    except ArchitectureError as error:
        raise ArchitectureError(f"The architecture file {str(path)!r}: {error}") from None


def resolve_architecture(
    text: str,
    selected: Mapping[str, LayerShape],
    shapes: Mapping[str, LayerShape],
    budget: int,
) -> Architecture:
    """Return the architecture of a preset's name or a printed architecture on a backbone.

    Args:
        text: As for :func:`check_architecture`.
        selected: The layers that a preset adapts.
        shapes: All adaptable layers of the backbone.
        budget: The most trainable parameters.

    Raises:
        ArchitectureError: If the backbone lacks a layer, or a layer cannot have a choice.
        BudgetError: If the architecture exceeds the budget.

    Example:
        >>> shapes = {"fc1": LayerShape(8, 4), "fc2": LayerShape(4, 8)}
        >>> print(resolve_architecture("lora", shapes, shapes, budget=50))
        fc1: B=lora-2
        fc2: B=lora-2
    """
    if text == "lora":
        fitting = fitting_loras(selected, budget)
        smallest = lora(attention(selected) or selected, 1)
        architecture = fitting[-1].architecture if fitting else smallest
    elif text.startswith("lora-") and is_preset(text):
        architecture = lora(selected, Choice.parse(text).rank)
    elif is_preset(text):
        choices = {"bitfit": _BITFIT, "ssf": _SSF, "probe": {}}
        architecture = Architecture.uniform(selected, **choices[text])
    else:
        parsed = Architecture.parse(text)
        _check_layers(parsed, shapes)
        # In the backbone's order, whatever the order of the lines.
        architecture = Architecture({name: parsed[name] for name in shapes if name in parsed})
    count = architecture.count(shapes)
    if count > budget:
        name = f"The preset {text!r}" if is_preset(text) else "The architecture"
        raise BudgetError(
            f"{name} must have at most {budget} trainable parameters, got {count}. Raise `budget`."
        )
    return architecture


def _check_layers(architecture: Architecture, shapes: Mapping[str, LayerShape]) -> None:
    """Raise ArchitectureError for a layer that the backbone lacks or a choice that does not fit."""
    unknown = [name for name in architecture if name not in shapes]
    if unknown:
        raise ArchitectureError(
            f"The architecture must have layers of the backbone, got {_shown(unknown)}. "
            f"Choose from {_shown(list(shapes))}."
        )
    for name, choices in architecture.items():
        for tensor, choice in zip(TENSORS, choices, strict=True):
            try:
                choice.check(tensor, shapes[name])
            except ArchitectureError as error:
                raise ArchitectureError(f"{name}: {error}") from None


def _shown(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


_BITFIT = {"E": "vector"}
_SSF = {"A": "vector", "E": "vector"}


def ssf(shapes: Mapping[str, LayerShape]) -> Architecture:
    """Return a scale and a shift of each layer's outputs, as in SSF (arXiv 2210.08823)."""
    return Architecture.uniform(shapes, **_SSF)


def glora(shapes: Mapping[str, LayerShape], budget: int) -> Preset | None:
    """Return uniform GLoRA: vectors for A, C and E, and LoRA for B at the highest rank that fits.

    It leaves out D, which adds nothing to E, and LoRA for C, which adds nothing to the vector.

    Returns:
        The preset; None if the vectors alone exceed the budget.

    Example:
        >>> shapes = {"fc1": LayerShape(8, 4), "fc2": LayerShape(4, 8)}
        >>> [glora(shapes, budget)[0] for budget in (36, 59, 60)], glora(shapes, 35)
        (['GLoRA r=0', 'GLoRA r=0', 'GLoRA r=1'], None)
    """
    vectors = Architecture.uniform(shapes, A="vector", C="vector", E="vector")
    rest = budget - vectors.count(shapes)
    if rest < 0:
        return None
    fitting = loras(shapes, rest)
    ranked = fitting[-1] if fitting else Architecture.uniform(shapes)
    layers = {name: vectors[name]._replace(B=ranked[name].B) for name in shapes}
    return Preset(f"GLoRA r={len(fitting)}", Architecture(layers))


def lora(shapes: Mapping[str, LayerShape], rank: int) -> Architecture:
    """Return LoRA of one rank in every layer, or of full rank in a layer below that rank."""
    return Architecture(
        {
            name: LayerChoices(B=Choice("lora", min(rank, *shape[:2])))
            for name, shape in shapes.items()
        }
    )


def loras(shapes: Mapping[str, LayerShape], budget: int) -> list[Architecture]:
    """Return LoRA of every rank that fits the budget, from rank 1 on."""
    found: list[Architecture] = []
    for rank in range(1, max(min(shape[:2]) for shape in shapes.values()) + 1):
        larger = lora(shapes, rank)
        if larger.count(shapes) > budget:
            break
        found.append(larger)
    return found


def fitting_loras(shapes: Mapping[str, LayerShape], budget: int) -> list[Preset]:
    """Return LoRA of every rank that fits, in attention alone where no rank fits in all layers.

    Args:
        shapes: The layers.
        budget: The most trainable parameters.

    Returns:
        Architectures of all layers, from rank 1 on; none if nothing fits.

    Example:
        >>> shapes = {"blocks.0.attn.qkv": LayerShape(4, 4), "blocks.0.mlp.fc1": LayerShape(8, 4)}
        >>> [preset.label for preset in fitting_loras(shapes, 40)]
        ['LoRA r=1', 'LoRA r=2']
        >>> [preset.label for preset in fitting_loras(shapes, 16)]
        ['LoRA r=1 in attention', 'LoRA r=2 in attention']
    """
    where, found = "", loras(shapes, budget)
    if not found and (attended := attention(shapes)):
        where, found = " in attention", loras(attended, budget)
    none = Architecture.uniform(shapes)
    return [
        Preset(f"LoRA r={rank}{where}", Architecture({**none, **placed}))
        for rank, placed in enumerate(found, 1)
    ]


def attention(shapes: Mapping[str, LayerShape]) -> dict[str, LayerShape]:
    """Return the attention layers by timm's names, none in a backbone without attention.

    Example:
        >>> shape = LayerShape(4, 4)
        >>> list(attention({"blocks.0.attn.qkv": shape, "blocks.0.mlp.fc1": shape}))
        ['blocks.0.attn.qkv']
    """
    return {name: shape for name, shape in shapes.items() if "attn" in name.split(".")}


def preset_label(architecture: Architecture, shapes: Mapping[str, LayerShape]) -> str:
    """Return the label of an architecture in tables of results, ``custom`` for no preset.

    Example:
        >>> shapes = {"fc1": LayerShape(8, 4), "fc2": LayerShape(4, 8)}
        >>> preset_label(Architecture.uniform(shapes, B="lora-2"), shapes)
        'LoRA r=2'
        >>> preset_label(Architecture.parse("fc1: B=lora-2"), shapes)
        'custom'
    """
    rank = max(choices.B.rank for choices in architecture.values())
    known = {
        "linear probe": Architecture.uniform(shapes),
        "BitFit": Architecture.uniform(shapes, **_BITFIT),
        "SSF-like": ssf(shapes),
    }
    if rank:
        known[f"LoRA r={rank}"] = lora(shapes, rank)
        attended = lora(attention(shapes), rank)
        known[f"LoRA r={rank} in attention"] = Architecture({**known["linear probe"], **attended})
    return next((label for label, preset in known.items() if preset == architecture), "custom")
