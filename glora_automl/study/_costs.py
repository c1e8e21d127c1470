"""Costs of a study: seconds, images, memory and energy by stage and worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from glora_automl.study._load import get_setting, study_key
from glora_automl.study._outcomes import Done, Spent
from glora_automl.study._ranking import done_trials
from glora_automl.study._stages import Stage, StageName
from glora_automl.workers import stage_study_name

__all__ = [
    "STAGES",
    "Cost",
    "attempts",
    "find_stages",
    "stage_costs",
    "stage_spent",
    "trials_spent",
]

STAGES = tuple(stage for stage in Stage if stage not in (Stage.SETTINGS, Stage.REPORT))
"""Stages with costs, in order."""


class Cost(NamedTuple):
    """Cost of a worker's part in a stage.

    Seconds of a training are those of its checkpoint. Work of a failed attempt without checkpoint
    is not counted.

    Attributes:
        stage: The stage.
        worker: The worker.
        times: Trials, or completions of the stage.
        seconds: Wall time.
        n_trained: Images of all training steps.
        n_evaluated: Images of all evaluations.
        peak_mib: Peak memory of the process, in MiB; None if unknown.
        gpu_mib: Peak memory of the GPU, in MiB.
        joules: Energy of the GPU.
    """

    stage: Stage
    worker: str
    times: int
    seconds: float
    n_trained: int = 0
    n_evaluated: int = 0
    peak_mib: float | None = None
    gpu_mib: float | None = None
    joules: float | None = None

    @property
    def n_images(self) -> int:
        """Images of training steps and evaluations."""
        return self.n_trained + self.n_evaluated

    @property
    def forward_images(self) -> int:
        """Cost in images of a forward pass, as of :class:`Spent`."""
        return Spent(self.n_trained, self.n_evaluated).forward_images

    def plus(self, other: Cost) -> Cost:
        """Return both together, as of one worker."""
        return self._replace(
            times=self.times + other.times,
            seconds=self.seconds + other.seconds,
            n_trained=self.n_trained + other.n_trained,
            n_evaluated=self.n_evaluated + other.n_evaluated,
            peak_mib=_joined(max, self.peak_mib, other.peak_mib),
            gpu_mib=_joined(max, self.gpu_mib, other.gpu_mib),
            joules=_joined(sum, self.joules, other.joules),
        )


def _joined(join: Callable[[list[float]], float], *values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return join(known) if known else None


def stage_costs(study: optuna.Study) -> list[Cost]:
    """Return the costs of a study by stage and worker, in the order of the stages.

    Example:
        >>> study = optuna.create_study()
        >>> kept = {"recipe": {}, "key": "0123456789abcdef", "ranking": None}
        >>> study.set_user_attr("glora:settings", kept)
        >>> stage_costs(study)
        []
    """
    stages = find_stages(study)
    # The trial of a given architecture stands for the stage that trained it.
    is_given = get_setting(study, "recipe").get("architecture") is not None
    trials = [] if is_given else done_trials(study)
    sums: dict[tuple[Stage, str], Cost] = {}
    for cost in (*_costs_of_stages(study, stages), *map(_cost_of_trial, trials)):
        key = cost.stage, cost.worker
        sums[key] = sums[key].plus(cost) if key in sums else cost
    costs = [c._replace(seconds=round(c.seconds, 3)) for c in sums.values() if c.stage in STAGES]
    return sorted(costs, key=lambda cost: (STAGES.index(cost.stage), cost.worker))


def find_stages(study: optuna.Study) -> optuna.Study | None:
    """Return the study of a study's stages, if it exists."""
    name = stage_study_name(study.study_name)
    if name not in optuna.get_all_study_names(study._storage):
        return None
    return optuna.load_study(study_name=name, storage=study._storage)


def attempts(study: optuna.Study, stages: optuna.Study | None) -> list[FrozenTrial]:
    """Return the completed attempts at stages under the study's settings.

    The ranking of backbones has a key of its own, as it is done before the study exists.
    """
    if stages is None:
        return []
    keys = {study_key(study), get_setting(study, "ranking")} - {None}
    done = stages.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in done if trial.user_attrs.get("key") in keys]


def stage_spent(study: optuna.Study, stages: optuna.Study | None) -> dict[str, Spent]:
    """Return the work of each stage by its printed name, that of the search included."""
    spent = {}
    for trial in attempts(study, stages):
        found = _spent(trial)
        spent[str(trial.user_attrs["stage"])] = found._replace(seconds=_stage_seconds(trial, found))
    if done_trials(study):
        spent[str(Stage.SEARCH)] = trials_spent(study)
    return spent


def trials_spent(study: optuna.Study) -> Spent:
    """Return the work of a study's complete and pruned trials."""
    done = done_trials(study)
    n_evaluated = sum(int(trial.user_attrs.get("validation_images", 0)) for trial in done)
    return Spent(0, n_evaluated, sum(map(_seconds, done)))


def _cost_of_trial(trial: FrozenTrial) -> Cost:
    attributes = trial.user_attrs
    return Cost(
        Stage.SEARCH,
        _worker(trial),
        1,
        _seconds(trial),
        n_evaluated=int(attributes.get("validation_images", 0)),
        peak_mib=attributes.get("peak_mib"),
        gpu_mib=attributes.get("gpu_mib"),
        joules=attributes.get("joules"),
    )


def _costs_of_stages(study: optuna.Study, stages: optuna.Study | None) -> Iterator[Cost]:
    for trial in attempts(study, stages):
        spent = _spent(trial)
        yield Cost(
            StageName.parse(str(trial.user_attrs["stage"])).stage,
            _worker(trial),
            1,
            _stage_seconds(trial, spent),
            spent.n_trained,
            spent.n_evaluated,
            **trial.user_attrs.get("cost", {}),
        )


def _spent(trial: FrozenTrial) -> Spent:
    outcome = trial.user_attrs.get("outcome")
    table = outcome.get("spent", {}) if isinstance(outcome, dict) else {}
    return Done.from_json({"spent": table}).spent


def _stage_seconds(trial: FrozenTrial, spent: Spent) -> float:
    return _seconds(trial) if spent.seconds is None else spent.seconds


def _worker(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("worker", "unknown"))


def _seconds(trial: FrozenTrial) -> float:
    if trial.datetime_start is None or trial.datetime_complete is None:
        return 0.0
    return (trial.datetime_complete - trial.datetime_start).total_seconds()
