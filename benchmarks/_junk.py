"""Malformed inputs: values that break readers, and documents and files with them."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from typing import Any

JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**18, 10**100, -(10**400), 0.5, -0.5, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", " ", "x", "nan", "1e999", "9" * 5000,
    "x" * 10_000, "../../etc/passwd", "~nouser/x", "/dev/zero", "/dev/full", "/", "a\0b",
    "[/red]", "[red]",
    "\x1b[31m", "\u202e", "\ud800", "é" * 300, "{}", "%s%n", "${HOME}", "$(id)", "'; DROP TABLE x",
    [], [[]], [None], [1, "a"], [10**6] * 100, {}, {"a": None}, {"": {"": []}},
)  # fmt: skip
"""Values of any type, of which most readers refuse most."""


def value(rng: random.Random) -> Any:
    """Return a junk value; one in twenty is nested 500 deep."""
    if rng.random() < 0.05:
        nested: Any = 1
        for _ in range(500):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        return nested
    return copy.deepcopy(rng.choice(JUNK))


def text(rng: random.Random) -> str:
    """Return junk text: a junk value, or random characters."""
    if rng.random() < 0.5:
        return str(rng.choice([junk for junk in JUNK if isinstance(junk, str | float)]))
    alphabet = "abcE=:.-_ \n\t/\\'\"[]{}%,0129\0é\x1b\U0001f600"
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(40)))


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in a document."""
    if path:
        yield path
    items = document.items() if isinstance(document, dict) else ()
    if isinstance(document, list):
        items = enumerate(document)
    for key, inner in items:
        yield from places(inner, (*path, key))


def document(rng: random.Random, original: Any) -> Any:
    """Return a document with one to three values replaced, removed or added."""
    changed = copy.deepcopy(original)
    for _ in range(rng.randint(1, 3)):
        found = list(places(changed))
        if not found:
            break
        *parents, last = rng.choice(found)
        owner = changed
        for key in parents:
            owner = owner[key]
        kind = rng.random()
        if kind < 0.15:
            del owner[last]
        elif kind < 0.25 and isinstance(owner, dict):
            owner[text(rng) or "new"] = value(rng)
        else:
            owner[last] = value(rng)
    return changed


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Return bytes that are cut, flipped, repeated or filled with others."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.randrange(1, 64))
        kind = rng.randrange(4)
        if kind == 0:
            del changed[start:]
        elif kind == 1:
            changed[start:end] = rng.randbytes(end - start)
        elif kind == 2:
            changed[start:start] = changed[start:end]
        elif start < len(changed):
            changed[start] ^= 1 << rng.randrange(8)
    return bytes(changed)


def toml(document: Any) -> str:
    """Return a document as TOML, as far as TOML has its values; others are written as they are."""
    lines: list[str] = []
    for key, inner in document.items():
        lines.append(f"{_key(key)} = {inline(inner)}")
    return "\n".join(lines)


def inline(value: Any) -> str:
    """Return a value of any depth as TOML."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        return _inline(value)
    finally:
        sys.setrecursionlimit(limit)


def _key(key: object) -> str:
    name = str(key)
    plain = name.replace("_", "").replace("-", "").isalnum() and name.isascii()
    return name if plain else _quoted(name)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_inline, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(k)} = {_inline(v)}' for k, v in value.items())} }}"
    return '"none"' if value is None else str(value)
