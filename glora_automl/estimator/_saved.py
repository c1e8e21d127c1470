"""What is written of a classifier beside its adapter, and read again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple, Self

import numpy as np

from glora_automl.backbones import BackboneSettings
from glora_automl.errors import ExportError
from glora_automl.estimator._pixels import Pixels
from glora_automl.export import Adapter
from glora_automl.search_space import SearchSpaceSpec

__all__ = ["Saved"]

KEY = "classifier"
"""Where it stands among what an adapter tells about itself."""


class Saved(NamedTuple):
    """A classifier without its weights.

    Attributes:
        parameters: Those of the constructor, by name.
        backbone: What was adapted.
        seed: The seed that was used.
        classes: Its labels.
        pixels: How it sees rows of numbers.
        names: Names of the features, if it was fitted with some.
    """

    parameters: dict[str, Any]
    backbone: BackboneSettings
    seed: int
    classes: np.ndarray
    pixels: Pixels
    names: tuple[str, ...]

    def put_into(self, adapter: Adapter) -> Adapter:
        """The adapter that tells all this about itself.

        Storage and device are left out, which are those of one process; a generator of random
        numbers becomes the seed that it gave.
        """
        kept = {k: v for k, v in self.parameters.items() if k not in ("device", "storage")}
        space, given = kept["search_space"], kept["architecture"]
        table = {
            "parameters": {
                **kept,
                "search_space": space if isinstance(space, str) else space.model_dump(mode="json"),
                "architecture": None if given is None else str(given),
                "random_state": self.seed,
                "runs": str(kept["runs"]),
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
    def of(cls, adapter: Adapter, path: str, known: Collection[str]) -> Self:
        """What an adapter tells.

        Args:
            adapter: The adapter.
            path: Where it was, for messages.
            known: Parameters that there are.

        Raises:
            ExportError: If it is not that of a classifier.
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
                f"The adapter {path!r} must be one that GLoRAClassifier.save wrote: "
                f"{type(error).__name__} {reason}."
            ) from None


def _plain(value: Any) -> Any:
    """The same with numpy's numbers as those of JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value
