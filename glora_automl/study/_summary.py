"""What can be told of a study from its storage alone, as plain JSON."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from glora_automl.study._study import get_attribute
from glora_automl.study._trials import best_trials

__all__ = ["list_studies", "summarize"]


def list_studies(storage: BaseStorage) -> list[dict[str, Any]]:
    """Summaries of the storage's GLoRA studies, by name; other studies are left out."""
    names = sorted(optuna.get_all_study_names(storage))
    studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    return [summarize(study) for study in studies if get_attribute(study, "format") is not None]


def summarize(study: optuna.Study) -> dict[str, Any]:
    """Settings, progress, best trial and result of a study.

    ``stage`` is what comes next or is under way: ``supernet``, ``search``, ``selection``,
    ``controls``, or ``finished``.
    """
    trials = study.get_trials(deepcopy=False)
    states = [trial.state for trial in trials]
    recipe = get_attribute(study, "recipe")
    digests = get_attribute(study, "digests")
    target = get_attribute(study, "target") or recipe["search"]["trials"]
    complete = states.count(TrialState.COMPLETE)
    selection, result = get_attribute(study, "selection"), get_attribute(study, "result")
    if result is not None:
        stage = "finished"
    elif selection is not None:
        stage = "controls"
    elif complete >= target:
        stage = "selection"
    else:
        stage = "search" if "supernet" in digests else "supernet"
    best = best_trials(study, 1)
    return {
        "study": study.study_name,
        "stage": stage,
        "budget": get_attribute(study, "budget"),
        "trials": {
            "target": target,
            "complete": complete,
            "failed": states.count(TrialState.FAIL),
            "all": len(trials),
        },
        "best": {
            "trial": best[0].number,
            "value": best[0].value,
            "parameters": best[0].user_attrs["trainable_params"],
        }
        if best
        else None,
        "selection": selection,
        "result": result,
        "seconds": get_attribute(study, "seconds") or {},
        "digests": digests,
        "versions": get_attribute(study, "versions"),
        "recipe": recipe,
    }
