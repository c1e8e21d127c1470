"""Layout of a folder of images: splits and classes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from glora_automl._messages import short
from glora_automl.errors import TaskError
from glora_automl.tasks._finding import is_hidden, list_folder

__all__ = [
    "EXPECTED",
    "Layout",
    "Split",
    "check_names",
    "class_folders",
    "find_layout",
    "find_splits",
    "split_of",
]

Split = Literal["train", "val", "test"]

WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Names of splits."""

EXPECTED = "CLASS/image, or train/CLASS/image with val and test beside train"

UNLABELLED = ("images", "imgs", "image", "unknown", "unlabeled", "unlabelled", "test", "all")
"""Names of a folder in a split that is no class."""


class Layout(NamedTuple):
    """Folders of the splits, each with one folder per class.

    Attributes:
        root: Folder of the splits or classes, at or below the given one.
        splits: Folder per split; without ``train/``, the root is the training split.
        remarks: What is read in another way than its name says, or not at all.
    """

    root: Path
    splits: dict[Split, Path]
    remarks: tuple[str, ...] = ()


def split_of(name: str) -> Split | None:
    """Return the split that a name means, in any spelling.

    Example:
        >>> [split_of(name) for name in ("TRAIN_set", "Validation", "test2017", "cat")]
        ['train', 'val', 'test', None]
    """
    word = re.sub(r"[^a-z]", "", name.lower())
    for end in ("set", "data", "images", "imgs", "split"):
        word = word.removesuffix(end)
    return WORDS.get(word)


def find_splits(folder: Path) -> dict[Split, Path]:
    """Return the folders in a folder that are named after splits.

    Raises:
        TaskError: If two are named after one split.
    """
    found: dict[Split, Path] = {}
    for name in _folders(folder):
        split = split_of(name)
        if split is None:
            continue
        if split in found:
            raise TaskError(
                f"task.path must hold one folder per split, got {short(found[split].name, 40)} and "
                f"{short(name, 40)} in {short(str(folder), 100)}. Remove or rename one."
            )
        found[split] = folder / name
    return found


def find_layout(folder: Path) -> Layout:
    """Return the splits of a folder of images.

    A folder that holds nothing but one folder of this layout is understood, and a validation or
    test folder without classes is left out.

    Raises:
        TaskError: If the folder has another layout.
    """
    remarks: list[str] = []
    for _ in range(3):  # an unpacked archive often has one folder around all
        names, others = _folders(folder), [n for n in list_folder(folder)[1] if not is_hidden(n)]
        if len(names) != 1 or others or split_of(names[0]) or not _folders(folder / names[0]):
            break
        folder = folder / names[0]
        remarks = [f"The images are read from {short(str(folder), 150)}."]
    splits = {split: path for split, path in find_splits(folder).items() if _is_read(path, split)}
    if "train" not in splits:
        unclear = [path.name for split, path in find_splits(folder).items() if split != "train"]
        if unclear:
            raise TaskError(
                f"task.path must be laid out as {EXPECTED}, got {short(str(folder), 80)} with "
                f"{short(unclear[0], 40)} but no train/CLASS. Move the class folders into 'train'."
            )
        return Layout(folder, {"train": folder}, tuple(remarks))
    beside = [name for name in _folders(folder) if folder / name not in splits.values()]
    if beside:
        listed = ", ".join(short(name, 30) for name in beside[:3])
        more = ", ..." if len(beside) > 3 else ""
        remarks.append(
            f"Not read, as they have no images in class folders: {listed}{more} in "
            f"{short(str(folder), 100)}."
        )
    return Layout(folder, splits, tuple(remarks))


def _is_read(folder: Path, split: Split) -> bool:
    """Return whether a folder is a split, with images in class folders."""
    names = _folders(folder)
    if split == "train":
        return bool(names)
    return not (len(names) == 1 and names[0].lower() in UNLABELLED) and bool(names)


def _folders(folder: Path) -> list[str]:
    return [name for name in list_folder(folder)[0] if not is_hidden(name)]


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted, without hidden folders.

    Raises:
        TaskError: If the folder cannot be read, holds no folder, or a class has no UTF-8 name.
    """
    found = _folders(folder)
    if not found:
        raise TaskError(
            f"task.path must hold one folder of images per class, got {short(str(folder), 80)} "
            "without folders. Sort the images into class folders, or set `task.source = csv` "
            "for a table of labels."
        )
    check_names(found)
    return found


def check_names(names: Iterable[str]) -> None:
    """Check the names of classes.

    Raises:
        TaskError: If a name is no UTF-8 text, or long.
    """
    for name in names:
        try:
            fits = len(name.encode()) <= 255
        except UnicodeEncodeError:
            fits = False
        if not fits:
            raise TaskError(
                "The name of a class must be UTF-8 text of at most 255 bytes, got "
                f"{short(name, 80)}. Rename the class."
            )
