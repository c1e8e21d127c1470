"""Images in a table of paths and labels."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glora_automl._declarations import suggest
from glora_automl._files import read_file
from glora_automl._messages import one_line, short
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._decoding import image_suffixes
from glora_automl.tasks._encoded import FileImages
from glora_automl.tasks._layout import Split, split_of
from glora_automl.tasks._reading import Reader
from glora_automl.tasks._settings import CsvSettings
from glora_automl.tasks._splits import Examples, encoded_task
from glora_automl.tasks._targets import check_targets
from glora_automl.tasks._task import Task

__all__ = ["load_csv"]

COLUMNS = {
    "image": ("image", "path", "file", "filename", "file_name", "filepath", "file_path",
              "image_path", "image_name", "img", "img_path"),
    "label": ("label", "class", "target", "category", "class_name", "label_name"),
    "split": ("split", "set", "subset", "partition"),
}  # fmt: skip
"""Usual names of the columns."""


class Line(NamedTuple):
    """A line of the table.

    Attributes:
        number: Its number in the file.
        image: Path of the image.
        label: Name of the class.
        split: Its split.
    """

    number: int
    image: str
    label: str
    split: Split


def load_csv(settings: CsvSettings, seed: int, progress: Progress | None = None) -> Task:
    """Load a task from a table.

    Raises:
        TaskError: If the table is missing or malformed, or names an unreadable image.
    """
    table = Path(os.path.expanduser(settings.path))
    lines = _read_lines(table, settings)
    _check_labels(lines, settings)
    train = np.array([line.label for line in lines if line.split == "train"])
    check_targets(f"The labels of {short(settings.path, 80)}", train)
    classes = _classes(line.label for line in lines if line.split == "train")
    folder = str(table.parent / os.path.expanduser(settings.root))
    examples: dict[str, Examples] = {}
    for split in ("train", "val", "test"):
        own = [line for line in lines if line.split == split]
        if not own and split != "train":
            continue
        for line in own:
            if line.label not in classes:
                raise _wrong_line(settings, line.number, f"a class of the {len(classes)} classes "
                                  "of the training split", line.label)  # fmt: skip
        images = FileImages([os.path.join(folder, line.image) for line in own])
        labels = np.array([classes[line.label] for line in own], dtype=np.int64)
        examples[split] = Examples(images, labels)
    reader = Reader(settings, progress)
    return encoded_task(table.stem, list(classes), examples, settings, seed, reader)


def _read_lines(table: Path, settings: CsvSettings) -> list[Line]:
    """Return the lines of a table with their cells checked."""
    rows = _read_rows(table, settings)
    header = [name.strip() for name in rows[0][1]]
    for cell in header:
        if os.path.splitext(cell)[1].lower() in image_suffixes():
            raise TaskError(
                f"{short(settings.path, 80)} must have a header, got the image {short(cell, 60)} "
                "in its first line. Put a line such as image,label before it."
            )
    columns = {
        "image": _column(header, "image", settings.image),
        "label": _column(header, "label", settings.label),
        "split": _column(header, "split", settings.split, is_required=False),
    }
    lines = []
    for number, cells in rows[1:]:
        if len(cells) != len(header):
            raise _wrong_line(settings, number, f"a line of {len(header)} cells", len(cells))
        found = {
            key: None if place is None else cells[place].strip() for key, place in columns.items()
        }
        for key in ("image", "label"):
            if not found[key]:
                raise _wrong_line(settings, number, f"a line with a value of {key!r}", "none")
        split = "train" if found["split"] is None else split_of(found["split"])
        if split is None:
            raise _wrong_line(settings, number, "a line with the split train, validation or test",
                              found["split"])  # fmt: skip
        lines.append(Line(number, str(found["image"]), str(found["label"]), split))
    if not any(line.split == "train" for line in lines):
        raise _wrong_table(settings, "it has no line of a train image")
    return lines


def _read_rows(table: Path, settings: CsvSettings) -> list[tuple[int, list[str]]]:
    """Return the cells of all lines that are not empty, with their numbers."""
    try:
        text = read_file(table).decode("utf-8-sig")
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except UnicodeDecodeError:
        raise _wrong_table(settings, "it is no UTF-8 text") from None
    except OSError as error:
        raise _wrong_table(settings, error.strerror or str(error)) from None
    except csv.Error as error:
        raise _wrong_table(settings, one_line(error)) from None
    if not rows:
        raise _wrong_table(settings, "it is empty")
    return rows


def _column(
    header: Sequence[str], key: str, name: str | None, *, is_required: bool = True
) -> int | None:
    """Return the place of a column."""
    wanted = COLUMNS[key] if name is None else (name.lower(),)
    places = [place for place, column in enumerate(header) if column.lower() in wanted]
    if len(places) == 1:
        return places[0]
    if len(places) > 1:
        found = sorted({header[place] for place in places})
        listed = " and ".join(short(column, 40) for column in found[:3])
        known = [column.lower() for column in header]
        hint = f"Set `task.{key}` to one"
        if max(known.count(column.lower()) for column in found) > 1:
            hint = "Rename one in the table"
        raise TaskError(
            f"task.{key} must name one column of the table, got {len(places)} columns for it: "
            f"{listed}. {hint}."
        )
    if name is None and not is_required:
        return None
    listed_all = [short(column, 20)[1:-1] for column in header[:6] if column]
    raise TaskError(
        f"task.{key} must name one column of the table, got {short(name)}. "
        f"{suggest(str(name)[:60], listed_all)} Set `task.{key}`."
    )


def _check_labels(lines: Sequence[Line], settings: CsvSettings) -> None:
    """Check that no image has two classes."""
    labels: dict[str, str] = {}
    for line in lines:
        if labels.setdefault(line.image, line.label) != line.label:
            raise _wrong_line(
                settings,
                line.number,
                f"an image of one class, as {short(labels[line.image], 30)} above",
                line.label,
            )


def _classes(labels: Iterable[str]) -> dict[str, int]:
    """Return the index of each class; integers are sorted by value."""
    names = set(labels)
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in names):
        ordered = sorted(names, key=lambda name: (int(name), name))
    else:
        ordered = sorted(names)
    return {name: index for index, name in enumerate(ordered)}


def _wrong_table(settings: CsvSettings, reason: str) -> TaskError:
    return TaskError(
        f"task.path must be a table in CSV format, got {short(settings.path, 100)}: {reason[:80]}. "
        "Correct the file or set another `task.path`."
    )


def _wrong_line(settings: CsvSettings, number: int, rule: str, got: object) -> TaskError:
    return TaskError(
        f"Line {number} of {short(settings.path, 80)} must be {rule}, got {short(got, 50)}. "
        "Correct the table."
    )
