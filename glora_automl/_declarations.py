"""Find and check TOML declarations (recipes, search spaces, suites)."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from glora_automl._files import read_file, user_path
from glora_automl._messages import short, shorten
from glora_automl._rules import Place, find_fault, find_place
from glora_automl.errors import GLoRAError

# TOML is typed: neither true nor "3" is a number. JSON and TOML also have numbers that are none.
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Bool = Annotated[bool, Strict()]
Count = Annotated[Int, Field(ge=0, le=10**12)]
Sha256 = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="a sha256 of 64 hexadecimal digits")
]

MAX_BYTES = 1 << 20
"""Largest TOML file."""

MAX_TEXT, MAX_VALUES, MAX_DEPTH = 200_000, 500_000, 16
"""Bounds of a table: characters of a text, values in all, tables and lists in each other."""

MAX_INT = 2**63 - 1
"""Largest integer of TOML, of a database and of numpy."""

Folder = Literal["studies", "search_spaces", "suites", "portfolios"]
Model = TypeVar("Model", bound=BaseModel)

_NOUNS: dict[Folder, str] = {
    "studies": "recipe",
    "search_spaces": "search space",
    "suites": "suite",
    "portfolios": "portfolio",
}


class Declaration(BaseModel):
    """Frozen base of all TOML declarations; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def folder(kind: Folder) -> Path:
    """Return the folder of the shipped declarations, in the wheel or at the top of a checkout."""
    package = Path(__file__).parent
    in_wheel = package / "_data" / kind
    return in_wheel if in_wheel.is_dir() else package.parent / kind


def names(kind: Folder) -> list[str]:
    """Return the sorted names of the shipped declarations."""
    return sorted(path.stem for path in folder(kind).glob("*.toml"))


def suggest(word: str, known: list[str]) -> str:
    """Return a hint sentence for a misspelt word: the nearest known word, or all of them.

    Example:
        >>> suggest("lorra", ["lora", "bitfit"]), suggest("x", ["lora", "bitfit"])
        ("Did you mean 'lora'?", 'Choose one of lora, bitfit.')
    """
    near = difflib.get_close_matches(word[:100], known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    if not known:
        return "There are none to choose from."
    return f"Choose one of {shorten(', '.join(known), 110)}."


def read(kind: Folder, name: str | Path, error: type[GLoRAError]) -> tuple[str, dict[str, Any]]:
    """Read a shipped declaration by name, or any TOML file by path.

    Returns:
        The name (the file's stem) and the parsed table.

    Raises:
        GLoRAError: As ``error``, if the file is missing, unreadable or not TOML.
    """
    noun = _NOUNS[kind]
    if not isinstance(name, str | Path) or not str(name).endswith(".toml"):
        if name not in names(kind):
            raise error(
                f"The {noun} must be a shipped name or a path that ends in .toml, "
                f"got {short(name)}. {suggest(str(name), names(kind))}"
            )
        path = folder(kind) / f"{name}.toml"
    else:
        path = user_path(name, f"The {noun} file", error)
    try:
        return path.stem, tomllib.loads(read_file(path, MAX_BYTES).decode())
    except OSError as reason:
        raise error(
            f"The {noun} file must be readable, got {short(str(path), 120)} ({reason.strerror}). "
            "Check the path."
        ) from None
    except (ValueError, RecursionError) as reason:
        why = "it is nested too deeply" if isinstance(reason, RecursionError) else str(reason)
        raise error(
            f"The {noun} file must be TOML, got {short(str(path), 120)} ({shorten(why, 100)})."
        ) from None


def check_plain(table: object, *, control: bool = False) -> None:
    """Check that a parsed document has bounded numbers, texts and depth, before it is used.

    Args:
        table: Values as JSON or TOML have them. Other objects are left to their own checks.
        control: Whether texts may have control characters, such as names of folders.

    Raises:
        ValueError: If a value is out of bounds; the message begins with its dotted key.
    """
    waiting: list[tuple[tuple[Any, ...], object]] = [((), table)]
    seen = 0
    while waiting:
        path, value = waiting.pop()
        seen += 1
        fault = None
        if seen > MAX_VALUES:
            fault = f"have at most {MAX_VALUES:,} values"
        elif len(path) > MAX_DEPTH:
            fault = f"be nested at most {MAX_DEPTH} deep"
        elif isinstance(value, str) and len(value) > MAX_TEXT:
            fault = f"have at most {MAX_TEXT:,} characters"
        elif isinstance(value, str) and not control and _FORBIDDEN.search(value):
            fault = "be text without control characters"
        elif isinstance(value, int) and abs(value) > MAX_INT:
            fault = "be an integer of 64 bits"
        if fault is not None:
            key = shorten(".".join(map(str, path[:MAX_DEPTH])), 60)
            raise ValueError(f"{key or 'the table'} must {fault}, got {short(value, 60)}.")
        if isinstance(value, dict):
            waiting += [((*path, "the key"), key) for key in value]
            waiting += [((*path, key), inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [((*path, place), inner) for place, inner in enumerate(value)]


# Lines and tabs are text. Other control characters act on a terminal, and surrogates are none.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def validate(
    model: type[Model],
    table: object,
    where: str,
    error: type[GLoRAError],
    *,
    control: bool = False,
    hint: str | None = None,
) -> Model:
    """Check a parsed table against its model and report the first fault in one line.

    Args:
        model: The declaration's class.
        table: The parsed table.
        where: Prefix of the message, such as ``recipe digits``.
        error: Class of the exception.
        control: As for :func:`check_plain`.
        hint: The way out of any fault; by default to correct the key.

    Raises:
        GLoRAError: As ``error``, or as the :class:`GLoRAError` that a validator raised.
    """
    try:
        check_plain(table, control=control)
        return model.model_validate(table)
    except ValidationError as faults:
        fault = find_fault(faults.errors())
    except ValueError as out_of_bounds:
        raise error(f"{where}: {out_of_bounds}") from None
    place, kind = find_place(model, fault["loc"]), fault["type"]
    keys, owner = place.keys, place.owner
    if kind.startswith("union_tag"):  # discriminator of a table, such as task.source
        keys = (*keys, fault["ctx"]["discriminator"].strip("'"))
        place = place._replace(keys=keys, option=keys)
    key = shorten(".".join(keys), 80) or "the table"
    if kind == "extra_forbidden":
        known = [] if owner is None else list(owner.model_fields)
        raise error(f"{where}: unknown key {key!r}. {suggest(keys[-1], known)}")
    if kind in ("missing", "union_tag_not_found"):
        raise error(f"{where}: the key {key!r} is required and missing. {hint or 'Add it.'}")
    hint = hint or (f"Correct `{'.'.join(place.option)}`." if place.option else "Correct it.")
    if kind == "value_error":  # from a validator of this package, which names the value
        reason = fault["ctx"]["error"]
        kept = type(reason) if isinstance(reason, GLoRAError) else error
        raise kept(f"{where}: {_with_key(str(reason), place, hint)}")
    rule, value = place.rule or "valid", short(_value_at(table, keys, fault["input"]))
    if kind == "union_tag_invalid":
        rule = f"one of {fault['ctx']['expected_tags']}"
    raise error(f"{where}: {key} must be {rule}, got {value}. {hint}")


def _with_key(reason: str, place: Place, hint: str) -> str:
    """Return a validator's message with its whole key and a way out.

    A validator knows the key, at most, and not the tables that lead to it.
    """
    key = ".".join(place.keys)
    own = {} if place.model is None else place.model.model_fields
    for name in own if key else ():
        reason = reason.replace(f"`{name}`", f"`{key}.{name}`")
    if reason.startswith("must "):
        reason = f"{key} {reason}"
    else:
        word = _WORD.match(reason)
        *above, last = place.keys or ("",)
        if word is not None and word[0] == last:
            reason = ".".join([*above, reason])
        elif word is not None and word[0] in own and key:
            reason = f"{key}.{reason}"
        elif key:
            reason = f"{key}: {reason}"
    return reason if _HINT.search(reason) else f"{reason} {hint}"


_WORD = re.compile(r"\w+")
_HINT = re.compile(r"[.?] (?=[A-Z])")


def _value_at(table: object, keys: Sequence[str], otherwise: object) -> object:
    """Return the value at a key of a parsed table, which a union's members see in parts."""
    for key in keys:
        if isinstance(table, Mapping) and key in table:
            table = table[key]
        elif isinstance(table, list | tuple) and key.isdigit() and int(key) < len(table):
            table = table[int(key)]
        else:
            return otherwise
    return table


@contextmanager
def of_file() -> Iterator[None]:
    """Name keys of a file plainly in errors: backticks stand for what a caller can pass."""
    try:
        yield
    except GLoRAError as error:
        raise type(error)(str(error).replace("`", "")) from None
