"""Records: values that a study keeps as JSON and that are validated when they are read."""

from __future__ import annotations

from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from glora_automl.errors import StudyError

__all__ = ["Record"]


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
        glora_automl.errors.StudyError: A record must be a valid Point, got an invalid x ...
    """

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        table: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json")
        return table

    @classmethod
    def from_json(cls, table: object) -> Self:
        """Return the record that :meth:`to_json` described.

        Raises:
            StudyError: If the values are not those of such a record.
        """
        try:
            record: Self = _adapter(cls).validate_python(table)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "value"
            raise StudyError(
                f"A record must be a valid {cls.__name__}, got an invalid {where} "
                f"({str(first['msg'])[:80]}); the study was altered or comes from another version."
            ) from None
        return record


_adapters: dict[type, TypeAdapter[Any]] = {}


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]
