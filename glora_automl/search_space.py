"""The search space: layers, their choices, and the Optuna parameters of both."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

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

Tie = Literal["layer", "kind", "block", "model"]
Names = Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=1000)]


class TensorChoices(Declaration):
    """The choices of each support tensor; an omitted tensor stays ``none``."""

    A: Names = ("none",)
    B: Names = ("none",)
    C: Names = ("none",)
    D: Names = ("none",)
    E: Names = ("none",)


class SearchSpaceSpec(Declaration):
    """A declared search space, independent of a model.

    Attributes:
        description: One line for ``glora spaces``.
        layers: Shell patterns of the dotted names of adapted layers.
        exclude: Shell patterns of excluded layers.
        tie: Layers that share one choice: none (``layer``), all of a ``kind``
            (``blocks.*.attn.qkv``), all of a ``block`` (``blocks.0``) or all of the ``model``.
        choices: The choices of each support tensor. A layer drops the choices that it cannot
            have: ``D`` without a bias, a LoRA rank above its size.
    """

    description: str = Field(default="", max_length=1000)
    layers: Names = Field(default=("*",), min_length=1)
    exclude: Names = ()
    tie: Tie = "layer"
    choices: TensorChoices

    def select(self, names: list[str]) -> list[str]:
        """Return the names that the patterns select, in their order.

        Raises:
            SearchSpaceError: If a pattern matches no name, or ``exclude`` matches all.
        """
        for field in ("layers", "exclude"):
            for pattern in getattr(self, field):
                if not fnmatch.filter(names, pattern):
                    known = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
                    raise SearchSpaceError(
                        f"Each pattern of search_space.{field} must match a layer, got "
                        f"{pattern!r}. Choose from the {len(names)} layers {known}."
                    )
        selected = [
            name
            for name in names
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.layers)
            and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.exclude)
        ]
        if not selected:
            raise SearchSpaceError(
                "search_space.exclude must leave at least one layer, got "
                f"{list(self.exclude)}. Remove a pattern."
            )
        return selected


def list_search_spaces() -> list[str]:
    """Return the names of the shipped search spaces.

    Example:
        >>> list_search_spaces()
        ['default', 'lean', 'lora-ranks', 'paper', 'vectors']
    """
    return _declarations.names("search_spaces")


def load_search_space(name: str) -> SearchSpaceSpec:
    """Read a shipped search space by name, or another one by the path of its TOML file.

    Raises:
        SearchSpaceError: If the search space is missing or malformed.

    Example:
        >>> load_search_space("lora-ranks").choices.B
        ('none', 'lora-1', 'lora-2', 'lora-4', 'lora-8', 'lora-16')
    """
    stem, table = _declarations.read("search_spaces", name, SearchSpaceError)
    where = f"search space {stem}"
    with _declarations.of_file():
        spec = _declarations.validate(SearchSpaceSpec, table, where, SearchSpaceError)
        check_choices(spec, where, "choices")
    return spec


def check_choices(spec: SearchSpaceSpec, where: str, key: str = "search_space.choices") -> None:
    """Check that each support tensor allows its choices and has each of them once.

    Args:
        spec: The declaration.
        where: Prefix of the message.
        key: Key of the choices, for the way out.

    Raises:
        SearchSpaceError: If a choice is not allowed, missing or repeated.
    """
    for tensor in TENSORS:
        choices = getattr(spec.choices, tensor)
        try:
            for choice in choices:
                Choice.parse(choice).check(tensor)
        except ArchitectureError as error:
            raise SearchSpaceError(
                f"{where}: {key}.{tensor}: {error} Correct `{key}.{tensor}`."
            ) from None
        if not choices or len(set(choices)) < len(choices):
            raise SearchSpaceError(
                f"{where}: {key}.{tensor} must name at least one choice, each once, "
                f"got {list(choices)}. Correct `{key}.{tensor}`."
            )


def group(name: str, tie: Tie) -> str:
    """Return the name of a layer's group; ``*`` replaces the parts that differ in the group.

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
    """One categorical parameter: a support tensor of one group of layers.

    Attributes:
        name: Name of the Optuna parameter, such as ``blocks.0.attn.qkv.A``.
        tensor: The support tensor.
        layers: The layers of the group.
        choices: The printed choices.
        costs: Trainable parameters of each choice, over all ``layers``.
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
        shapes: The selected layers.
        dimensions: One per Optuna parameter, without tensors of a single choice.
        fixed_count: Trainable parameters of the tensors of a single choice.
        minimum: Trainable parameters of the smallest architecture.
        maximum: Trainable parameters of the largest architecture.

    Raises:
        SearchSpaceError: If a pattern matches no layer, a choice fits no layer, or a layer fits
            no choice.

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
        self._set_dimensions(self._declared_dimensions())

    @classmethod
    def of(cls, architecture: Architecture, shapes: Mapping[str, LayerShape]) -> SearchSpace:
        """Return the space of a single architecture, without Optuna parameters.

        Args:
            architecture: The architecture.
            shapes: Layers of the model by dotted name, including those of the architecture.

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
        space._set_dimensions(dimensions)
        return space

    def _declared_dimensions(self) -> list[Dimension]:
        groups: dict[str, list[str]] = {}
        for name in self.shapes:
            groups.setdefault(group(name, self.spec.tie), []).append(name)
        return [
            self._dimension(key, tensor, tuple(layers))
            for key, layers in groups.items()
            for tensor in TENSORS
        ]

    def _set_dimensions(self, dimensions: list[Dimension]) -> None:
        self.dimensions = tuple(d for d in dimensions if len(d.choices) > 1)
        self._fixed = tuple(d for d in dimensions if len(d.choices) == 1)
        fixed = sum(d.costs[0] for d in self._fixed)
        self.minimum = fixed + sum(min(d.costs) for d in self.dimensions)
        self.maximum = fixed + sum(max(d.costs) for d in self.dimensions)
        self._costs = {d.name: dict(zip(d.choices, d.costs, strict=True)) for d in self.dimensions}
        self.fixed_count = fixed

    @property
    def all_dimensions(self) -> tuple[Dimension, ...]:
        """The dimensions and the tensors of a single choice."""
        return (*self.dimensions, *self._fixed)

    def effective(self, choice: Choice, tensor: str, name: str) -> Choice:
        """Return a choice, or ``none`` in a layer that cannot have the tensor."""
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
        """Return why a layer cannot have a choice; None if all can."""
        for name in layers:
            try:
                self.effective(Choice.parse(text), tensor, name).check(tensor, self.shapes[name])
            except ArchitectureError as error:
                return f"{name}: {error}"
        return None

    def _check_ranks(self) -> None:
        """Raise SearchSpaceError for a choice that no layer can have."""
        for tensor in TENSORS:
            for text in getattr(self.spec.choices, tensor):
                misfits = [self._misfit(text, tensor, [name]) for name in self.shapes]
                if None not in misfits:
                    raise SearchSpaceError(
                        f"search_space: {misfits[0]} No layer is larger. Leave the choice out of "
                        "`search_space.choices`, or choose the `search_space` 'vectors'."
                    )

    def distributions(self) -> dict[str, CategoricalDistribution]:
        """Return one Optuna distribution per dimension."""
        from optuna.distributions import CategoricalDistribution

        return {d.name: CategoricalDistribution(d.choices) for d in self.dimensions}

    def architecture(self, params: Mapping[str, Any]) -> Architecture:
        """Return the architecture of a trial's parameters.

        Raises:
            SearchSpaceError: If a parameter is missing or its value is not a choice.
        """
        layers: dict[str, dict[str, Choice]] = {name: {} for name in self.shapes}
        for dimension in self.all_dimensions:
            only = dimension.choices[0] if len(dimension.choices) == 1 else None
            text = params.get(dimension.name, only)
            if text not in dimension.choices:
                raise SearchSpaceError(
                    f"The parameter {dimension.name!r} must be one of "
                    f"{', '.join(dimension.choices)}, got {text!r}."
                )
            for name in dimension.layers:
                layers[name][dimension.tensor] = self.effective(
                    Choice.parse(str(text)), dimension.tensor, name
                )
        return Architecture({name: LayerChoices(**choices) for name, choices in layers.items()})

    def params(self, architecture: Architecture) -> dict[str, str]:
        """Return the parameters of an architecture: the inverse of :meth:`architecture`.

        Raises:
            SearchSpaceError: If the architecture is not in this space.
        """
        params: dict[str, str] = {}
        if set(architecture) == set(self.shapes):
            for dimension in self.dimensions:
                # A layer without bias has D = none, whatever its group's choice.
                layer = next(
                    name for name in dimension.layers if self.shapes[name].has(dimension.tensor)
                )
                params[dimension.name] = str(getattr(architecture[layer], dimension.tensor))
            if self.architecture(params) == architecture:
                return params
        raise SearchSpaceError(
            "The architecture must have the layers, choices and ties of the search space, got "
            f"{architecture!r}."
        )

    def count(self, params: Mapping[str, Any]) -> int:
        """Return the trainable adapter parameters of a trial's parameters."""
        return self.fixed_count + sum(self._costs[name][params[name]] for name in self._costs)

    def layer_choices(self) -> dict[str, dict[str, tuple[Choice, ...]]]:
        """Return the choices of each layer, for :func:`glora_automl.adapters.attach`."""
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
        """The sha256 of dimensions, layers, choices and costs, which give trials their meaning."""
        value = [(d.name, d.layers, d.choices, d.costs) for d in self.all_dimensions]
        return hashlib.sha256(json.dumps(value).encode()).hexdigest()
