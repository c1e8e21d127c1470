"""Show the reST of docstrings as Markdown on the documentation site."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["Markdown"]


class Markdown(griffe.Extension):
    """Replace roles and double backticks by code spans."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring is not None:
            text = re.sub(r":(?:\w+:)?\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
            # The parser knows the plural alone; it shows doctests as code.
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", text.replace("``", "`"))
