"""Import of optional dependencies."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from glora_automl.errors import ExportError

__all__ = ["require"]


def require(module: str, extra: str) -> Any:
    """Import a package of an extra.

    Args:
        module: Name of the package.
        extra: Extra of glora-automl that installs it.

    Raises:
        ExportError: If the import fails.

    Example:
        >>> require("nothing_of_that_name", "onnx")
        Traceback (most recent call last):
        glora_automl.errors.ExportError: 'nothing_of_that_name' must be installed, got: ...
    """
    try:
        return import_module(module)
    except ImportError as error:  # also if a dependency of the package is missing
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExportError(
            f'{module!r} must be installed, got: {reason}. Run pip install "glora-automl[{extra}]".'
        ) from None
