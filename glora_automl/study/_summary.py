"""What can be told of a study from its storage alone, as plain JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from glora_automl.study._costs import STAGES, attempts, find_stages, stage_costs
from glora_automl.study._ranking import CONSTRAINT, best_trials, front_of
from glora_automl.study._study import FORMAT, get_attribute, get_setting

__all__ = ["list_studies", "summarize"]


def list_studies(storage: BaseStorage) -> list[dict[str, Any]]:
    """Summaries of the storage's GLoRA studies, by name; other studies are left out.

    Of a study whose format this version does not read, only name and stage are told.
    """
    names = sorted(optuna.get_all_study_names(storage))
    studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    summaries = []
    for study in studies:
        version = get_attribute(study, "format")
        if version == FORMAT:
            summaries.append(summarize(study))
        elif version is not None:
            stage = f"of format {version}, this version reads {FORMAT}"
            summaries.append({"study": study.study_name, "stage": stage})
    return summaries


def summarize(study: optuna.Study) -> dict[str, Any]:
    """Settings, progress, best trial and result of a study.

    ``stage`` is what comes next or is under way: ``supernet``, ``search``, ``selection``,
    ``baselines``, or ``finished``; ``training`` of an architecture that was given. ``seconds`` are
    summed over the workers.
    """
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state for trial in trials)
    target = get_setting(study, "target")
    selection, result = get_attribute(study, "selection"), get_attribute(study, "result")
    supernet = get_attribute(study, "supernet")
    if result is not None:
        stage = "finished"
    elif get_setting(study, "recipe").get("architecture") is not None:
        stage = "training"
    elif selection is not None:
        stage = "baselines"
    elif states[TrialState.COMPLETE] + states[TrialState.PRUNED] >= target:
        stage = "selection"
    else:
        stage = "search" if supernet is not None else "supernet"
    best = best_trials(study, 1)
    stages = find_stages(study)
    costs = stage_costs(study)
    spent: dict[str, float] = {}
    for cost in costs:
        spent[cost.stage] = round(spent.get(cost.stage, 0.0) + cost.seconds, 2)
    made = {
        what: outcome["digest"]
        for what in ("backbone", "supernet")
        if (outcome := study.user_attrs.get(f"glora:{what}")) is not None
    }
    return {
        "study": study.study_name,
        "stage": stage,
        "budget": get_setting(study, "budget"),
        "trials": {
            "target": target,
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
            for t in front_of(trials, study.directions[0])
        ],
        "selection": selection,
        "result": result,
        "picks": _picks(study, stages),
        "comparison": get_attribute(study, "comparison"),
        "seconds": {stage: seconds for stage in STAGES if (seconds := spent.get(stage))},
        "workers": _workers(trials, stages),
        "stage_costs": [cost._asdict() for cost in costs],
        "digests": {**get_setting(study, "digests"), **made},
        "artifacts": get_setting(study, "artifacts"),
        "versions": get_setting(study, "versions"),
        "recipe": get_setting(study, "recipe"),
    }


def _picks(study: optuna.Study, stages: optuna.Study | None) -> list[dict[str, Any]]:
    """What was picked for smaller budgets, by budget."""
    outcomes = [trial.user_attrs["outcome"] for trial in attempts(study, stages)]
    picks = [outcome["pick"] for outcome in outcomes if "pick" in outcome]
    return sorted(picks, key=lambda pick: int(pick["budget"]))


def _workers(trials: list[FrozenTrial], stages: optuna.Study | None) -> dict[str, dict[str, Any]]:
    """What each worker has done or is doing."""
    workers: dict[str, dict[str, Any]] = {}

    def of(trial: FrozenTrial) -> dict[str, Any]:
        name = str(trial.user_attrs.get("worker", "unknown"))
        return workers.setdefault(name, {"trials": 0, "stages": [], "at": None})

    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            of(trial)["trials"] += 1
        elif trial.state == TrialState.RUNNING:
            of(trial)["at"] = f"trial {trial.number}"
    for trial in [] if stages is None else stages.get_trials(deepcopy=False):
        if trial.user_attrs["stage"] in ("settings", "report"):
            continue
        if trial.state == TrialState.COMPLETE:
            of(trial)["stages"].append(trial.user_attrs["stage"])
        elif trial.state == TrialState.RUNNING:
            of(trial)["at"] = trial.user_attrs["stage"]
    return workers
