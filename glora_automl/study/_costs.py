"""What a study has cost: by stage and by worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from glora_automl.study._ranking import done_trials
from glora_automl.study._study import get_setting, study_key
from glora_automl.workers import stage_study_name

__all__ = ["STAGES", "Cost", "attempts", "find_stages", "stage_costs", "stage_seconds"]

STAGES = (
    "backbone",
    "supernet",
    "search",
    "selection",
    "baselines",
    "test",
    "picks",
    "comparison",
)
"""What is done for a study, in the order in which it comes."""

_GROUPS = {"baseline": "baselines", "pick": "picks", "compare": "comparison"}
"""Stages whose names begin so count together."""


class Cost(NamedTuple):
    """What a worker has spent on a stage.

    Of a training the seconds are those that its checkpoint has counted, of other work those of
    what was brought to its end: what a dead worker did is not known.

    Attributes:
        stage: One of :data:`STAGES`.
        worker: Who did it.
        times: Trials, or how often the stage was done.
        seconds: Wall time.
        n_images: Images that were trained on or evaluated, repeated ones counted each time.
        peak_mib: Most memory of the process, in MiB; None if it is not known.
        gpu_mib: Most memory of the GPU.
        joules: Energy of the GPU.
    """

    stage: str
    worker: str
    times: int
    seconds: float
    n_images: int
    peak_mib: float | None = None
    gpu_mib: float | None = None
    joules: float | None = None

    def plus(self, other: Cost) -> Cost:
        """Both together, as of one worker."""
        return self._replace(
            times=self.times + other.times,
            seconds=self.seconds + other.seconds,
            n_images=self.n_images + other.n_images,
            peak_mib=_known(max, self.peak_mib, other.peak_mib),
            gpu_mib=_known(max, self.gpu_mib, other.gpu_mib),
            joules=_known(lambda pair: sum(pair), self.joules, other.joules),
        )


def _known(join: Any, *values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return join(known) if known else None


def stage_costs(study: optuna.Study) -> list[Cost]:
    """What each worker has spent on each stage, in the order of the stages.

    Example:
        >>> study = optuna.create_study()
        >>> study.set_user_attr("glora:settings", {"recipe": {}, "digests": {}})
        >>> stage_costs(study)
        []
    """
    return _ledger(study, find_stages(study))


def find_stages(study: optuna.Study) -> optuna.Study | None:
    """The study of a study's stages, if there is one."""
    name = stage_study_name(study.study_name)
    if name not in optuna.get_all_study_names(study._storage):
        return None
    return optuna.load_study(study_name=name, storage=study._storage)


def attempts(study: optuna.Study, stages: optuna.Study | None) -> list[FrozenTrial]:
    """The attempts at the stages that were brought to an end, under the study's settings."""
    if stages is None:
        return []
    key = study_key(study)
    done = stages.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in done if trial.user_attrs.get("key") == key]


def stage_seconds(study: optuna.Study, stages: optuna.Study | None) -> dict[str, float]:
    """Seconds of work of each stage by its own name, and of the search; see :class:`Cost`."""
    spent = {str(t.user_attrs["stage"]): _counted(t) for t in attempts(study, stages)}
    if done := done_trials(study):
        spent["search"] = sum(map(_seconds, done))
    return spent


def _ledger(study: optuna.Study, stages: optuna.Study | None) -> list[Cost]:
    sums: dict[tuple[str, str], Cost] = {}
    # The trial of an architecture that was given stands for the stage that has trained it.
    is_given = get_setting(study, "recipe").get("architecture") is not None
    trials = [] if is_given else done_trials(study)
    for cost in (*_stage_costs(study, stages), *map(_trial_cost, trials)):
        key = cost.stage, cost.worker
        sums[key] = sums[key].plus(cost) if key in sums else cost
    order = {stage: place for place, stage in enumerate(STAGES)}
    costs = [c._replace(seconds=round(c.seconds, 3)) for c in sums.values() if c.stage in order]
    return sorted(costs, key=lambda cost: (order[cost.stage], cost.worker))


def _trial_cost(trial: FrozenTrial) -> Cost:
    told = trial.user_attrs
    return Cost(
        "search",
        _worker(trial),
        1,
        _seconds(trial),
        int(told.get("validation_images", 0)),
        told.get("peak_mib"),
        told.get("gpu_mib"),
        told.get("joules"),
    )


def _stage_costs(study: optuna.Study, stages: optuna.Study | None) -> Iterator[Cost]:
    trained = 0
    for trial in attempts(study, stages):
        name, outcome = str(trial.user_attrs["stage"]), trial.user_attrs["outcome"]
        if name == "supernet":
            trained = int(outcome.get("n_images", 0))
        yield Cost(
            _GROUPS.get(name.partition("-")[0], name),
            _worker(trial),
            1,
            _counted(trial),
            _images(outcome, trained),
            **trial.user_attrs.get("cost", {}),
        )


def _images(outcome: dict[str, Any], trained: int) -> int:
    if "selection" in outcome:  # the row of a winner counts the supernet's training, too
        selection = outcome["selection"]
        keys = ("finetuned", "cross_validated", "retrained")
        again = [selection[key] for key in keys if selection.get(key)]
        scored = len(selection["candidates"]) + len(again)
        evaluated = scored * int(selection["inherited"]["n_images"])
        return int(outcome["row"]["n_images"]) - trained + evaluated
    if "rows" in outcome:
        return sum(int(row["test"]["n_images"]) for row in outcome["rows"] if row["test"])
    return int(outcome.get("n_images") or outcome.get("row", {}).get("n_images", 0))


def _counted(trial: FrozenTrial) -> float:
    return float(trial.user_attrs["outcome"].get("seconds") or _seconds(trial))


def _worker(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("worker", "unknown"))


def _seconds(trial: FrozenTrial) -> float:
    if trial.datetime_start is None or trial.datetime_complete is None:
        return 0.0
    return (trial.datetime_complete - trial.datetime_start).total_seconds()
