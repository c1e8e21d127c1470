"""Find and check TOML declarations (recipes, search spaces, suites)."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from glora_automl.errors import GLoRAError

# TOML is typed: neither true nor "3" is a number.
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]

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
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Choose one of {', '.join(known)}." if known else "There are none to choose from."


def read(kind: Folder, name: str, error: type[GLoRAError]) -> tuple[str, dict[str, Any]]:
    """Read a shipped declaration by name, or any TOML file by path.

    Returns:
        The name (the file's stem) and the parsed table.

    Raises:
        GLoRAError: As ``error``, if the file is missing, unreadable or not TOML.
    """
    noun = _NOUNS[kind]
    path = Path(name)
    if path.suffix != ".toml":
        path = folder(kind) / f"{name}.toml"
        if name not in names(kind):
            raise error(
                f"The {noun} must be a shipped name or a path that ends in .toml, "
                f"got {name!r}. {suggest(name, names(kind))}"
            )
    try:
        return path.stem, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(
            f"The {noun} file must be readable, got {str(path)!r} ({reason.strerror}). "
            "Check the path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        raise error(f"The {noun} file must be TOML, got {str(path)!r} ({reason}).") from None


def validate(model: type[Model], table: object, where: str, error: type[GLoRAError]) -> Model:
    """Check a parsed table against its model and report the first fault in one line.

    Args:
        model: The declaration's class.
        table: The parsed table.
        where: Prefix of the message, such as ``recipe digits``.
        error: Class of the exception.

    Raises:
        GLoRAError: As ``error``, or as the :class:`GLoRAError` that a validator raised.
    """
    try:
        return model.model_validate(table)
    except ValidationError as faults:
        # A misspelt key explains the missing key that it causes.
        fault = min(faults.errors(), key=lambda f: f["type"] != "extra_forbidden")
    owner, path = _locate(model, fault["loc"])
    if fault["type"].startswith("union_tag"):  # discriminator of a table, such as task.source
        path.append(fault["ctx"]["discriminator"].strip("'"))
    if fault["type"] == "union_tag_invalid":
        fault["msg"] = f"Input should be one of {fault['ctx']['expected_tags']}"
        fault["input"] = fault["ctx"]["tag"]
    key = ".".join(path) or "the table"
    if fault["type"] == "extra_forbidden":
        known = [] if owner is None else list(owner.model_fields)
        raise error(f"{where}: unknown key {key!r}. {suggest(path[-1], known)}")
    if fault["type"] in ("missing", "union_tag_not_found"):
        raise error(f"{where}: the key {key!r} is required and missing.")
    if fault["type"] == "value_error":  # from a validator of this package, which names the value
        reason = fault["ctx"]["error"]
        if isinstance(reason, GLoRAError):
            raise type(reason)(f"{where}: {reason}")
        raise error(f"{where}: {key}: {reason}")
    # pydantic writes "Input should be ...", "Tuple should have ...".
    rule = re.sub(r"^\w+ should ", "", fault["msg"])
    raise error(f"{where}: {key} must {rule}, got {fault['input']!r}.")


def _locate(
    model: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[type[BaseModel] | None, list[str]]:
    """Return the model of the table with the fault, and the keys that lead to the fault.

    An optional table counts like any other. pydantic lists the tag of a discriminated union as a
    key; the result leaves it out.
    """
    owner: Any = model
    path: list[str] = []
    parts = list(location)
    while parts:
        part = str(parts.pop(0))
        path.append(part)
        if owner is None or not parts:
            break
        field = owner.model_fields.get(part)
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        tables = [kind for kind in kinds if hasattr(kind, "model_fields")]
        if field is not None and field.discriminator:
            tag = str(parts.pop(0))
            key = str(field.discriminator)
            tables = [t for t in tables if tag in get_args(t.model_fields[key].annotation)]
        owner = tables[0] if tables else None
    return owner, path
