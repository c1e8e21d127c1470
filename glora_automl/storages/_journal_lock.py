"""The lock of a journal file: Optuna's link, which is taken over from workers that have ended."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows, whose journals have another lock
    fcntl = None  # type: ignore[assignment]

__all__ = ["LinkLock"]


class _Identity(NamedTuple):
    """Identity of one acquisition: each creates another link."""

    inode: int
    created: int


class LinkLock:
    """A lock between processes, also of several machines: a symbolic link beside the journal.

    Optuna's own lock has the same link, so processes with either exclude each other. A link that
    stays for ``grace`` seconds is removed, as its process was killed or suspended. Optuna decides
    this by the time of the journal: two processes that wait could take the lock from each other,
    and a suspended process would remove the link of the next one. Here the link itself tells. A
    lock of the kernel on the journal keeps one process from removing what another has just
    created; a file system without such locks leaves a window of microseconds.

    Args:
        path: The journal.
        grace: Seconds after which a link is removed.

    Example:
        >>> import tempfile
        >>> lock = LinkLock(os.path.join(tempfile.mkdtemp(), "studies.log"))
        >>> lock.acquire()
        True
        >>> lock.release()
    """

    def __init__(self, path: str, grace: float = 10.0) -> None:
        self._target = path
        self._link = f"{path}.lock"
        self._grace = grace
        self._own: _Identity | None = None

    def acquire(self) -> bool:
        """Wait for the lock and take it.

        Raises:
            OSError: If the folder cannot be written.
        """
        seen, since, delay = None, time.monotonic(), 0.001
        while True:
            with contextlib.suppress(FileExistsError):
                os.symlink(self._target, self._link)
                self._own = self._identity()
                return True
            found = self._identity()
            if found != seen:
                seen, since, delay = found, time.monotonic(), 0.001
            elif found is not None and time.monotonic() - since > self._grace:
                self._remove(found)
            time.sleep(delay)
            delay = min(2 * delay, 0.2)

    def release(self) -> None:
        """Release the lock, unless another process has taken it over."""
        own, self._own = self._own, None
        if own is not None:
            self._remove(own)

    def _identity(self) -> _Identity | None:
        try:
            status = os.lstat(self._link)
        except FileNotFoundError:
            return None
        return _Identity(status.st_ino, status.st_mtime_ns)

    def _remove(self, expected: _Identity) -> None:
        with self._kernel_lock():
            if self._identity() == expected:
                with contextlib.suppress(FileNotFoundError):  # by Optuna's lock
                    os.unlink(self._link)

    @contextlib.contextmanager
    def _kernel_lock(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                # NFS locks only what is open for writing.
                file = stack.enter_context(open(self._target, "rb+"))
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield
