"""Worker: its identity, its heartbeats, and the stale trials of other workers."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from glora_automl.errors import Stopped
from glora_automl.progress import Progress
from glora_automl.storages import GRACE, hold_writes, last_trouble, record_heartbeat, set_heartbeat

__all__ = ["Worker"]

OWNER = "glora:worker"
"""Trial attribute: the process that runs the trial."""

CLAIM = "glora:claim"
"""Trial attribute: the process that is taking the trial from the queue."""

HEARTBEAT = "glora:heartbeat"
"""Trial attribute: the count of heartbeats."""


class Worker:
    """A process that works on studies, together with any number of others.

    An open worker writes a heartbeat for each of its running trials every ``heartbeat`` seconds.
    The heartbeat is an attribute of the trial, and on a database also one of Optuna's heartbeats.

    A worker fails a stale trial of another worker. A trial is stale when its attribute has not
    changed for three heartbeats by the clock of this worker. So the clocks of machines need not
    agree, and an unavailable storage makes no trial stale. One and a half heartbeats are enough if
    Optuna's heartbeats agree, and none if the process has ended on this machine.

    Args:
        storage: Storage of the studies.
        heartbeat: Seconds between heartbeats; the same for all workers of a study.
        stop: Called at safe points; returns whether to stop.
        progress: Display.

    Attributes:
        name: Host, process and a random part; written into trials and stages.

    Example:
        >>> study = optuna.create_study()
        >>> with Worker(study._storage) as worker:
        ...     trial = worker.ask(study)
        ...     with worker.heartbeats(trial._trial_id):
        ...         _ = study.tell(trial, 1.0)
        >>> study.trials[0].user_attrs["worker"] == worker.name
        True
    """

    def __init__(
        self,
        storage: BaseStorage,
        *,
        heartbeat: float = 10.0,
        stop: Callable[[], bool] | None = None,
        progress: Progress | None = None,
    ) -> None:
        host, pid = socket.gethostname(), os.getpid()
        self.name = f"{host}-{pid}-{secrets.token_hex(2)}"
        self.storage = storage
        self._stop = stop
        self._progress = progress or Progress()
        self._identity: dict[str, Any] = {
            "name": self.name,
            "pid": pid,
            "start": _start(pid),
            "scope": _scope(),
        }
        self._running: set[int] = set()
        self._failed: set[int] = set()
        self._last_heartbeats: dict[int, tuple[Any, float]] = {}
        self._last_checks: dict[int, float] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self.heartbeat = heartbeat

    @property
    def heartbeat(self) -> float:
        """Seconds between heartbeats."""
        return self._heartbeat

    @heartbeat.setter
    def heartbeat(self, seconds: float) -> None:
        self._heartbeat = seconds
        self._on_database = set_heartbeat(self.storage, seconds)

    def __enter__(self) -> Worker:
        self._closed.clear()
        self._thread = threading.Thread(
            target=self._write_heartbeats, name="glora heartbeat", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        assert self._thread is not None
        self._thread.join(timeout=1)  # It may wait for an unavailable database.

    def _write_heartbeats(self) -> None:
        last, count = time.monotonic(), 0
        # Short waits, as the interval may become shorter meanwhile.
        while not self._closed.wait(min(0.5, self._heartbeat / 4)):
            if time.monotonic() - last < self._heartbeat:
                continue
            last, count = time.monotonic(), count + 1
            for trial_id in tuple(self._running):
                try:
                    record_heartbeat(self.storage, trial_id)
                    self.storage.set_trial_system_attr(trial_id, HEARTBEAT, count)
                except UpdateFinishedTrialError:
                    self._failed.add(trial_id)  # Or finished by this worker: see `was_failed`.
                except BaseException:
                    pass  # The main thread meets and reports the same trouble of the storage.

    def was_failed(self, trial_id: int) -> bool:
        """Return whether another worker has failed a trial that this worker runs."""
        return trial_id in self._failed & self._running

    @contextmanager
    def heartbeats(self, trial_id: int) -> Iterator[None]:
        """Write heartbeats of a trial during the block."""
        self._running.add(trial_id)
        try:
            yield
        finally:
            self._running.discard(trial_id)

    def create(self, study: optuna.Study, **user_attrs: Any) -> int:
        """Create a running trial of this worker, and return its id."""
        trial_id = self.storage.create_new_trial(
            study._study_id,
            create_trial(
                state=TrialState.RUNNING,
                user_attrs={"worker": self.name, **user_attrs},
                # The token makes the row unique: a retry after a lost answer finds it again.
                system_attrs={OWNER: {**self._identity, "trial": secrets.token_hex(4)}},
            ),
        )
        record_heartbeat(self.storage, trial_id, first=True)
        return trial_id

    def ask(self, study: optuna.Study, *, queued: bool = False) -> optuna.Trial:
        """Ask for a trial as :meth:`optuna.Study.ask` does, with this worker as its owner.

        Args:
            study: The study.
            queued: Whether to take a trial from the queue, if there still is one.
        """
        trial_id = self._take(study) if queued else None
        return optuna.Trial(study, self.create(study) if trial_id is None else trial_id)

    def _take(self, study: optuna.Study) -> int | None:
        """Take the first trial of the queue, and return its id; None if others have taken all.

        A worker may be killed before it has named itself. Then its claim shows that the trial is
        none of another program, which may have no heartbeats.
        """
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        for trial_id in [trial._trial_id for trial in waiting]:
            with contextlib.suppress(UpdateFinishedTrialError):
                self.storage.set_trial_system_attr(trial_id, CLAIM, self._identity)
                if self.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    with hold_writes(self.storage):
                        self.storage.set_trial_system_attr(trial_id, OWNER, self._identity)
                        self.storage.set_trial_user_attr(trial_id, "worker", self.name)
                    record_heartbeat(self.storage, trial_id, first=True)
                    return trial_id
        return None

    def owns(self, trial_id: int) -> bool:
        """Return whether a trial is still that of this worker.

        After an older backup of the storage was restored, its id may be that of another trial.
        """
        return _owner(self.storage.get_trial_system_attrs(trial_id)).get("name") == self.name

    def wants_stop(self) -> bool:
        """Return whether the caller asked to stop, or another worker failed a trial of this one."""
        return bool(self._failed & self._running) or (self._stop is not None and self._stop())

    def check_stop(self) -> None:
        """Stop if the caller asked to.

        Raises:
            Stopped: If the caller asked to stop.
        """
        if self._stop is not None and self._stop():
            raise Stopped

    def wait(self) -> None:
        """Wait a moment for other workers.

        Raises:
            Stopped: If the caller asked to stop.
        """
        end = time.monotonic() + min(1.0, self._heartbeat / 4)
        while (left := end - time.monotonic()) > 0:
            self.check_stop()
            time.sleep(min(left, 0.1))
        self.check_stop()

    def fail_stale(self, study: optuna.Study, *, at_once: bool = False) -> None:
        """Fail the stale trials of other workers; at most once per second unless ``at_once``."""
        now = time.monotonic()
        pause = min(1.0, self._heartbeat)
        if not at_once and now - self._last_checks.get(study._study_id, -pause) < pause:
            return
        self._last_checks[study._study_id] = now
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        others = [trial for trial in running if trial._trial_id not in self._running]
        if not others:
            return
        silent: set[int] = set()
        if self._on_database:
            database: Any = self.storage
            silent = set(database._get_stale_trial_ids(study._study_id))
        # No worker could write heartbeats to an unavailable storage.
        trouble = last_trouble(self.storage)
        for trial in others:
            if self._is_stale(trial, trial._trial_id in silent, trouble):
                fail(self.storage, trial._trial_id)

    def _is_stale(self, trial: FrozenTrial, silent: bool, trouble: float) -> bool:
        now = time.monotonic()
        owner = _owner(trial.system_attrs)
        if owner.get("name") == self.name and OWNER in trial.system_attrs:
            return True  # Left by a lost answer of the storage, or by an older backup.
        here = owner.get("scope") is not None and owner["scope"] == _scope()
        if here and _has_ended(owner.get("pid"), owner.get("start")):
            return True
        if not silent and not owner:
            return False  # Asked by a user or by another program, without heartbeats.
        count = trial.system_attrs.get(HEARTBEAT)
        last_count, since = self._last_heartbeats.setdefault(trial._trial_id, (count, now))
        if count != last_count:
            self._last_heartbeats[trial._trial_id] = count, now
            return False
        return now - max(since, trouble) > (GRACE / 2 if silent else GRACE) * self._heartbeat

    def wait_for_running(self, study: optuna.Study) -> None:
        """Wait until each running trial is finished, failed as stale, or known to be alive.

        Retries of stale trials have to come before new trials. Otherwise an interrupted study
        gives other trials than an uninterrupted one.
        """
        end = time.monotonic() + (GRACE + 1) * self._heartbeat
        remaining: set[int] | None = None
        while time.monotonic() < end:
            self.fail_stale(study, at_once=True)
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            others = {t.number for t in running if t._trial_id not in self._running}
            if remaining is None and others:
                names = ", ".join(map(str, sorted(others)[:5]))
                self._progress.log(
                    f"Waiting for trials of other workers ({names}), at most "
                    f"{(GRACE + 1) * self._heartbeat:.0f} s."
                )
            remaining = others if remaining is None else remaining & others
            if not remaining:
                return
            self.wait()


def fail(storage: BaseStorage, trial_id: int) -> None:
    """Fail a trial, unless it is finished."""
    with contextlib.suppress(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial_id, TrialState.FAIL)


def _owner(system_attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the process that runs a trial or takes it; empty for those of other programs."""
    owner = system_attrs.get(OWNER) or system_attrs.get(CLAIM)
    return owner if isinstance(owner, dict) else {}


def _scope() -> str | None:
    """Return the scope of process ids: the boot and the container, on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _status(pid: int) -> tuple[str, str] | None:
    """Return state and start of a process, in ticks since boot; None if it is hidden."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The program's name, in parentheses, can contain spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


def _start(pid: int) -> str | None:
    status = _status(pid)
    return None if status is None else status[1]


def _has_ended(pid: object, start: object) -> bool:
    """Return whether a process of this machine has ended; its id may be in use again."""
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # The process of another user.
    status = _status(pid)
    return status is not None and (status[0] in "ZX" or status[1] != start)
