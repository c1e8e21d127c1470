"""Images as files, or as anything else that is decoded when it is needed."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glora_automl.tasks._decoding import Encoded, Unreadable

__all__ = ["EncodedImages", "FileImages", "PackedImages", "RowImages"]


class EncodedImages(ABC):
    """Images by index, each read when it is asked for."""

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Encoded:
        """The image, not decoded if the source lets it be.

        Raises:
            Unreadable: If it cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What a person calls the image."""

    def digest(self, index: int, encoded: Encoded | None = None) -> bytes:
        """sha256 of the image's bytes, computed once.

        Args:
            index: The image.
            encoded: What :meth:`read` gave for it, if that is at hand.
        """
        if index not in self._digests:
            value = self.read(index) if encoded is None else encoded
            if not isinstance(value, bytes):
                value = f"{value.mode} {value.size} ".encode() + value.tobytes()
            self._digests[index] = hashlib.sha256(value).digest()
        return self._digests[index]


class FileImages(EncodedImages):
    """Image files.

    Args:
        paths: Where they are.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        try:
            return Path(self._paths[index]).read_bytes()
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None

    def name(self, index: int) -> str:
        """The file's path."""
        return self._paths[index]


class PackedImages(EncodedImages):
    """Image files one after the other in one array.

    Args:
        packed: Their bytes, uint8 ``(total,)``.
        offsets: Where each begins, and where the last one ends, ``(n + 1,)``.
        where: Names the array in messages.
    """

    def __init__(self, packed: np.ndarray, offsets: np.ndarray, where: str) -> None:
        super().__init__()
        self._packed = packed
        self._offsets = offsets
        self._where = where

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return self._packed[self._offsets[index] : self._offsets[index + 1]].tobytes()

    def name(self, index: int) -> str:
        """Its place in the array."""
        return f"{self._where}[{index}]"


class RowImages(EncodedImages):
    """Images of a data set that gives ``(image, label)`` for an index, read one at a time.

    Args:
        rows: The data set; the image is a Pillow image or an open binary file.
        where: Names the data set in messages.
    """

    def __init__(self, rows: Any, where: str) -> None:
        super().__init__()
        self._rows = rows
        self._where = where
        self._lock = threading.Lock()  # few readers of such data sets allow for threads

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Encoded:
        """The image."""
        try:
            with self._lock:
                image = self._rows[index][0]
                if hasattr(image, "getvalue") or hasattr(image, "fileno"):
                    with image:
                        return bytes(image.read())
        except Exception as error:  # whatever the data set's reader raises
            text = str(error).strip()
            raise Unreadable(text.splitlines()[0] if text else type(error).__name__) from None
        return image  # type: ignore[no-any-return]

    def name(self, index: int) -> str:
        """Its place in the data set."""
        return f"{self._where}[{index}]"
