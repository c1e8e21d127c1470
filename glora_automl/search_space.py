"""The search space: which layers, which choices, and how both become Optuna parameters."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from glora_automl import _declarations
from glora_automl._declarations import Declaration
from glora_automl.architecture import TENSORS, Architecture, Choice, LayerChoices, LayerShape
from glora_automl.errors import ArchitectureError, SearchSpaceError

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution

__all__ = [
    "Dimension",
    "SearchSpace",
    "SearchSpaceSpec",
    "list_search_spaces",
    "load_search_space",
]

Share = Literal["layer", "kind", "block", "model"]


class TensorChoices(Declaration):
    """The choices that each support tensor has; a tensor that is left out stays ``none``."""

    A: tuple[str, ...] = ("none",)
    B: tuple[str, ...] = ("none",)
    C: tuple[str, ...] = ("none",)
    D: tuple[str, ...] = ("none",)
    E: tuple[str, ...] = ("none",)


class SearchSpaceSpec(Declaration):
    """A search space as a TOML file declares it, before a model is known.

    Attributes:
        description: One line for ``glora spaces``.
        layers: Shell patterns on dotted layer names; a layer that one of them matches is adapted.
        exclude: Patterns of layers that are not.
        tie: Which layers choose together: each ``layer`` for itself, all of a ``kind``
            (``blocks.*.attn.qkv``), all of a ``block`` (``blocks.0``) or the whole ``model``.
        choices: The choices of each support tensor. A layer is not offered what it cannot have:
            ``D`` without a bias, a LoRA rank above its size.
    """

    description: str = ""
    layers: tuple[str, ...] = Field(default=("*",), min_length=1)
    exclude: tuple[str, ...] = ()
    tie: Share = "layer"
    choices: TensorChoices

    def select(self, names: list[str]) -> list[str]:
        """The layers among ``names`` that the patterns take, in their order.

        Raises:
            SearchSpaceError: If a pattern matches nothing; the message lists names.
        """
        for field in ("layers", "exclude"):
            for pattern in getattr(self, field):
                if not fnmatch.filter(names, pattern):
                    shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
                    raise SearchSpaceError(
                        f"search_space.{field}: each pattern must match a layer, {pattern!r} "
                        f"matches none of the {len(names)} layers ({shown or 'none'})."
                    )
        chosen = [
            name
            for name in names
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.layers)
            and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)
        ]
        if not chosen:
            raise SearchSpaceError(
                "search_space.exclude must leave at least one layer, got "
                f"{list(self.exclude)}; all {len(names)} layers are excluded."
            )
        return chosen


def list_search_spaces() -> list[str]:
    """Names of the search spaces that ship.

    Example:
        >>> list_search_spaces()
        ['default', 'lean', 'lora-ranks', 'paper', 'vectors']
    """
    return _declarations.names("search_spaces")


def load_search_space(name: str) -> SearchSpaceSpec:
    """Read a shipped search space by name, or one of the user's by the path of its TOML file.

    Raises:
        SearchSpaceError: If it is not found or misspelt.

    Example:
        >>> load_search_space("lora-ranks").choices.B
        ('none', 'lora-1', 'lora-2', 'lora-4', 'lora-8', 'lora-16')
    """
    stem, table = _declarations.read("search_spaces", name, SearchSpaceError)
    where = f"search space {stem}"
    spec = _declarations.validate(SearchSpaceSpec, table, where, SearchSpaceError)
    check_choices(spec, where)
    return spec


def check_choices(spec: SearchSpaceSpec, where: str) -> None:
    """Refuse choices that their tensor does not allow, or that stand twice.

    Raises:
        SearchSpaceError: With ``where`` in front.
    """
    for tensor in TENSORS:
        choices = getattr(spec.choices, tensor)
        try:
            for choice in choices:
                Choice.parse(choice).check(tensor)
        except ArchitectureError as error:
            raise SearchSpaceError(f"{where}: choices.{tensor}: {error}") from None
        if not choices or len(set(choices)) < len(choices):
            raise SearchSpaceError(
                f"{where}: choices.{tensor} must name at least one choice, each once, "
                f"got {list(choices)}."
            )


def group(name: str, tie: Share) -> str:
    """The name under which a layer chooses: ``*`` stands for what it shares with others.

    Example:
        >>> [group("layers.0.blocks.1.attn.qkv", s) for s in ("layer", "kind", "block", "model")]
        ['layers.0.blocks.1.attn.qkv', 'layers.*.blocks.*.attn.qkv', 'layers.0.blocks.1.*', '*']
    """
    if tie == "layer":
        return name
    if tie == "model":
        return "*"
    *parents, leaf = name.split(".")
    indices = [i for i, part in enumerate(parents) if part.isdigit()]
    if tie == "kind":
        return ".".join(["*" if i in indices else part for i, part in enumerate(parents)] + [leaf])
    return ".".join([*parents[: indices[-1] + 1], "*"]) if indices else name


@dataclass(frozen=True)
class Dimension:
    """One categorical parameter: a support tensor of the layers that choose together.

    Attributes:
        name: The parameter's name in Optuna, such as ``blocks.0.attn.qkv.A``.
        tensor: The support tensor.
        layers: The layers that take the choice.
        choices: The values, as they are printed.
        costs: Trainable parameters of each value, over all ``layers``.
    """

    name: str
    tensor: str
    layers: tuple[str, ...]
    choices: tuple[str, ...]
    costs: tuple[int, ...]


class SearchSpace:
    """A declared search space on the layers of one model.

    Args:
        spec: The declaration.
        shapes: All adaptable layers of the model by dotted name, in the model's order.

    Attributes:
        shapes: The layers that the declaration selects.
        dimensions: One per Optuna parameter. A tensor with a single choice is none of them.

    Raises:
        SearchSpaceError: If a pattern matches nothing, a choice fits no layer, or none fits one.

    Example:
        >>> shapes = {"blocks.0.fc1": LayerShape(8, 4), "blocks.1.fc1": LayerShape(8, 4)}
        >>> space = SearchSpace(load_search_space("vectors"), shapes)
        >>> [d.name for d in space.dimensions][:2]
        ['blocks.0.fc1.A', 'blocks.0.fc1.B']
        >>> space.minimum, space.maximum
        (0, 72)
    """

    def __init__(self, spec: SearchSpaceSpec, shapes: Mapping[str, LayerShape]) -> None:
        check_choices(spec, "search_space")
        self.spec = spec
        self.shapes = {name: shapes[name] for name in spec.select(list(shapes))}
        self._check_ranks()
        self._take(self._declared())

    @classmethod
    def of(cls, architecture: Architecture, shapes: Mapping[str, LayerShape]) -> SearchSpace:
        """The space of one architecture alone, which has no parameters.

        Args:
            architecture: Its layers are those of the space.
            shapes: Layers of the model by dotted name, which can take the architecture.

        Example:
            >>> architecture = Architecture.parse("fc1: B=lora-2")
            >>> space = SearchSpace.of(architecture, {"fc1": LayerShape(8, 4)})
            >>> space.size, space.architecture({}) == architecture
            (1, True)
        """
        space = cls.__new__(cls)
        space.spec = SearchSpaceSpec(layers=tuple(architecture), choices=TensorChoices())
        space.shapes = {name: shapes[name] for name in architecture}
        dimensions = []
        for name, choices in architecture.items():
            for tensor, choice in zip(TENSORS, choices, strict=True):
                cost = choice.count(tensor, shapes[name])
                key = f"{name}.{tensor}"
                dimensions.append(Dimension(key, tensor, (name,), (str(choice),), (cost,)))
        space._take(dimensions)
        return space

    def _declared(self) -> list[Dimension]:
        """What the declaration comes to on the layers."""
        groups: dict[str, list[str]] = {}
        for name in self.shapes:
            groups.setdefault(group(name, self.spec.tie), []).append(name)
        return [
            self._dimension(key, tensor, tuple(layers))
            for key, layers in groups.items()
            for tensor in TENSORS
        ]

    def _take(self, dimensions: list[Dimension]) -> None:
        self.dimensions = tuple(d for d in dimensions if len(d.choices) > 1)
        self._fixed = tuple(d for d in dimensions if len(d.choices) == 1)
        fixed = sum(d.costs[0] for d in self._fixed)
        self.minimum = fixed + sum(min(d.costs) for d in self.dimensions)
        self.maximum = fixed + sum(max(d.costs) for d in self.dimensions)
        self._costs = {d.name: dict(zip(d.choices, d.costs, strict=True)) for d in self.dimensions}
        self.fixed_count = fixed

    @property
    def all_dimensions(self) -> tuple[Dimension, ...]:
        """Also those with a single choice, which are no parameters."""
        return (*self.dimensions, *self._fixed)

    def effective(self, choice: Choice, tensor: str, name: str) -> Choice:
        """What a choice comes to in a layer: one without bias has no ``D``, and so on."""
        return choice if self.shapes[name].has(tensor) else Choice("none")

    def _dimension(self, key: str, tensor: str, layers: tuple[str, ...]) -> Dimension:
        texts: tuple[str, ...] = getattr(self.spec.choices, tensor)
        if not any(self.shapes[name].has(tensor) for name in layers):
            texts = ("none",)
        misfits = {text: self._misfit(text, tensor, layers) for text in texts}
        fitting = tuple(text for text in texts if misfits[text] is None)
        if not fitting:
            raise SearchSpaceError(f"search_space: {misfits[texts[0]]}")
        costs = tuple(
            sum(
                self.effective(Choice.parse(text), tensor, name).count(tensor, self.shapes[name])
                for name in layers
            )
            for text in fitting
        )
        return Dimension(f"{key}.{tensor}", tensor, layers, fitting, costs)

    def _misfit(self, text: str, tensor: str, layers: Iterable[str]) -> str | None:
        """Why one of the layers cannot have a choice; None if all can."""
        for name in layers:
            try:
                self.effective(Choice.parse(text), tensor, name).check(tensor, self.shapes[name])
            except ArchitectureError as error:
                return f"{name}: {error}"
        return None

    def _check_ranks(self) -> None:
        """Refuse choices that no layer can have: they are mistakes."""
        for tensor in TENSORS:
            for text in getattr(self.spec.choices, tensor):
                misfits = [self._misfit(text, tensor, [name]) for name in self.shapes]
                if None not in misfits:
                    raise SearchSpaceError(f"search_space: {misfits[0]}")

    def distributions(self) -> dict[str, CategoricalDistribution]:
        """What Optuna sees: a categorical distribution per dimension."""
        from optuna.distributions import CategoricalDistribution

        return {d.name: CategoricalDistribution(d.choices) for d in self.dimensions}

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """The architecture that a trial's parameters stand for.

        Raises:
            SearchSpaceError: If a parameter is missing or its value is no choice.
        """
        chosen: dict[str, dict[str, Choice]] = {name: {} for name in self.shapes}
        for dimension in self.all_dimensions:
            only = dimension.choices[0] if len(dimension.choices) == 1 else None
            text = params.get(dimension.name, only)
            if text not in dimension.choices:
                raise SearchSpaceError(
                    f"The parameter {dimension.name!r} must be one of "
                    f"{', '.join(dimension.choices)}, got {text!r}."
                )
            for name in dimension.layers:
                chosen[name][dimension.tensor] = self.effective(
                    Choice.parse(str(text)), dimension.tensor, name
                )
        return Architecture({name: LayerChoices(**choices) for name, choices in chosen.items()})

    def params(self, architecture: Architecture) -> dict[str, str]:
        """The parameters that stand for an architecture: the inverse of :meth:`architecture`.

        Raises:
            SearchSpaceError: If the architecture is not in this space.
        """
        found: dict[str, str] = {}
        if set(architecture) == set(self.shapes):
            for dimension in self.dimensions:
                # In a tied group, a layer without bias says nothing about the group's D.
                teller = next(
                    name for name in dimension.layers if self.shapes[name].has(dimension.tensor)
                )
                found[dimension.name] = str(getattr(architecture[teller], dimension.tensor))
            if self.architecture(found) == architecture:
                return found
        raise SearchSpaceError(
            "The architecture must take the layers, choices and ties of the search space; "
            f"got {architecture!r}."
        )

    def count(self, params: Mapping[str, Any]) -> int:
        """Trainable adapter parameters of a trial's parameters."""
        return self.fixed_count + sum(self._costs[name][params[name]] for name in self._costs)

    def layer_choices(self) -> dict[str, dict[str, tuple[Choice, ...]]]:
        """What :func:`glora_automl.adapters.attach` needs: the choices of each layer's tensors."""
        choices: dict[str, dict[str, tuple[Choice, ...]]] = {name: {} for name in self.shapes}
        for dimension in self.all_dimensions:
            for name in dimension.layers:
                choices[name][dimension.tensor] = tuple(
                    dict.fromkeys(
                        self.effective(Choice.parse(text), dimension.tensor, name)
                        for text in dimension.choices
                    )
                )
        return choices

    @property
    def size(self) -> int:
        """Number of architectures.

        Example:
            >>> shapes = {f"blocks.{i}.fc1": LayerShape(16, 16) for i in range(2)}
            >>> SearchSpace(load_search_space("paper"), shapes).size == 432**2
            True
        """
        product = 1
        for dimension in self.dimensions:
            product *= len(dimension.choices)
        return product

    @property
    def digest(self) -> str:
        """sha256 of what a trial means here: dimensions, layers, choices and costs."""
        value = [(d.name, d.layers, d.choices, d.costs) for d in self.all_dimensions]
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()
