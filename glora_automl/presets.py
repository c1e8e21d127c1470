"""Architectures that are given instead of searched: ready ones by name, others as they print."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from glora_automl._declarations import suggest
from glora_automl.architecture import TENSORS, Architecture, Choice, LayerChoices, LayerShape
from glora_automl.errors import ArchitectureError, BudgetError

__all__ = [
    "PRESETS",
    "attention",
    "check_architecture",
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
"""Names of architectures that any backbone has; r is a rank, the highest that fits without."""


def is_preset(text: str) -> bool:
    """Whether a text is one of :data:`PRESETS`.

    Example:
        >>> [is_preset(text) for text in ("lora", "lora-4", "lora-0", "winner.txt")]
        [True, True, False, False]
    """
    return bool(re.fullmatch("lora(-[1-9][0-9]*)?|bitfit|ssf|probe", text))


def check_architecture(text: str) -> None:
    """Refuse a text that is no architecture, whatever the backbone.

    Raises:
        ArchitectureError: If it is none.
    """
    if is_preset(text):
        return
    if not re.search(r":\s", text):  # that of a line; nothing else that may be meant has one
        raise ArchitectureError(
            f"An architecture must be one of {', '.join(PRESETS)}, or one line per layer such as "
            f"'blocks.0.attn.qkv: B=lora-4 E=vector', got {text!r}; {suggest(text, list(PRESETS))}"
        )
    Architecture.parse(text)


def read_architecture(text: str, folder: Path | None = None) -> str:
    """The architecture that is meant: a ready one's name, its lines, or what a file holds.

    Args:
        text: A name of :data:`PRESETS`, a printed architecture, or the path of a file with one.
        folder: Where the path begins; by default the working directory.

    Raises:
        ArchitectureError: If the file cannot be read, or holds no architecture.
    """
    if is_preset(text) or re.search(r":\s", text):
        return text
    path = (folder or Path()) / Path(text).expanduser()
    try:
        found = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ArchitectureError(
            f"An architecture must be one of {', '.join(PRESETS)}, or a file that 'glora "
            f"architecture' prints, got {text!r}: {reason}; {suggest(text, list(PRESETS))}"
        ) from None
    try:
        if not found.strip():
            raise ArchitectureError("it is empty.")
        return str(Architecture.parse(found))
    except ArchitectureError as error:
        raise ArchitectureError(f"The architecture file {str(path)!r}: {error}") from None


def resolve_architecture(
    text: str,
    selected: Mapping[str, LayerShape],
    shapes: Mapping[str, LayerShape],
    budget: int,
) -> Architecture:
    """The architecture that a text means on a backbone.

    Args:
        text: As :func:`check_architecture` takes it.
        selected: The layers that a ready one adapts.
        shapes: All layers that can be adapted.
        budget: The most trainable parameters.

    Raises:
        ArchitectureError: If the backbone has not its layers, or a layer cannot take a choice.
        BudgetError: If it is over the budget.

    Example:
        >>> shapes = {"fc1": LayerShape(8, 4), "fc2": LayerShape(4, 8)}
        >>> print(resolve_architecture("lora", shapes, shapes, budget=50))
        fc1: B=lora-2
        fc2: B=lora-2
    """
    if text == "lora":
        fitting = loras(selected, budget)
        architecture = fitting[-1] if fitting else lora(selected, 1)
    elif text.startswith("lora-") and is_preset(text):
        architecture = lora(selected, Choice.parse(text).rank)
    elif is_preset(text):
        ready = {"bitfit": {"E": "vector"}, "ssf": _SSF, "probe": {}}
        architecture = Architecture.uniform(selected, **ready[text])
    else:
        parsed = Architecture.parse(text)
        _check_layers(parsed, shapes)
        # In the order of the backbone, whatever that of the lines is.
        architecture = Architecture({name: parsed[name] for name in shapes if name in parsed})
    count = architecture.count(shapes)
    if count > budget:
        what = repr(text) if is_preset(text) else "that is given"
        raise BudgetError(
            f"The architecture {what} must fit the budget of {budget} trainable parameters, it has "
            f"{count}; raise the budget."
        )
    return architecture


def _check_layers(architecture: Architecture, shapes: Mapping[str, LayerShape]) -> None:
    """Refuse an architecture of another backbone."""
    strange = [name for name in architecture if name not in shapes]
    if strange:
        named = ", ".join(strange[:6]) + (", ..." if len(strange) > 6 else "")
        known = ", ".join(list(shapes)[:6]) + (", ..." if len(shapes) > 6 else "")
        raise ArchitectureError(
            f"The architecture must be of layers that the backbone has, got {named}; it has "
            f"{known or 'none'}."
        )
    for name, choices in architecture.items():
        for tensor, choice in zip(TENSORS, choices, strict=True):
            try:
                choice.check(tensor, shapes[name])
            except ArchitectureError as error:
                raise ArchitectureError(f"{name}: {error}") from None


_SSF = {"A": "vector", "E": "vector"}


def ssf(shapes: Mapping[str, LayerShape]) -> Architecture:
    """A scale and a shift of each layer's outputs: what SSF (arXiv 2210.08823) does to them."""
    return Architecture.uniform(shapes, **_SSF)


def glora(shapes: Mapping[str, LayerShape], budget: int) -> tuple[str, Architecture] | None:
    """All of GLoRA's tensors in each layer, with LoRA for B at the highest rank that fits.

    D adds nothing to E, and C as LoRA nothing to its vector, so neither takes part.

    Returns:
        Its name and the architecture; None if not even the vectors fit.

    Example:
        >>> shapes = {"fc1": LayerShape(8, 4), "fc2": LayerShape(4, 8)}
        >>> [glora(shapes, budget)[0] for budget in (36, 59, 60)], glora(shapes, 35)
        (['GLoRA r=0', 'GLoRA r=0', 'GLoRA r=1'], None)
    """
    vectors = Architecture.uniform(shapes, A="vector", C="vector", E="vector")
    left = budget - vectors.count(shapes)
    if left < 0:
        return None
    fitting = loras(shapes, left)
    ranked = fitting[-1] if fitting else Architecture.uniform(shapes)
    layers = {name: vectors[name]._replace(B=ranked[name].B) for name in shapes}
    return f"GLoRA r={len(fitting)}", Architecture(layers)


def lora(shapes: Mapping[str, LayerShape], rank: int) -> Architecture:
    """LoRA of one rank in every layer; one that is smaller has its size for a rank."""
    return Architecture(
        {
            name: LayerChoices(B=Choice("lora", min(rank, *shape[:2])))
            for name, shape in shapes.items()
        }
    )


def loras(shapes: Mapping[str, LayerShape], budget: int) -> list[Architecture]:
    """LoRA of all ranks that fit the budget, from 1 on."""
    found: list[Architecture] = []
    for rank in range(1, max(min(shape[:2]) for shape in shapes.values()) + 1):
        larger = lora(shapes, rank)
        if larger.count(shapes) > budget:
            break
        found.append(larger)
    return found


def attention(shapes: Mapping[str, LayerShape]) -> dict[str, LayerShape]:
    """The layers of attention, by timm's names; none where the backbone has no attention.

    Example:
        >>> shape = LayerShape(4, 4)
        >>> list(attention({"blocks.0.attn.qkv": shape, "blocks.0.mlp.fc1": shape}))
        ['blocks.0.attn.qkv']
    """
    return {name: shape for name, shape in shapes.items() if "attn" in name.split(".")}


def preset_label(architecture: Architecture, shapes: Mapping[str, LayerShape]) -> str:
    """What a table of results calls an architecture that was given.

    Example:
        >>> shapes = {"fc1": LayerShape(8, 4), "fc2": LayerShape(4, 8)}
        >>> preset_label(Architecture.uniform(shapes, B="lora-2"), shapes)
        'LoRA r=2'
        >>> preset_label(Architecture.parse("fc1: B=lora-2"), shapes)
        'given'
    """
    rank = max(choices.B.rank for choices in architecture.values())
    known = {
        "linear probe": Architecture.uniform(shapes),
        "BitFit": Architecture.uniform(shapes, E="vector"),
        "SSF-like": ssf(shapes),
    }
    if rank:
        known[f"LoRA r={rank}"] = lora(shapes, rank)
    return next((name for name, ready in known.items() if ready == architecture), "given")
