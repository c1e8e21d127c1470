"""Rules of declarations in words, from their types, for messages about wrong values.

pydantic's own messages speak of Python's types ("a valid tuple"), and of a union they name one
member alone.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ByteSize, Tag
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

__all__ = ["Place", "find_fault", "find_place", "rule_of"]

_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true or false"),
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    ByteSize: ("a size such as '2GB', or a number of bytes", "sizes such as '2GB'"),
}
"""Words of a type, for one value and for several."""


class Place(NamedTuple):
    """Key of a declaration.

    Attributes:
        keys: The keys that lead to it.
        option: Those before the first list or table of any keys; a user can set them.
        owner: Model of the table that has the key, if it is known.
        model: Model of its value, if that is a table.
        rule: What its value must be, in words; empty if it is not known.
    """

    keys: tuple[str, ...]
    option: tuple[str, ...]
    owner: type[BaseModel] | None
    model: type[BaseModel] | None
    rule: str


def find_fault(faults: Sequence[ErrorDetails]) -> ErrorDetails:
    """Return the fault to report: a misspelt key explains the missing key that it causes."""
    return min(faults, key=lambda fault: fault["type"] != "extra_forbidden")


def find_place(kind: Any, location: tuple[int | str, ...]) -> Place:
    """Return the key with a fault.

    pydantic lists members of unions among the keys. The place of a fault in a union is the key of
    the union, except in a table that its tag selects.

    Args:
        kind: Type of the declaration.
        location: The fault's place, as pydantic lists it.
    """
    owner: type[BaseModel] | None = None
    keys: list[str] = []
    n_declared = None
    parts = list(location)
    rule = rule_of(kind)
    while parts:
        kind, metadata = _unwrap(kind)
        origin = get_origin(kind)
        if _is_union(kind):
            member = _tagged(kind, metadata, str(parts.pop(0)))
            if member is None or not parts:
                kind = member
                break
            kind = member
            continue
        fields = _fields(kind)
        is_table = fields is not None
        if not is_table and origin not in (dict, Mapping, tuple, list, set, frozenset):
            break
        if not is_table and n_declared is None:
            n_declared = len(keys)
        part = str(parts.pop(0))
        keys.append(part)
        if fields is not None:
            owner = _model(kind)
            kind = fields.get(part, Any)
        elif origin in (dict, Mapping):
            kind = get_args(kind)[1]
        else:
            members = get_args(kind)
            is_fixed = origin is tuple and members[-1:] != (...,) and part.isdigit()
            kind = members[int(part)] if is_fixed and int(part) < len(members) else members[0]
        rule = rule_of(kind)
    model = _model(_unwrap(kind)[0])
    return Place(tuple(keys), tuple(keys[:n_declared]), owner, model, rule)


def _model(kind: Any) -> type[BaseModel] | None:
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def rule_of(kind: Any, *, several: bool = False) -> str:
    """Return what a value must be, in words; empty for a type without any.

    A description of a field takes the place of its type.

    Args:
        kind: A type with its annotations.
        several: Whether the words stand for several values, as in ``a list of integers``.

    Example:
        >>> from pydantic import Field
        >>> rule_of(Annotated[int, Field(ge=1, le=9)]), rule_of(tuple[str, ...])
        ('an integer from 1 to 9', 'a list of texts')
        >>> rule_of(Literal["none", "balanced"] | bool | None)
        "'none', 'balanced' or true or false"
    """
    kind, metadata = _unwrap(kind)
    described = [part.description for part in metadata if isinstance(part, FieldInfo)]
    if any(described):
        return next(filter(None, described))
    if _is_union(kind):
        return _union(kind, several)
    origin = get_origin(kind)
    if origin is Literal:
        return _either(list(map(repr, get_args(kind))))
    if _fields(kind) is not None or origin in (dict, Mapping) or kind in (dict, Mapping):
        return "tables" if several else "a table"
    bounds = _bounds(metadata)
    if origin in (tuple, list, set, frozenset):
        return _list(get_args(kind), bounds, several)
    word = _WORDS.get(kind, ("", ""))[several]
    if kind is str:
        length = _length(bounds)
        return f"{word} of {length} characters" if length else word
    return f"{word} {_range(kind, bounds)}".rstrip() if kind in (int, float) else word


def _unwrap(kind: Any) -> tuple[Any, list[Any]]:
    """Return a type without annotations and without None, and the annotations."""
    metadata: list[Any] = []
    while True:
        if isinstance(kind, FieldInfo):
            metadata += [kind, *kind.metadata]
            kind = kind.annotation
        elif get_origin(kind) is Annotated:
            kind, *parts = get_args(kind)
            for part in parts:
                metadata += [part, *(part.metadata if isinstance(part, FieldInfo) else ())]
        elif _is_union(kind) and type(None) in get_args(kind):
            others = [part for part in get_args(kind) if part is not type(None)]
            kind = Union[tuple(others)]  # noqa: UP007 of a computed tuple
        else:
            return kind, metadata


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _tagged(kind: Any, metadata: list[Any], tag: str) -> Any:
    """Return the member of a union that a tag selects; None without tags."""
    keys = [str(part.discriminator) for part in metadata if isinstance(part, FieldInfo)]
    for member in get_args(kind):
        inner, own = _unwrap(member)
        if any(isinstance(part, Tag) and part.tag == tag for part in own):
            return member
        fields = _fields(inner) or {}
        if any(key in fields and tag in get_args(fields[key].annotation) for key in keys):
            return member
    return None


def _fields(kind: Any) -> Mapping[str, Any] | None:
    """Return the fields of a table's type with their types; None for another type."""
    if not isinstance(kind, type):
        return None
    if issubclass(kind, BaseModel):
        return kind.model_fields
    if is_dataclass(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        if hasattr(kind, "__get_pydantic_core_schema__"):
            return None  # read from a text, such as a budget
        return get_type_hints(kind, include_extras=True)
    return None


def _bounds(metadata: list[Any]) -> dict[str, Any]:
    names = ("ge", "gt", "le", "lt", "min_length", "max_length")
    return {name: getattr(part, name) for part in metadata for name in names if hasattr(part, name)}


def _union(kind: Any, several: bool) -> str:
    """Return the words of all members; a number may be an integer, too."""
    members = list(get_args(kind))
    plain = [_unwrap(member)[0] for member in members]
    if float in plain:
        members = [m for m, bare in zip(members, plain, strict=True) if bare is not int]
    words: list[str] = []
    for member in members:
        bare = _unwrap(member)[0]
        literals = get_args(bare) if get_origin(bare) is Literal else None
        words += [rule_of(member, several=several)] if literals is None else map(repr, literals)
    return _either(list(dict.fromkeys(filter(None, words))))


def _either(words: list[str]) -> str:
    *first, last = words or [""]
    return f"{', '.join(first)} or {last}" if first else last


def _list(members: tuple[Any, ...], bounds: Mapping[str, Any], several: bool) -> str:
    count = _length(bounds)
    if len(members) > 1 and members[-1] is not ...:
        count = f"{len(members)}"
    word = (rule_of(members[0], several=True) if members else "") or "values"
    return f"{'lists' if several else 'a list'} of {count}{' ' if count else ''}{word}"


def _length(bounds: Mapping[str, Any]) -> str:
    low, high = bounds.get("min_length") or 0, bounds.get("max_length")
    if high is None:
        return f"at least {low:,}" if low else ""
    return f"{low:,} to {high:,}" if low else f"at most {high:,}"


def _range(kind: type, bounds: Mapping[str, Any]) -> str:
    """Return the bounds of a number in words; empty without any."""
    low, high = bounds.get("ge"), bounds.get("le")
    below = bounds.get("lt")
    if kind is int and below is not None:
        high, below = below - 1, None
    if low is not None and high is not None:
        return f"from {_number(low)} to {_number(high)}"
    ends = (("above", bounds.get("gt")), ("of at least", low), ("at most", high), ("below", below))
    return " and ".join(f"{word} {_number(end)}" for word, end in ends if end is not None)


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
