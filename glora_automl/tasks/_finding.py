"""Search of folders for image files, as other programs leave them."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._decoding import image_suffixes

__all__ = ["PassedOver", "find_images", "is_hidden", "list_folder"]

FOREIGN = {
    "__macosx",  # archives of macOS: resource forks with the names of images
    "@eadir",  # thumbnails of Synology
    "#recycle",
    "$recycle.bin",
    "lost+found",
    "system volume information",
    "__pycache__",
}
"""Folders of other programs, in lower case."""


class PassedOver:
    """Count of the files that are no images.

    Example:
        >>> counts = PassedOver()
        >>> counts.hidden, counts.suffixes[".txt"] = 2, 1
        >>> print(counts)
        2 hidden files, 1 other file (1 .txt)
    """

    def __init__(self) -> None:
        self.hidden = 0
        self.special = 0
        self.beside = 0
        self.suffixes: Counter[str] = Counter()

    def __str__(self) -> str:
        parts = [_count(self.hidden, "hidden file")]
        if self.suffixes:
            most = ", ".join(f"{n} {suffix}" for suffix, n in self.suffixes.most_common(3))
            more = ", ..." if len(self.suffixes) > 3 else ""
            parts.append(f"{_count(self.suffixes.total(), 'other file')} ({most}{more})")
        parts.append(_count(self.special, "pipe, device or broken link"))
        parts.append(_count(self.beside, "file beside the class folders"))
        return ", ".join(part for part in parts if part)

    def log(self, progress: Progress) -> None:
        """Log the counts, if there are any."""
        if text := str(self):
            progress.log(f"Passed over: {text}.")


def _count(number: int, what: str) -> str:
    if number != 1:
        what = re.sub(r"\b(file|pipe|device|link)\b", r"\1s", what)
    return f"{number:,} {what}" if number else ""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or belongs to another program.

    Example:
        >>> [is_hidden(name) for name in ("._a.png", ".git", "__MACOSX", "a.png")]
        [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in FOREIGN


def list_folder(folder: str | Path) -> tuple[list[str], list[str]]:
    """Return the names of the folders and of everything else in a folder, sorted.

    Raises:
        TaskError: If the folder cannot be read.
    """
    folders: list[str] = []
    others: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir() else others).append(entry.name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TaskError(
            f"task.path must be readable, got {short(str(folder), 120)}: {reason}. Set another "
            "`task.path`."
        ) from None
    return sorted(folders), sorted(others)


def find_images(folder: str | Path, passed_over: PassedOver | None = None) -> list[str]:
    """Return the image files in a folder and in its folders, in order.

    Hidden files and folders are no images. A link to a folder that was searched, or that holds
    this one, is not followed.

    Args:
        folder: The folder.
        passed_over: Counts the files that are no images.

    Raises:
        TaskError: If a folder cannot be read.
    """
    counts = PassedOver() if passed_over is None else passed_over
    searched = {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    images: list[str] = []
    pending = [os.fspath(folder)]
    while pending:
        path = pending.pop()
        if (place := os.path.realpath(path)) in searched:
            continue
        searched.add(place)
        folders, others = list_folder(path)
        for name in others:
            suffix = os.path.splitext(name)[1].lower()
            if is_hidden(name):
                counts.hidden += 1
            elif not os.path.isfile(file := str(Path(path, name))):
                counts.special += 1
            elif suffix not in image_suffixes():
                counts.suffixes[repr(suffix[:12])[1:-1] or "without suffix"] += 1
            else:
                images.append(file)
        pending += [os.path.join(path, name) for name in reversed(folders) if not is_hidden(name)]
    return images
