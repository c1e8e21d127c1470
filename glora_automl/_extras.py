"""Optional packages, which an extra of glora-automl installs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from glora_automl._messages import one_line
from glora_automl.errors import GLoRAError

__all__ = ["require"]


def require(module: str, extra: str, error: type[GLoRAError], purpose: str = "") -> Any:
    """Import a module of an optional package.

    Args:
        module: Name of the module.
        extra: Extra of glora-automl that installs its package.
        error: Class of the exception.
        purpose: What the package is needed for, for the message.

    Raises:
        GLoRAError: As ``error``, if the import fails.

    Example:
        >>> require("nothing_of_that_name", "onnx", GLoRAError, "the export")
        Traceback (most recent call last):
        glora_automl.errors.GLoRAError: nothing_of_that_name must be installed for the export, ...
    """
    try:
        return import_module(module)
    except ImportError as reason:  # also if a dependency of the package is missing
        package, needed = module.partition(".")[0], purpose and f" for {purpose}"
        raise error(
            f"{package} must be installed{needed}, got: {one_line(reason)}. Run pip install "
            f'"glora-automl[{extra}]".'
        ) from None
