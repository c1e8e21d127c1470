"""Finds the TOML declarations (recipes, search spaces) of a checkout or an installed wheel."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from glora_automl.errors import GLoRAError

# TOML knows its types: true is no number, and "3" is none either.
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]

Folder = Literal["studies", "search_spaces", "suites"]
Model = TypeVar("Model", bound=BaseModel)


class Declaration(BaseModel):
    """Base of everything that is read from TOML: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def folder(kind: Folder) -> Path:
    """Where the shipped declarations are: in the wheel, or at the top of a checkout."""
    package = Path(__file__).parent
    packed = package / "_data" / kind
    return packed if packed.is_dir() else package.parent / kind


def names(kind: Folder) -> list[str]:
    """Names of the shipped declarations, sorted."""
    return sorted(path.stem for path in folder(kind).glob("*.toml"))


def suggest(word: str, known: list[str]) -> str:
    """The way out of a misspelling: the nearest known word, or all of them."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}."


def read(kind: Folder, name: str, error: type[GLoRAError]) -> tuple[str, dict[str, Any]]:
    """Read a shipped declaration by name, or any TOML file by path.

    Returns:
        The name (a file's stem) and the parsed table.

    Raises:
        GLoRAError: As the given ``error`` class, if nothing is found or it is no TOML.
    """
    what = {"studies": "recipe", "search_spaces": "search space", "suites": "suite"}[kind]
    path = Path(name)
    if path.suffix != ".toml":
        path = folder(kind) / f"{name}.toml"
        if name not in names(kind):
            raise error(
                f"The {what} must be a shipped name or a path that ends in .toml, "
                f"got {name!r}; {suggest(name, names(kind))}"
            )
    try:
        return path.stem, tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise error(f"The {what} file {str(path)!r} cannot be read: {reason.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        raise error(f"The {what} file {str(path)!r} is no TOML: {reason}.") from None


def validate(model: type[Model], table: object, where: str, error: type[GLoRAError]) -> Model:
    """Check a parsed table against its model; the first fault becomes one line.

    Raises:
        GLoRAError: As the given ``error`` class, with key, rule, value and way out.
    """
    try:
        return model.model_validate(table)
    except ValidationError as faults:
        # A misspelt key tells more than the missing one that it leaves behind.
        fault = min(faults.errors(), key=lambda f: f["type"] != "extra_forbidden")
    owner, path = _locate(model, fault["loc"])
    if fault["type"].startswith("union_tag"):  # which kind a table is, such as a task's source
        path.append(fault["ctx"]["discriminator"].strip("'"))
    if fault["type"] == "union_tag_invalid":
        fault["msg"] = f"Input should be one of {fault['ctx']['expected_tags']}"
        fault["input"] = fault["ctx"]["tag"]
    key = ".".join(path) or "the table"
    if fault["type"] == "extra_forbidden":
        known = [] if owner is None else list(owner.model_fields)
        raise error(f"{where}: unknown key {key!r}; {suggest(path[-1], known)}")
    if fault["type"] in ("missing", "union_tag_not_found"):
        raise error(f"{where}: the key {key!r} is required and missing.")
    if fault["type"] == "value_error":  # raised by a validator of ours, which tells the value
        raise error(f"{where}: {key}: {fault['msg'].removeprefix('Value error, ')}")
    if fault["msg"].startswith("Input should be "):
        rule = fault["msg"].removeprefix("Input should be ")
        raise error(f"{where}: {key} must be {rule}, got {fault['input']!r}.")
    raise error(f"{where}: {key}: {fault['msg']}, got {fault['input']!r}.")


def _locate(
    model: type[BaseModel], location: tuple[int | str, ...]
) -> tuple[type[BaseModel] | None, list[str]]:
    """The model of the table in which a fault lies, and the keys that lead to the fault.

    A table that may be left out counts like any other. Of a table of several kinds pydantic tells
    the kind as if it were a key; here it is none.
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
            by = str(field.discriminator)
            tables = [t for t in tables if tag in get_args(t.model_fields[by].annotation)]
        owner = tables[0] if tables else None
    return owner, path
