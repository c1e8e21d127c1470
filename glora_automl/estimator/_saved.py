"""What is written beside a classifier's adapter, and read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from glora_automl.errors import ExportError
from glora_automl.estimator._pixels import Pixels
from glora_automl.export import Adapter
from glora_automl.search_space import SearchSpaceSpec

__all__ = ["Saved", "read_saved", "to_json"]

KEY = "classifier"
"""Where it stands among what an adapter tells about itself."""


class Saved(NamedTuple):
    """A classifier without its weights.

    Attributes:
        parameters: Those of the constructor, by name; ``random_state`` is the seed that was used.
        classes: Its labels.
        pixels: How it sees rows of numbers.
        names: Names of the features, if it was fitted with some.
    """

    parameters: dict[str, Any]
    classes: np.ndarray
    pixels: Pixels
    names: tuple[str, ...] = ()


def to_json(saved: Saved, seed: int) -> dict[str, Any]:
    """As JSON. Storage and device are not kept: they are those of one process.

    Args:
        saved: The classifier.
        seed: The seed that was used.
    """
    parameters = saved.parameters
    space, given = parameters["search_space"], parameters["architecture"]
    kept = {key: value for key, value in parameters.items() if key not in ("device", "storage")}
    table = {
        "parameters": {
            **kept,
            "search_space": space if isinstance(space, str) else space.model_dump(mode="json"),
            "architecture": None if given is None else str(given),
            "random_state": seed,
            "runs": str(parameters["runs"]),
        },
        "classes": saved.classes.tolist(),
        "dtype": saved.classes.dtype.str,
        "pixels": list(saved.pixels),
        "names": list(saved.names),
    }
    return {KEY: table}


def read_saved(adapter: Adapter, path: str) -> Saved:
    """The inverse of :func:`to_json`.

    Raises:
        ExportError: If the adapter is not that of a classifier.
    """
    try:
        table = adapter.record.about[KEY]
        parameters: Mapping[str, Any] = table["parameters"]
        space = parameters["search_space"]
        if not isinstance(space, str):
            space = SearchSpaceSpec.model_validate(space)
        shape, low, high = table["pixels"]
        return Saved(
            {**parameters, "search_space": space},
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
