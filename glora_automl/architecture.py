"""Choices and architectures: parse, print, count.

An adapted linear layer with frozen ``W0 (out, in)`` and ``b0 (out,)`` computes with

.. math::
    W = W_0 + W_0 \\odot A + B, \\qquad b = b_0 + b_0 \\odot D + E + W_0 C

(GLoRA, arXiv 2306.07967, equation 10; the product with ``A`` is elementwise, as in the reference
code). One *choice* parameterises each support tensor ``A`` to ``E``.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from glora_automl._messages import short
from glora_automl.errors import ArchitectureError

__all__ = ["TENSORS", "Architecture", "Choice", "LayerChoices", "LayerShape"]

TENSORS = ("A", "B", "C", "D", "E")
"""The support tensors, in printing order."""

Kind = Literal["none", "scalar", "vector", "lora"]

_ALLOWED: dict[str, tuple[Kind, ...]] = {
    "A": ("none", "scalar", "vector", "lora"),
    "B": ("none", "scalar", "vector", "lora"),
    "C": ("none", "vector", "lora"),
    "D": ("none", "scalar", "vector"),
    "E": ("none", "scalar", "vector"),
}


class LayerShape(NamedTuple):
    """The shape of a linear layer.

    Attributes:
        out_features: Rows of the weight.
        in_features: Columns of the weight.
        bias: Whether the layer has a bias.
        takes_bias: Whether the model uses the layer's bias, which C, D and E change. Some models
            read only the weight and add a bias of their own.
    """

    out_features: int
    in_features: int
    bias: bool = True
    takes_bias: bool = True

    def has(self, tensor: str) -> bool:
        """Return whether this layer can have a support tensor other than ``none``.

        Example:
            >>> [tensor for tensor in TENSORS if LayerShape(8, 4, bias=False).has(tensor)]
            ['A', 'B', 'C', 'E']
        """
        if tensor in "AB":
            return True
        return self.takes_bias and (tensor != "D" or self.bias)


@dataclass(frozen=True, slots=True)
class Choice:
    """The parameterisation of a support tensor: ``none``, ``scalar``, ``vector`` or ``lora-r``.

    Args:
        kind: One of ``"none"``, ``"scalar"``, ``"vector"``, ``"lora"``.
        rank: LoRA rank, at least 1; 0 for the other kinds.

    Raises:
        ArchitectureError: If the kind is unknown or the rank does not fit it.

    Example:
        >>> Choice.parse("lora-4")
        Choice(kind='lora', rank=4)
        >>> str(Choice("vector"))
        'vector'
        >>> Choice.parse("lora-4").count("B", LayerShape(192, 64))
        1024
    """

    kind: Kind
    rank: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _ALLOWED["A"] or (self.rank >= 1) != (self.kind == "lora"):
            raise ArchitectureError(
                f"A choice must be none, scalar, vector or lora-r with r >= 1, "
                f"got kind {self.kind!r} with rank {self.rank}."
            )

    def __str__(self) -> str:
        return f"lora-{self.rank}" if self.kind == "lora" else self.kind

    @staticmethod
    @functools.cache
    def parse(text: str) -> Choice:
        """Parse a choice from its printed form.

        Raises:
            ArchitectureError: If ``text`` is not a choice.
        """
        if not isinstance(text, str):
            raise ArchitectureError(f"A choice must be text, got {short(text)}.")
        if match := re.fullmatch(r"lora-([1-9][0-9]{0,8})", text):
            return Choice("lora", int(match[1]))
        for kind in ("none", "scalar", "vector"):
            if text == kind:
                return Choice(kind)
        raise ArchitectureError(
            f"A choice must be one of none, scalar, vector, lora-r with r >= 1, got {short(text)}."
        )

    def check(self, tensor: str, shape: LayerShape | None = None) -> None:
        """Check that a support tensor of a layer can have this choice.

        Args:
            tensor: The support tensor.
            shape: The layer's shape; None checks the kind only.

        Raises:
            ArchitectureError: If the tensor does not allow the kind, the layer lacks the bias
                that the tensor changes, or the rank exceeds the layer's size.
        """
        allowed = _ALLOWED[tensor]
        if self.kind not in allowed:
            names = ", ".join("lora-r" if kind == "lora" else kind for kind in allowed)
            raise ArchitectureError(f"{tensor} must be one of {names}, got {str(self)!r}.")
        if shape is None:
            return
        if self.kind != "none" and not shape.has(tensor):
            if not shape.takes_bias:
                raise ArchitectureError(
                    f"{tensor} of a layer whose bias the model does not use must be none, got "
                    f"{str(self)!r}. Use A or B."
                )
            raise ArchitectureError(
                f"D of a layer without bias must be none, got {str(self)!r}. Use C or E."
            )
        limit = shape.in_features if tensor == "C" else min(shape.out_features, shape.in_features)
        if self.rank > limit:
            raise ArchitectureError(
                f"The rank of {tensor} must be at most {limit} in a layer of "
                f"{shape.out_features} x {shape.in_features}, got {str(self)!r}."
            )

    def count(self, tensor: str, shape: LayerShape) -> int:
        """Return the trainable parameters of ``tensor`` in a layer of this shape."""
        if self.kind == "none":
            return 0
        if self.kind == "scalar":
            return 1
        out, in_ = shape.out_features, shape.in_features
        if self.kind == "vector":
            return in_ if tensor == "C" else out
        return self.rank * (in_ + 1 if tensor == "C" else in_ + out)


_NONE = Choice("none")


class LayerChoices(NamedTuple):
    """The choices of one layer, one field per support tensor."""

    A: Choice = _NONE
    B: Choice = _NONE
    C: Choice = _NONE
    D: Choice = _NONE
    E: Choice = _NONE

    def __str__(self) -> str:
        parts = [
            f"{tensor}={choice}"
            for tensor, choice in zip(TENSORS, self, strict=True)
            if choice is not _NONE and choice.kind != "none"
        ]
        return " ".join(parts) or "none"

    def count(self, shape: LayerShape) -> int:
        """Return the trainable parameters of the five support tensors."""
        return sum(c.count(t, shape) for t, c in zip(TENSORS, self, strict=True))


class Architecture(Mapping[str, LayerChoices]):
    """One choice per support tensor per layer: a hashable, printable, countable value.

    Args:
        layers: Choices by dotted layer name.

    Raises:
        ArchitectureError: If a layer name is malformed or a choice does not fit its tensor.

    Example:
        >>> arch = Architecture.parse('''
        ... blocks.0.attn.qkv: B=lora-4 E=vector
        ... blocks.0.attn.proj: none
        ... ''')
        >>> arch["blocks.0.attn.qkv"].B
        Choice(kind='lora', rank=4)
        >>> arch == Architecture.parse(str(arch))
        True
        >>> arch.count({"blocks.0.attn.qkv": LayerShape(192, 64),
        ...             "blocks.0.attn.proj": LayerShape(64, 64)})
        1216
    """

    __slots__ = ("_hash", "_layers")

    def __init__(self, layers: Mapping[str, LayerChoices]) -> None:
        for name, choices in layers.items():
            if not re.fullmatch(r"[^\s:]{1,500}", name) or not name.isprintable():
                raise ArchitectureError(
                    f"A layer name must be text without spaces and colons, got {short(name)}."
                )
            for tensor, choice in zip(TENSORS, choices, strict=True):
                try:
                    choice.check(tensor)
                except ArchitectureError as error:
                    raise ArchitectureError(f"{name}: {error}") from None
        self._layers = dict(layers)
        self._hash: int | None = None

    def __getitem__(self, name: str) -> LayerChoices:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self._layers.items()))
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return Architecture, (self._layers,)  # the hash of a string differs between processes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self._layers == other._layers

    def __str__(self) -> str:
        return "\n".join(f"{name}: {choices}" for name, choices in self._layers.items())

    def __repr__(self) -> str:
        return f"<Architecture of {len(self)} layers, digest {self.digest[:12]}>"

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Parse an architecture from its printed form, one layer per line.

        Raises:
            ArchitectureError: If a line is malformed or a layer is repeated.
        """
        if not isinstance(text, str):
            raise ArchitectureError(
                f"An architecture must be text with one line per layer, got {short(text)}."
            )
        layers: dict[str, LayerChoices] = {}
        for line in filter(None, map(str.strip, text.splitlines())):
            name, colon, rest = line.partition(":")
            words = rest.split()
            if not colon or not words:
                raise ArchitectureError(
                    "A line of an architecture must be 'layer: choices', such as "
                    f"'blocks.0.attn.qkv: B=lora-4 E=vector', got {short(line)}."
                )
            if name in layers:
                raise ArchitectureError(
                    f"An architecture must name each layer once, got {short(name)} twice."
                )
            fields: dict[str, Choice] = {}
            for word in [] if words == ["none"] else words:
                tensor, _, choice = word.partition("=")
                if tensor not in TENSORS or tensor in fields:
                    raise ArchitectureError(
                        f"{name}: the support tensors must be of {', '.join(TENSORS)}, each once, "
                        f"got {short(word)}."
                    )
                fields[tensor] = Choice.parse(choice)
            layers[name] = LayerChoices(**fields)
        return cls(layers)

    @classmethod
    def uniform(
        cls,
        shapes: Mapping[str, LayerShape],
        *,
        A: str = "none",
        B: str = "none",
        C: str = "none",
        D: str = "none",
        E: str = "none",
    ) -> Architecture:
        """Return the architecture with the same choices in every layer.

        A support tensor that a layer cannot have stays ``none``, such as D without a bias. LoRA is
        ``B="lora-r"``, BitFit ``E="vector"``, SSF-like ``A="vector", E="vector"``.

        Raises:
            ArchitectureError: If a choice does not fit a layer.
        """
        choices = list(zip(TENSORS, map(Choice.parse, (A, B, C, D, E)), strict=True))
        layers = {}
        for name, shape in shapes.items():
            layers[name] = LayerChoices(*(c if shape.has(t) else _NONE for t, c in choices))
            for tensor, choice in zip(TENSORS, layers[name], strict=True):
                choice.check(tensor, shape)
        return cls(layers)

    def count(self, shapes: Mapping[str, LayerShape]) -> int:
        """Return the trainable adapter parameters, without the classifier head."""
        return sum(choices.count(shapes[name]) for name, choices in self._layers.items())

    @property
    def digest(self) -> str:
        """The sha256 of the sorted lines of the printed form: equal for equal architectures."""
        lines = "\n".join(sorted(str(self).splitlines()))
        return hashlib.sha256(lines.encode()).hexdigest()
