"""Metadata of a saved classifier, in the record of its adapter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np

from glora_automl.backbones import BackboneSettings
from glora_automl.budget import Budget
from glora_automl.errors import ExportError
from glora_automl.estimator._pixels import Pixels
from glora_automl.export import Adapter
from glora_automl.search_space import SearchSpaceSpec

__all__ = ["Saved"]

KEY = "classifier"
"""Key of the metadata in ``about`` of the record."""


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

        Storage and device are left out, because they belong to one process. A random generator
        becomes the seed that was drawn from it.
        """
        parameters = {k: v for k, v in self.parameters.items() if k not in ("device", "storage")}
        space, architecture = parameters["search_space"], parameters["architecture"]
        table = {
            "parameters": {
                **parameters,
                "budget": Budget.parse(parameters["budget"]).written,
                "search_space": space if isinstance(space, str) else space.model_dump(mode="json"),
                "architecture": None if architecture is None else str(architecture),
                "random_state": self.seed,
                "runs": str(parameters["runs"]),
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
    def from_adapter(cls, adapter: Adapter, path: str, known: Collection[str]) -> Self:
        """Read the metadata of an adapter.

        Args:
            adapter: The adapter.
            path: Its folder, for messages.
            known: Parameters of the constructor.

        Raises:
            ExportError: If the adapter is not one of a classifier.
        """
        try:
            table = adapter.record.about[KEY]
            parameters = dict(table["parameters"])
            if unknown := set(parameters) - set(known):
                raise KeyError(f"unknown parameters {sorted(unknown)}")
            if not isinstance(parameters["search_space"], str):
                space = SearchSpaceSpec.model_validate(parameters["search_space"])
                parameters["search_space"] = space
            shape, low, high = table["pixels"]
            return cls(
                parameters,
                BackboneSettings.model_validate(table["backbone"]),
                int(table["seed"]),
                np.array(table["classes"], dtype=np.dtype(table["dtype"])),
                Pixels(tuple(shape), float(low), float(high)),
                tuple(table["names"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ExportError(
                f"`path` must be a folder that GLoRAClassifier.save wrote, got {path!r}: "
                f"{type(error).__name__} {reason}. Choose another `path`."
            ) from None


def _plain(value: Any) -> Any:
    """Return the value with numpy's numbers as plain ones."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value
