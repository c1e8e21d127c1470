"""Metadata of a saved classifier, in the record of its adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field

from glora_automl._declarations import MAX_TEXT, Bool, Declaration, Float, Int, validate
from glora_automl._messages import one_line, short
from glora_automl.backbones import BackboneSettings, ModelKwargs
from glora_automl.budget import Budget
from glora_automl.errors import ExportError
from glora_automl.estimator._pixels import Pixels
from glora_automl.estimator._settings import by_class
from glora_automl.export import Adapter
from glora_automl.search_space import SearchSpaceSpec

__all__ = ["Saved"]

MAX_BYTES = 10**8
"""Most bytes of the labels."""

Seed = Annotated[Int, Field(ge=0, lt=2**32)]

DTYPE = r"^(\|b1|[<>|=][iu][1248]|[<>]f[248]|[<>]U[0-9]{1,4}|\|O)$"
"""Types of labels, as numpy writes them."""

KEY = "classifier"
"""Key of the metadata in ``about`` of the record."""


_OWN = ("device", "storage", "memory")
"""Parameters that belong to one process."""

Size = Annotated[Int, Field(ge=1, le=100_000)]
Weight = Annotated[Float, Field(ge=0, le=1e9)]
Pixel = Annotated[Float, Field(ge=-1e300, le=1e300)]


class _Parameters(Declaration):
    """Parameters of the constructor, as they are saved."""

    model: str
    pretrained: Bool
    model_kwargs: ModelKwargs | None
    budget: Budget
    architecture: Annotated[str, Field(max_length=MAX_TEXT)] | None
    search_space: str | SearchSpaceSpec
    epochs: Annotated[Int, Field(ge=1, le=1_000_000)]
    n_trials: Annotated[Int, Field(ge=1, le=1_000_000)]
    timeout: Annotated[Float, Field(gt=0, le=1e8)] | None
    validation_size: Annotated[Int, Field(ge=1)] | Annotated[Float, Field(gt=0, lt=1)]
    class_weight: Literal["balanced"] | tuple[Weight, ...] | None
    scoring: Annotated[str, Field(pattern="^[a-z_]{1,40}$", description="the name of a metric")]
    settings: dict[str, Any] | None
    image_shape: Annotated[tuple[Int, ...], Field(max_length=3)] | None
    pixel_range: tuple[Pixel, Pixel] | None
    random_state: Seed
    verbose: Bool


class _Table(Declaration):
    """The metadata as JSON."""

    parameters: _Parameters
    backbone: BackboneSettings
    seed: Seed
    classes: Annotated[tuple[bool | int | float | str, ...], Field(min_length=2)]
    dtype: Annotated[str, Field(pattern=DTYPE, description="a type of labels, as numpy writes it")]
    pixels: tuple[tuple[Size, Size, Size], Pixel, Pixel]
    names: tuple[str, ...]


class Saved(NamedTuple):
    """Classifier without its weights.

    Attributes:
        parameters: Parameters of the constructor, by name.
        backbone: Settings of the backbone.
        seed: Seed of the fit.
        classes: Labels.
        pixels: Conversion of rows to images.
        names: Feature names, empty without any.
    """

    parameters: dict[str, Any]
    backbone: BackboneSettings
    seed: int
    classes: np.ndarray
    pixels: Pixels
    names: tuple[str, ...]

    def put_into(self, adapter: Adapter) -> Adapter:
        """Return the adapter with this metadata in its record.

        Storage, memory and device are left out, because they belong to one process. A random
        generator becomes the seed that was drawn from it.
        """
        parameters = {k: v for k, v in self.parameters.items() if k not in _OWN}
        space, architecture = parameters["search_space"], parameters["architecture"]
        table = {
            "parameters": {
                **parameters,
                "budget": Budget.parse(parameters["budget"]).written,
                "search_space": space if isinstance(space, str) else space.model_dump(mode="json"),
                "architecture": None if architecture is None else str(architecture),
                "class_weight": by_class(parameters["class_weight"], self.classes.tolist()),
                "random_state": self.seed,
            },
            "backbone": self.backbone.model_dump(mode="json"),
            "seed": self.seed,
            "classes": self.classes.tolist(),
            "dtype": self.classes.dtype.str,
            "pixels": list(self.pixels),
            "names": list(self.names),
        }
        about = {**adapter.record.about, KEY: _plain(table)}
        return replace(adapter, record=adapter.record.model_copy(update={"about": about}))

    @classmethod
    def from_adapter(cls, adapter: Adapter, path: str) -> Self:
        """Read the metadata of an adapter.

        Args:
            adapter: The adapter.
            path: Its folder, for messages.

        Raises:
            ExportError: If the adapter is not one of a classifier.
        """
        where = f"`path` must be a folder that GLoRAClassifier.save wrote, got {short(path)}"
        table = validate(
            _Table,
            adapter.record.about.get(KEY),
            f"{where}: classifier",
            ExportError,
            control=True,
            hint="Save it again.",
        )
        parameters = table.parameters.model_dump()
        if not isinstance(table.parameters.search_space, str):
            parameters["search_space"] = table.parameters.search_space
        weights = table.parameters.class_weight
        if isinstance(weights, tuple):
            parameters["class_weight"] = dict(zip(table.classes, weights, strict=False))
        try:
            if np.dtype(table.dtype).itemsize * len(table.classes) > MAX_BYTES:
                raise ValueError("they are too long")
            classes = np.array(table.classes, dtype=table.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise ExportError(f"{where}: classes: {one_line(error)}. Save it again.") from None
        if tuple(map(str, classes)) != adapter.classes or len(np.unique(classes)) < len(classes):
            raise ExportError(
                f"{where}: its classes must be those of its record, got {short(table.classes)}. "
                "Save it again."
            )
        return cls(
            parameters, table.backbone, table.seed, classes, Pixels(*table.pixels), table.names
        )


def _plain(value: Any) -> Any:
    """Return the value with numpy's numbers as plain ones."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value
