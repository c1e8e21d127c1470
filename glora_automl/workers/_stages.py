"""Stages: units of work that one of several workers does once per study."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from glora_automl._files import Timeout, file_lock, make_folder, remove_torn
from glora_automl.errors import Stopped
from glora_automl.progress import Progress
from glora_automl.workers._meter import Meter
from glora_automl.workers._worker import Worker, fail

if TYPE_CHECKING:
    import torch

__all__ = ["Claim", "Outcome", "Stages", "Work", "stage_study_name"]


class Outcome(Protocol):
    """Result of a stage, as a study keeps it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""

    @classmethod
    def from_json(cls, table: object, /) -> Self:
        """Return the outcome that :meth:`to_json` described."""


O = TypeVar("O", bound=Outcome)  # noqa: E741
_Result = TypeVar("_Result")


def stage_study_name(name: str) -> str:
    """Return the name of the Optuna study that holds the stages of a study.

    Example:
        >>> stage_study_name("digits")
        'digits/stages'
    """
    return f"{name}/stages"


class Claim:
    """A running attempt of this worker at a stage, as a trial of the study of stages.

    Attributes:
        earlier: Attributes of other attempts at the stage, oldest first.
        afterwards: Called when the stage is done for good.
    """

    def __init__(self, storage: BaseStorage, trial_id: int, earlier: list[dict[str, Any]]) -> None:
        self._storage = storage
        self._trial_id = trial_id
        self.earlier = earlier
        self.afterwards: list[Callable[[], object]] = []

    def note(self, key: str, value: Any) -> None:
        """Write an attribute of the attempt, for workers that may take over.

        Raises:
            UpdateFinishedTrialError: If another worker has failed the attempt as stale.
        """
        self._storage.set_trial_user_attr(self._trial_id, key, value)


@dataclass(frozen=True)
class Work(Generic[O]):
    """A stage that can be done.

    Attributes:
        kind: Type of its outcome.
        do: Does the stage.
    """

    kind: type[O]
    do: Callable[[Claim], O]


class Stages:
    """The stages of a study, each done once by any number of workers.

    An attempt at a stage is a trial of the study ``<name>/stages`` in the same storage. So it has
    heartbeats, and it ends atomically on every storage. Of concurrent attempts the first one goes
    on. A stale attempt that another worker has failed cannot complete any more. The outcome of a
    stage counts as soon as its trial is complete.

    Args:
        name: Name of the study.
        storage: Its storage.
        worker: The worker of this process.
        folder: Folder of the stages' files on this machine.
        progress: Display.
        key: Digest of the settings. Outcomes of attempts with another key do not count.
        device: GPU whose memory and energy are measured; None, or a CPU, measures none.

    Attributes:
        study: The study of the stages.
        key: See above.
        check: Called before and after a stage; raises if the study is not the one that was opened.
        counts: Returns whether an attempt at a stage counts, given that its key does.
    """

    def __init__(
        self,
        name: str,
        storage: BaseStorage,
        worker: Worker,
        folder: Path,
        progress: Progress,
        key: str,
        device: torch.device | None = None,
    ) -> None:
        self._storage = storage
        self._device = device
        self._worker = worker
        self._folder = folder
        self._progress = progress
        self.key = key
        self.check: Callable[[], object] = lambda: None
        self.counts: Callable[[FrozenTrial], bool] = lambda _attempt: True
        stages = stage_study_name(name)
        try:  # first, as the storage of a finished study may be read-only
            self.study = optuna.load_study(study_name=stages, storage=storage)
        except KeyError:
            self.study = optuna.create_study(
                study_name=stages, storage=storage, direction="minimize", load_if_exists=True
            )

    def _trials(self, stage: str) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.user_attrs.get("stage") == stage]

    def outcome(self, stage: str, kind: type[O]) -> O | None:
        """Return the outcome of a stage; None until it is done.

        Raises:
            StudyError: If the kept outcome is not of this kind.
        """
        for trial in self._trials(str(stage)):
            if self._is_complete(trial, self.key):
                return kind.from_json(trial.user_attrs["outcome"])
        return None

    def is_done(self, stage: str) -> bool:
        """Return whether a stage is done."""
        return any(self._is_complete(trial, self.key) for trial in self._trials(str(stage)))

    def _is_complete(self, trial: FrozenTrial, key: str) -> bool:
        return (
            trial.state == TrialState.COMPLETE
            and trial.user_attrs["key"] == key
            and self.counts(trial)
        )

    def running(self) -> list[FrozenTrial]:
        """Return the running attempts of live workers."""
        self._worker.fail_stale(self.study, at_once=True)
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def run_one(self, stage: str, work: Work[O]) -> O:
        """Return the outcome of one stage; see :meth:`run`."""
        outcome: O = self.run({str(stage): work})[str(stage)]
        return outcome

    def run(
        self,
        works: Mapping[str, Work[Any]],
        *,
        is_last: Callable[[Any], bool] | None = None,
    ) -> dict[str, Any]:
        """Do stages: the free ones here, the others by waiting for their workers.

        Args:
            works: The stages by name.
            is_last: Returns whether the stages after one with this outcome are not wanted. Such
                stages are done in order; a worker takes a later one only while others are at all
                earlier ones.

        Returns:
            Their outcomes by name, up to the last one.

        Raises:
            Stopped: If the workspace asked to stop.
        """
        logged: set[str] = set()

        def log(line: str) -> None:
            if line not in logged:
                logged.add(line)
                self._progress.log(line)

        while True:
            self._worker.check_stop()
            self.check()
            self._worker.fail_stale(self.study)
            outcomes, is_complete = self._outcomes(works, is_last)
            if is_complete:
                return outcomes
            missing = [stage for stage in works if not self.is_done(stage)]
            holders = {stage: self._holder(stage) for stage in missing}
            free = [stage for stage in missing if holders[stage] is None]
            if any(self._attempt(stage, self.key, works[stage].do) for stage in free):
                continue  # one at a time: another worker may have done the next one meanwhile
            for stage, holder in holders.items():
                log(
                    f"Waiting for the stage {stage!r} of worker {holder}."
                    if holder is not None
                    else f"Waiting for the stage {stage!r} of another process, which holds its "
                    f"files in {str(self._folder)!r}."
                )
            self._worker.wait()

    def _outcomes(
        self, works: Mapping[str, Work[Any]], is_last: Callable[[Any], bool] | None
    ) -> tuple[dict[str, Any], bool]:
        """Return the outcomes before the first missing one, and whether they are all wanted."""
        outcomes: dict[str, Any] = {}
        for stage, work in works.items():
            outcome = self.outcome(stage, work.kind)
            if outcome is None:
                return outcomes, False
            outcomes[stage] = outcome
            if is_last is not None and is_last(outcome):
                break
        return outcomes, True

    def exclusively(self, stage: str, work: Callable[[], _Result]) -> _Result:
        """Call a function while no other worker calls one under the same name.

        Raises:
            Stopped: If the workspace asked to stop.
        """
        results: list[_Result] = []

        def once(claim: Claim) -> _Nothing:
            results.append(work())
            return _Nothing()

        while not results:
            self._worker.check_stop()
            self._worker.fail_stale(self.study)
            if self._holder(stage) is not None or not self._attempt(stage, self._new_key(), once):
                self._worker.wait()
        return results[0]

    def unless_taken(self, stage: str, work: Callable[[], object]) -> None:
        """Call a function again, unless another worker is calling one under the same name."""

        def once(claim: Claim) -> _Nothing:
            work()
            return _Nothing()

        if self._holder(stage) is None:
            self._attempt(stage, self._new_key(), once)

    def _new_key(self) -> str:
        """Return a key of one call: with it, a stage is never done."""
        return f"{self._worker.name} {time.time_ns()}"

    def _holder(self, stage: str) -> str | None:
        """Return the worker that runs a stage."""
        for trial in self._trials(stage):
            if trial.state == TrialState.RUNNING:
                return str(trial.user_attrs["worker"])
        return None

    def _attempt(self, stage: str, key: str, work: Callable[[Claim], Outcome]) -> bool:
        """Do a stage, unless another worker has it.

        Returns:
            Whether the stage's files were free. A process of this machine that others took for
            stale may still hold them.
        """
        make_folder(self._folder)
        try:
            with file_lock(self._folder / f".{stage}.lock", wait=False):
                remove_torn(self._folder, f"{stage}.*")
                self._claim(stage, key, work)
        except Timeout:
            return False
        return True

    def _claim(self, stage: str, key: str, work: Callable[[Claim], Outcome]) -> None:
        trial_id = self._worker.create(self.study, stage=stage, key=key)
        try:
            with self._worker.heartbeats(trial_id):
                others = [t for t in self._trials(stage) if t._trial_id != trial_id]
                # Every worker sees the same order of ids: the first attempt goes on.
                if any(
                    (t.state == TrialState.RUNNING and t._trial_id < trial_id)
                    or self._is_complete(t, key)
                    for t in others
                ):
                    fail(self._storage, trial_id)
                    return
                earlier = [dict(t.user_attrs) for t in others if t.user_attrs["key"] == key]
                claim = Claim(self._storage, trial_id, earlier)
                begin, meter = time.monotonic(), Meter(self._device)
                try:
                    outcome = work(claim)
                except Stopped:
                    if self._worker.was_failed(trial_id):
                        raise UpdateFinishedTrialError from None
                    raise
                self.check()
                claim.note("cost", meter.read())
                claim.note("outcome", outcome.to_json())
                seconds = round(time.monotonic() - begin, 3)
                self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [seconds])
            for call in claim.afterwards:
                call()
            self._clear(stage)
        except UpdateFinishedTrialError:
            self._progress.log(
                f"Another worker took the stage {stage!r} over; the work done here is dropped."
            )
        except BaseException:
            # The next worker need not wait until this attempt is stale.
            with contextlib.suppress(Exception):
                fail(self._storage, trial_id)
            raise

    def _clear(self, stage: str) -> None:
        """Remove the checkpoints of a stage that is done."""
        for path in self._folder.iterdir():
            if path.name.startswith(f"{stage}."):
                path.unlink(missing_ok=True)


class _Nothing:
    """Outcome of work that leaves no result."""

    def to_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, table: object, /) -> _Nothing:
        return cls()
