"""Sources of encoded images, decoded on demand."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from glora_automl._files import MAX_BYTES, read_file
from glora_automl._messages import one_line
from glora_automl.tasks._decoding import Encoded, Picture, Unreadable

__all__ = ["EncodedImages", "FileImages", "PackedImages", "RowImages", "read_image"]


def read_image(path: str) -> bytes:
    """Return the bytes of an image file.

    Raises:
        Unreadable: If it cannot be read, is no regular file or is too large.
    """
    try:
        return read_file(path)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None


class EncodedImages(ABC):
    """Sequence of encoded images, each read on access.

    Attributes:
        pictures: The images that were inspected, by index.
    """

    def __init__(self) -> None:
        self._digests: dict[int, bytes] = {}
        self.pictures: dict[int, Picture] = {}

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Encoded:
        """Return the image, as file bytes where the source has them.

        Raises:
            Unreadable: If the image cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the image's name for messages."""

    def digest(self, index: int, encoded: Encoded | None = None) -> bytes:
        """Return the sha256 of the image's bytes; it is computed once.

        Args:
            index: Index of the image.
            encoded: The image, if :meth:`read` has already returned it.
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
        paths: Paths of the files.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_image(self._paths[index])

    def name(self, index: int) -> str:
        """Return the file's path in printable characters."""
        return repr(self._paths[index])[1:-1]


class PackedImages(EncodedImages):
    """Image files concatenated in one array.

    Args:
        packed: Bytes of the files, uint8 ``(total,)``.
        offsets: Start of each file and end of the last, ``(n + 1,)``.
        where: Name of the array for messages.
    """

    def __init__(self, packed: np.ndarray, offsets: np.ndarray, where: str) -> None:
        super().__init__()
        self._packed = packed
        self._offsets = offsets
        self._where = where

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return self._packed[self._offsets[index] : self._offsets[index + 1]].tobytes()

    def name(self, index: int) -> str:
        """Return array and index."""
        return f"{self._where}[{index}]"


def _read_open(file: Any) -> bytes:
    """Return the bytes of an open file; a sparse one in an archive declares any size."""
    parts, left = [], MAX_BYTES
    while part := file.read(1 << 20):
        parts.append(bytes(part))
        left -= len(part)
        if left < 0:
            raise OSError(f"it is larger than {MAX_BYTES:,} bytes")
    return b"".join(parts)


class RowImages(EncodedImages):
    """Images of a data set with rows ``(image, label)``, read one at a time.

    Args:
        rows: The data set; an image is a Pillow image or an open binary file.
        where: Name of the data set for messages.
    """

    def __init__(self, rows: Any, where: str) -> None:
        super().__init__()
        self._rows = rows
        self._where = where
        self._lock = threading.Lock()  # most readers of such data sets are not thread-safe

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Encoded:
        """Return the image."""
        try:
            with self._lock:
                image = self._rows[index][0]
                if hasattr(image, "getvalue") or hasattr(image, "fileno"):
                    with image:
                        return _read_open(image)
        except Exception as error:  # readers of data sets raise any exception
            raise Unreadable(one_line(error)) from None
        return image  # type: ignore[no-any-return]

    def name(self, index: int) -> str:
        """Return data set and index."""
        return f"{self._where}[{index}]"
