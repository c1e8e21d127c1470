"""Recipes as TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomlkit

__all__ = ["write_toml"]


def write_toml(table: Mapping[str, Any]) -> str:
    """Return a recipe's table as a TOML file; values of None, which TOML lacks, are left out.

    Example:
        >>> print(write_toml({"seed": 0, "name": None, "task": {"source": "digits"}}), end="")
        seed = 0
        <BLANKLINE>
        [task]
        source = "digits"
    """
    return tomlkit.dumps(_present(table))


def _present(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _present(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_present(part) for part in value]
    return value
