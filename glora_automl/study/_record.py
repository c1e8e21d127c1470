"""Records: values that a study keeps as JSON and that are validated when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from glora_automl._declarations import check_plain
from glora_automl._messages import short, shorten
from glora_automl._rules import find_fault, find_place
from glora_automl.errors import StudyError

__all__ = ["Count", "Record", "Seconds"]

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""Number of images, parameters or trials."""

Seconds = Annotated[float, Field(ge=0, le=1e12)]
"""Wall time."""


class Record:
    """Base of frozen dataclasses that go through JSON.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point(Record):
        ...     x: int
        >>> Point.from_json(Point(3).to_json())
        Point(x=3)
        >>> Point.from_json({"x": "three"})
        Traceback (most recent call last):
        glora_automl.errors.StudyError: A record must be a valid Point, got an invalid x: ...
    """

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values. Named tuples become objects with the names of their fields."""
        table: dict[str, Any] = to_jsonable_python(_named(self))
        return table

    @classmethod
    def from_json(cls, table: object) -> Self:
        """Return the record that :meth:`to_json` described.

        Raises:
            StudyError: If the values are not those of such a record.
        """
        try:
            check_plain(table, control=True)
            record: Self = _adapter(cls).validate_python(table)
        except ValidationError as error:
            first = find_fault(error.errors())
            place = find_place(cls, first["loc"])
            where = shorten(".".join(place.keys), 60) or "value"
            got = f"an invalid {where}: {short(first['input'])}"
            if first["type"] == "missing":
                got = f"no {where}"
            raise StudyError(
                f"A record must be a valid {cls.__name__}, got {got}. The study was altered or "
                "comes from another version."
            ) from None
        except ValueError as error:
            raise StudyError(
                f"A record must be a valid {cls.__name__}, got one whose {error} The study was "
                "altered."
            ) from None
        return record


def _named(value: Any) -> Any:
    """Return a value with dictionaries for its dataclasses and named tuples.

    Pydantic writes named tuples as lists, in which no field can be added or left out.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _named(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: _named(part) for key, part in value._asdict().items()}
    if isinstance(value, Mapping):
        return {key: _named(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_named(part) for part in value]
    return value


_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]
