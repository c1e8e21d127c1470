"""Summary of a study from its storage alone, as plain JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from glora_automl._messages import short
from glora_automl.errors import StudyError
from glora_automl.samplers import DONE
from glora_automl.storages import full_location
from glora_automl.study._backbones import read_ranking
from glora_automl.study._costs import STAGES, attempts, find_stages, stage_costs
from glora_automl.study._data import read_data
from glora_automl.study._load import (
    FORMAT,
    check_study,
    get_attribute,
    get_setting,
    study_key,
)
from glora_automl.study._ranking import CONSTRAINT, best_trials, pareto_trials
from glora_automl.study._stages import Stage, StageName
from glora_automl.study._target import attempt_counts

__all__ = ["list_studies", "summarize"]


_AFTER_SEARCH = (Stage.SELECTION, Stage.LADDER, Stage.REFIT, Stage.BASELINE)


def list_studies(storage: BaseStorage) -> list[dict[str, Any]]:
    """Return summaries of the storage's studies of this package, by name.

    The summary of a study with another format, or of an altered one, has only name and stage.
    """
    names = sorted(optuna.get_all_study_names(storage))
    studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    summaries = []
    for study in studies:
        version = get_attribute(study, "format")
        if version == FORMAT:
            try:
                check_study(study)
            except StudyError as error:
                summaries.append({"study": study.study_name, "stage": f"unreadable: {error}"})
                continue
            summaries.append(summarize(study))
        elif version is not None:
            stage = f"of format {short(version)}, this version reads {FORMAT}"
            summaries.append({"study": study.study_name, "stage": stage})
    return summaries


def summarize(study: optuna.Study) -> dict[str, Any]:
    """Return settings, progress, best trial and result of a study.

    ``stage`` is the next or running stage: ``supernet``, ``search``, ``selection``, ``test`` or
    ``finished``; ``training`` where the recipe gives an architecture. ``seconds`` are sums over
    the workers.
    """
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state for trial in trials)
    best = best_trials(study, 1)
    stages = find_stages(study)
    costs = stage_costs(study)
    data = read_data(study)
    spent: dict[str, float] = {}
    for cost in costs:
        spent[cost.stage] = round(spent.get(cost.stage, 0.0) + cost.seconds, 2)
    ranking = read_ranking(study)
    digests = {
        what: outcome["digest"]
        for what in ("backbone", "supernet")
        if (outcome := study.user_attrs.get(f"glora:{what}")) is not None
    }
    return {
        "study": study.study_name,
        "stage": _stage(study, stages, sum(states[state] for state in DONE)),
        "budget": get_setting(study, "budget"),
        "metric": get_setting(study, "recipe").get("metric", "accuracy"),
        "trials": {
            "target": max(get_setting(study, "target"), sum(states[state] for state in DONE)),
            "complete": states[TrialState.COMPLETE],
            "pruned": states[TrialState.PRUNED],
            "running": states[TrialState.RUNNING],
            "failed": states[TrialState.FAIL],
            "all": len(trials),
        },
        "best": {
            "trial": best[0].number,
            "value": best[0].values[0],
            "n_params": best[0].user_attrs[CONSTRAINT],
        }
        if best
        else None,
        "front": [
            {"trial": t.number, "value": t.values[0], "n_params": t.user_attrs[CONSTRAINT]}
            for t in pareto_trials(trials, study.directions[0])
        ],
        "ranking": None if ranking is None else ranking.to_json(),
        "selection": get_attribute(study, "selection"),
        "result": get_attribute(study, "result"),
        "ladder": get_attribute(study, "ladder"),
        "classes": get_attribute(study, "classes"),
        "selects": _selects(study, stages),
        "comparison": get_attribute(study, "comparison"),
        "data": {**data.to_json(), "notes": data.notes(), "captions": data.captions()},
        "seconds": {str(stage): spent[stage] for stage in STAGES if spent.get(stage)},
        "workers": _workers(trials, stages),
        "stage_costs": [cost._asdict() for cost in costs],
        "digests": {**get_setting(study, "digests"), **digests},
        "artifacts": full_location(get_setting(study, "artifacts"), study._storage),
        "versions": get_setting(study, "versions"),
        "recipe": get_setting(study, "recipe"),
    }


def _stage(study: optuna.Study, stages: optuna.Study | None, n_done: int) -> str:
    if get_attribute(study, "result") is not None:
        return "finished"
    if get_setting(study, "recipe").get("architecture") is not None:
        return "training"
    if get_attribute(study, "selection") is not None:
        return str(Stage.TEST)
    if n_done >= get_setting(study, "target"):
        return str(_running(study, stages) or Stage.SELECTION)
    known = get_attribute(study, "supernet") is not None
    return str(Stage.SEARCH if known else Stage.SUPERNET)


def _running(study: optuna.Study, stages: optuna.Study | None) -> Stage | None:
    """Return the stage after the search that a worker began last; None if none runs."""
    if stages is None:
        return None
    key = study_key(study)
    running = stages.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    kinds = [
        StageName.parse(trial.user_attrs["stage"]).stage
        for trial in running
        if trial.user_attrs.get("key") == key
    ]
    return next((kind for kind in reversed(kinds) if kind in _AFTER_SEARCH), None)


def _selects(study: optuna.Study, stages: optuna.Study | None) -> list[dict[str, Any]]:
    """Return the adapters selected for smaller budgets, by budget."""
    outcomes = [
        trial.user_attrs["outcome"]
        for trial in attempts(study, stages)
        if "budget" in trial.user_attrs["outcome"] and attempt_counts(study, trial)
    ]
    keys = ("budget", "selection", "row")
    return [
        {key: outcome[key] for key in keys}
        for outcome in sorted(outcomes, key=lambda outcome: int(outcome["budget"]))
    ]


def _workers(trials: list[FrozenTrial], stages: optuna.Study | None) -> dict[str, dict[str, Any]]:
    """Return the finished and current work of each worker."""
    workers: dict[str, dict[str, Any]] = {}

    def of(trial: FrozenTrial) -> dict[str, Any]:
        name = str(trial.user_attrs.get("worker", "unknown"))
        return workers.setdefault(name, {"trials": 0, "stages": [], "at": None})

    for trial in trials:
        if trial.state in DONE:
            of(trial)["trials"] += 1
        elif trial.state == TrialState.RUNNING:
            of(trial)["at"] = f"trial {trial.number}"
    for trial in [] if stages is None else stages.get_trials(deepcopy=False):
        if trial.user_attrs["stage"] in (Stage.SETTINGS, Stage.REPORT):
            continue
        if trial.state == TrialState.COMPLETE:
            of(trial)["stages"].append(trial.user_attrs["stage"])
        elif trial.state == TrialState.RUNNING:
            of(trial)["at"] = trial.user_attrs["stage"]
    return workers
