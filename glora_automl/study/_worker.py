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
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from glora_automl.errors import Stopped
from glora_automl.progress import Progress
from glora_automl.storages import GRACE, beat, hold_writes, set_heartbeat

__all__ = ["Worker"]

OWNER = "glora:worker"
"""Trial attribute that says which process runs it."""

_BEAT = "glora:beat"


class Worker:
    """One process that works on studies, together with any number of others.

    While it is open, a thread tells the storage every ``heartbeat`` seconds that the trials it
    runs are alive: by Optuna's heartbeats on a database, by an attribute of the trial elsewhere.
    A trial of somebody else is failed when it was silent for three heartbeats: by the clock of
    the database, or, where Optuna has no heartbeats, by this worker's clock since it first saw
    the trial's last beat. A process that has died on this machine is not waited for.

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
        self.stop = stop
        self._progress = progress or Progress()
        self._identity: dict[str, Any] = {
            "name": self.name,
            "pid": pid,
            "start": _start(pid),
            "scope": _scope(),
        }
        self._running: set[int] = set()
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
        count = 0
        while not self._closed.wait(self._heartbeat):
            count += 1
            for trial_id in tuple(self._running):
                # What is wrong with the storage is told by the thread that works.
                with contextlib.suppress(Exception):
                    if not beat(self.storage, trial_id):
                        self.storage.set_trial_system_attr(trial_id, _BEAT, count)

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
                system_attrs={OWNER: self._identity},
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

    def check_stop(self) -> None:
        """Stop here if that was asked for.

        Raises:
            Stopped: If so.
        """
        if self.stop is not None and self.stop():
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
        if self._on_database:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial._trial_id not in self._running and self._is_dead(trial, now):
                fail(self.storage, trial._trial_id)

    def _is_dead(self, trial: FrozenTrial, now: float) -> bool:
        owner: dict[str, Any] = trial.system_attrs.get(OWNER) or {"scope": None}
        here = owner["scope"] is not None and owner["scope"] == _scope()
        if here and _start(owner["pid"]) != owner["start"]:
            return True
        if self._on_database:
            return False  # judged by its heartbeats
        beat_now = trial.system_attrs.get(_BEAT)
        beat_before, since = self._seen.setdefault(trial._trial_id, (beat_now, now))
        if beat_now != beat_before:
            self._seen[trial._trial_id] = beat_now, now
            return False
        return now - since > GRACE * self._heartbeat

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
                self._progress.say(
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


def _start(pid: int) -> str | None:
    """When a process was started, in ticks since boot; None if it is dead or cannot be known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name of the program, in parentheses, may hold anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
