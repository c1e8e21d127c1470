"""Packages that are not needed by everybody."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from glora_automl.errors import ExportError

__all__ = ["require"]


def require(module: str, extra: str) -> Any:
    """Import a package of an extra.

    Raises:
        ExportError: If it is not installed, or cannot be imported.

    Example:
        >>> require("nothing_of_that_name", "onnx")
        Traceback (most recent call last):
        glora_automl.errors.ExportError: 'nothing_of_that_name' must be installed and cannot ...
    """
    try:
        return import_module(module)
    except ImportError as error:  # also where it lacks something itself
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(
            f"{module!r} must be installed and cannot be imported ({reason}): pip install "
            f'"glora-automl[{extra}]".'
        ) from None
