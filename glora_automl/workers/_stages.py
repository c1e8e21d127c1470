"""What is done once for a study, by whichever worker comes first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from glora_automl._files import Timeout, file_lock, make_folder, remove_torn
from glora_automl.errors import Stopped
from glora_automl.progress import Progress
from glora_automl.workers._meter import Meter
from glora_automl.workers._worker import Worker, fail

__all__ = ["Claim", "Stages", "Work", "stage_study_name"]

_Result = TypeVar("_Result")
_CPU = torch.device("cpu")
Outcome = dict[str, Any]
"""What a stage leaves behind; JSON."""


def stage_study_name(name: str) -> str:
    """Name of the Optuna study that holds the stages of a study.

    Example:
        >>> stage_study_name("digits")
        'digits/stages'
    """
    return f"{name}/stages"


class Claim:
    """A stage that this worker is at, as a running trial of the study of stages.

    Attributes:
        earlier: Attributes of the attempts of others at the stage, oldest first.
        afterwards: Called when the stage is done and will not be begun again.
    """

    def __init__(self, storage: BaseStorage, trial_id: int, earlier: list[dict[str, Any]]) -> None:
        self._storage = storage
        self._trial_id = trial_id
        self.earlier = earlier
        self.afterwards: list[Callable[[], object]] = []

    def note(self, key: str, value: Any) -> None:
        """Write something of the attempt for those who may have to go on with it.

        Raises:
            UpdateFinishedTrialError: If this worker was taken for dead.
        """
        self._storage.set_trial_user_attr(self._trial_id, key, value)


Work = Callable[[Claim], Outcome]
"""What does a stage."""


class Stages:
    """The stages of a study, each done once although any number of workers could do it.

    An attempt at a stage is a trial of the study ``<name>/stages`` in the same storage, so it has
    a heartbeat, and its ends are as atomic as those of any trial, on every storage: of attempts
    that run at the same time the first created goes on; one that was failed, because its worker
    seemed dead, cannot be completed any more. What a stage has found, its outcome, counts from
    the moment at which its trial is complete.

    Args:
        name: Name of the study.
        storage: Its storage.
        worker: Who works here.
        folder: Folder for the stage's files on this machine.
        progress: Told what is waited for.
        key: Outcomes of attempts with another key do not count; a digest of the settings.
        device: Whose memory and energy are counted.

    Attributes:
        study: The study of the stages.
        key: See above; the one that the study keeps, as soon as it is there.
    """

    def __init__(
        self,
        name: str,
        storage: BaseStorage,
        worker: Worker,
        folder: Path,
        progress: Progress,
        key: str,
        device: torch.device = _CPU,
    ) -> None:
        self._storage = storage
        self._device = device
        self._worker = worker
        self._folder = folder
        self._progress = progress
        self.key = key
        self.study = optuna.create_study(
            study_name=stage_study_name(name),
            storage=storage,
            direction="minimize",
            load_if_exists=True,
        )

    def _trials(self, stage: str) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.user_attrs.get("stage") == stage]

    def outcome(self, stage: str) -> Outcome | None:
        """What a stage has found, if it is done."""
        for trial in self._trials(stage):
            if trial.state == TrialState.COMPLETE and trial.user_attrs["key"] == self.key:
                return dict(trial.user_attrs["outcome"])
        return None

    def running(self) -> list[FrozenTrial]:
        """Attempts of living workers."""
        self._worker.fail_dead(self.study, at_once=True)
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def run(self, works: Mapping[str, Work]) -> dict[str, Outcome]:
        """See to it that stages are done: those that are free here, the others by waiting.

        Args:
            works: What to do for each stage; returns its outcome.

        Returns:
            The outcomes.

        Raises:
            Stopped: If that was asked for meanwhile.
        """
        told: set[str] = set()

        def log(line: str) -> None:
            if line not in told:
                told.add(line)
                self._progress.log(line)

        while True:
            self._worker.check_stop()
            self._worker.fail_dead(self.study)
            found = {stage: self.outcome(stage) for stage in works}
            outcomes = {stage: out for stage, out in found.items() if out is not None}
            if len(outcomes) == len(works):
                return outcomes
            missing = [stage for stage in works if stage not in outcomes]
            holders = {stage: self._holder(stage) for stage in missing}
            free = [stage for stage in missing if holders[stage] is None]
            if any(self._attempt(stage, self.key, works[stage]) for stage in free):
                continue  # one at a time: others may have done the next meanwhile
            for stage, holder in holders.items():
                log(
                    f"Waiting for {holder}, which is at the stage {stage!r}."
                    if holder is not None
                    else f"Waiting for another process, which has the files of the stage "
                    f"{stage!r} in {str(self._folder)!r}."
                )
            self._worker.wait()

    def exclusively(self, stage: str, work: Callable[[], _Result]) -> _Result:
        """Do something while no other worker does something under the same name.

        Raises:
            Stopped: If that was asked for meanwhile.
        """
        results: list[_Result] = []

        def once(claim: Claim) -> Outcome:
            results.append(work())
            return {}

        while not results:
            self._worker.check_stop()
            self._worker.fail_dead(self.study)
            if self._holder(stage) is not None or not self._attempt(stage, self._worker.name, once):
                self._worker.wait()
        return results[0]

    def unless_taken(self, stage: str, work: Callable[[], object]) -> None:
        """Do something once more, unless another worker is at it now."""

        def once(claim: Claim) -> Outcome:
            work()
            return {}

        if self._holder(stage) is None:
            # Each time under another key: it is never done.
            self._attempt(stage, f"{self._worker.name} {time.time_ns()}", once)

    def _holder(self, stage: str) -> str | None:
        """The worker that is at a stage."""
        for trial in self._trials(stage):
            if trial.state == TrialState.RUNNING:
                return str(trial.user_attrs["worker"])
        return None

    def _attempt(self, stage: str, key: str, work: Callable[[Claim], Outcome]) -> bool:
        """Do a stage, unless another worker has it; returns whether its files were free here.

        They are not where a process of this machine, which others took for dead, is still at it.
        """
        make_folder(self._folder)
        try:
            with file_lock(self._folder / f".{stage}.lock", wait=False):
                remove_torn(self._folder, f"{stage}*")
                self._claim(stage, key, work)
        except Timeout:
            return False
        return True

    def _claim(self, stage: str, key: str, work: Callable[[Claim], Outcome]) -> None:
        trial_id = self._worker.create(self.study, stage=stage, key=key)
        try:
            with self._worker.beating(trial_id):
                others = [t for t in self._trials(stage) if t._trial_id != trial_id]
                # Numbers have one order for everybody: whoever created the first goes on.
                if any(
                    (t.state == TrialState.RUNNING and t._trial_id < trial_id)
                    or (t.state == TrialState.COMPLETE and t.user_attrs["key"] == key)
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
                    if self._worker.has_lost(trial_id):
                        raise UpdateFinishedTrialError from None
                    raise
                claim.note("cost", meter.read())
                claim.note("outcome", outcome)
                seconds = round(time.monotonic() - begin, 3)
                self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [seconds])
            for call in claim.afterwards:
                call()
            self._clear(stage)
        except UpdateFinishedTrialError:
            self._progress.log(
                f"This worker was taken for dead at the stage {stage!r}; what it did there is "
                "dropped."
            )
        except BaseException:
            # The next worker need not wait until this one seems dead.
            with contextlib.suppress(Exception):
                fail(self._storage, trial_id)
            raise

    def _clear(self, stage: str) -> None:
        """Remove the checkpoints of a stage that is done."""
        for path in self._folder.iterdir():
            if path.name.startswith((f"{stage}.", f"{stage}-")):
                path.unlink(missing_ok=True)
