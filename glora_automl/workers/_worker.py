"""A worker: who it is, that it is alive, and which trials nobody runs any more."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from glora_automl.errors import Stopped
from glora_automl.progress import Progress
from glora_automl.storages import GRACE, beat, hold_writes, last_trouble, set_heartbeat

__all__ = ["Worker"]

OWNER = "glora:worker"
"""Trial attribute that says which process runs it."""

BEAT = "glora:beat"
"""Trial attribute that changes with every heartbeat."""


class Worker:
    """One process that works on studies, together with any number of others.

    While it is open, a thread writes every ``heartbeat`` seconds that the trials it runs are
    alive: as an attribute of the trial, and on a database as one of Optuna's heartbeats. A trial of
    another worker is failed when its attribute has not changed for three heartbeats, by the clock
    of this worker, which asks for no clock to be right and needs no answer of a storage that was
    away; for one and a half if Optuna's heartbeats say the same. A process that has died on this
    machine is not waited for.

    Args:
        storage: Where the studies are.
        heartbeat: Seconds between heartbeats; all workers of a study need the same.
        stop: Asked at safe points whether to stop.
        progress: Told what is waited for.

    Attributes:
        name: Host, process and a random part; written into what the worker does.

    Example:
        >>> study = optuna.create_study()
        >>> with Worker(study._storage) as worker:
        ...     trial = worker.ask(study)
        ...     with worker.beating(trial._trial_id):
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
        self._lost: set[int] = set()
        self._seen: dict[int, tuple[Any, float]] = {}
        self._checked: dict[int, float] = {}
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
        self._thread = threading.Thread(target=self._beat, name="glora heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        assert self._thread is not None
        self._thread.join(timeout=1)  # it may wait for a database that is away

    def _beat(self) -> None:
        last, count = time.monotonic(), 0
        # Short waits: the heartbeat may become a faster one.
        while not self._closed.wait(min(0.5, self._heartbeat / 4)):
            if time.monotonic() - last < self._heartbeat:
                continue
            last, count = time.monotonic(), count + 1
            for trial_id in tuple(self._running):
                try:
                    beat(self.storage, trial_id)
                    self.storage.set_trial_system_attr(trial_id, BEAT, count)
                except UpdateFinishedTrialError:
                    self._lost.add(trial_id)  # it has ended here, too, if it runs no more
                except BaseException:
                    pass  # what is wrong with the storage is told by the thread that works

    def has_lost(self, trial_id: int) -> bool:
        """Whether somebody has failed a trial that this worker runs, as far as it knows."""
        return trial_id in self._lost & self._running

    @contextmanager
    def beating(self, trial_id: int) -> Iterator[None]:
        """Tell of a trial that it is alive for as long as the block lasts."""
        self._running.add(trial_id)
        try:
            yield
        finally:
            self._running.discard(trial_id)

    def create(self, study: optuna.Study, **user_attrs: Any) -> int:
        """Create a running trial of this worker's; returns its id."""
        trial_id = self.storage.create_new_trial(
            study._study_id,
            create_trial(
                state=TrialState.RUNNING,
                user_attrs={"worker": self.name, **user_attrs},
                # Like no other: so it is found again if the answer of the database is lost.
                system_attrs={OWNER: {**self._identity, "trial": secrets.token_hex(4)}},
            ),
        )
        beat(self.storage, trial_id, first=True)
        return trial_id

    def ask(self, study: optuna.Study, *, queued: bool = False) -> optuna.Trial:
        """Like :meth:`optuna.Study.ask`, but from its first moment on the trial names its worker.

        Args:
            study: The study.
            queued: Whether a trial that waits in the queue is taken, if there still is one.
        """
        if not queued:
            return optuna.Trial(study, self.create(study))
        with warnings.catch_warnings():
            # That heartbeats want study.optimize: this class beats.
            warnings.simplefilter("ignore", UserWarning)
            trial = study.ask()
        with hold_writes(self.storage):
            self.storage.set_trial_system_attr(trial._trial_id, OWNER, self._identity)
            trial.set_user_attr("worker", self.name)
        beat(self.storage, trial._trial_id, first=True)
        return trial

    def wants_stop(self) -> bool:
        """Whether to stop: it was asked for, or what is done here was taken over by others."""
        return bool(self._lost & self._running) or (self._stop is not None and self._stop())

    def check_stop(self) -> None:
        """Stop here if that was asked for.

        Raises:
            Stopped: If so.
        """
        if self._stop is not None and self._stop():
            raise Stopped

    def wait(self) -> None:
        """Wait a moment for other workers.

        Raises:
            Stopped: If that was asked for meanwhile.
        """
        end = time.monotonic() + min(1.0, self._heartbeat / 4)
        while (left := end - time.monotonic()) > 0:
            self.check_stop()
            time.sleep(min(left, 0.1))
        self.check_stop()

    def fail_dead(self, study: optuna.Study, *, at_once: bool = False) -> None:
        """Fail the trials of workers that are dead; looks once a second unless ``at_once``."""
        now = time.monotonic()
        pause = min(1.0, self._heartbeat)
        if not at_once and now - self._checked.get(study._study_id, -pause) < pause:
            return
        self._checked[study._study_id] = now
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        others = [trial for trial in running if trial._trial_id not in self._running]
        if not others:
            return
        stale: set[int] = set()
        if self._on_database:
            database: Any = self.storage
            stale = set(database._get_stale_trial_ids(study._study_id))
        # Nobody could beat while the storage was away.
        trouble = last_trouble(self.storage)
        for trial in others:
            if self._is_dead(trial, trial._trial_id in stale, trouble):
                fail(self.storage, trial._trial_id)

    def _is_dead(self, trial: FrozenTrial, stale: bool, trouble: float) -> bool:
        now = time.monotonic()
        owner: dict[str, Any] = trial.system_attrs.get(OWNER) or {"scope": None}
        here = owner["scope"] is not None and owner["scope"] == _scope()
        if here and _has_died(owner["pid"], owner["start"]):
            return True
        if not stale and OWNER not in trial.system_attrs:
            return False  # asked for by hand, or by another program
        beat_now = trial.system_attrs.get(BEAT)
        beat_before, since = self._seen.setdefault(trial._trial_id, (beat_now, now))
        if beat_now != beat_before:
            self._seen[trial._trial_id] = beat_now, now
            return False
        return now - max(since, trouble) > (GRACE / 2 if stale else GRACE) * self._heartbeat

    def settle(self, study: optuna.Study) -> None:
        """Wait until the trials that run now are finished, failed, or surely alive.

        A study that was interrupted goes on exactly as it would have only if the trials that
        nobody runs any more are evaluated before others.
        """
        end = time.monotonic() + (GRACE + 1) * self._heartbeat
        before: set[int] | None = None
        while time.monotonic() < end:
            self.fail_dead(study, at_once=True)
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            others = {t.number for t in running if t._trial_id not in self._running}
            if before is None and others:
                names = ", ".join(map(str, sorted(others)[:5]))
                self._progress.log(
                    f"Waiting for trials of other workers ({names}), at most "
                    f"{(GRACE + 1) * self._heartbeat:.0f} s."
                )
            before = others if before is None else before & others
            if not before:
                return
            self.wait()


def fail(storage: BaseStorage, trial_id: int) -> None:
    """Fail a trial, unless it is finished."""
    with contextlib.suppress(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial_id, TrialState.FAIL)


def _scope() -> str | None:
    """Where a process id means what it means here: this boot and this container, on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _status(pid: int) -> tuple[str, str] | None:
    """State of a process, and when it was started, in ticks since boot; None if it is hidden."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name of the program, in parentheses, may hold anything.
    fields = text.rpartition(")")[2].split()
    return fields[0], fields[19]


def _start(pid: int) -> str | None:
    status = _status(pid)
    return None if status is None else status[1]


def _has_died(pid: int, start: str | None) -> bool:
    """Whether a process of this machine is gone, or its number is another one's now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # somebody else's
    status = _status(pid)
    return status is not None and (status[0] in "ZX" or status[1] != start)
