"""Packages that are not needed by everybody."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from glora_automl.errors import ExportError

__all__ = ["require"]


def require(module: str, extra: str) -> Any:
    """Import a package of an extra.

    Raises:
        ExportError: If it is not installed.

    Example:
        >>> require("nothing_of_that_name", "onnx")
        Traceback (most recent call last):
        glora_automl.errors.ExportError: 'nothing_of_that_name' must be installed: pip install ...
    """
    try:
        return import_module(module)
    except ImportError:
        raise ExportError(
            f'{module!r} must be installed: pip install "glora-automl[{extra}]".'
        ) from None
