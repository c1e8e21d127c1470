"""The search itself: trials that score merged subnets on the validation images."""

from __future__ import annotations

import time

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from glora_automl.errors import TrainingError
from glora_automl.storages import hold_writes
from glora_automl.study._setup import Setup
from glora_automl.study._study import complete_trials, set_attribute
from glora_automl.supernet import Supernet, evaluate

__all__ = ["best_trials", "run_trials"]

CONSTRAINT = "trainable_params"


def run_trials(study: optuna.Study, setup: Setup, supernet: Supernet, storage: BaseStorage) -> None:
    """Evaluate architectures until the study has as many complete trials as the recipe wants.

    A space with fewer architectures under the budget than that is searched for as many trials as
    it has architectures.

    Raises:
        TrainingError: If trials fail, which they do when their score is no number.
    """
    wanted = setup.recipe.search.trials
    target = min(wanted, setup.region.count(limit=wanted))
    set_attribute(study, "target", target)
    done = len(complete_trials(study))
    with setup.progress.stage("Search", target, "trials") as advance:
        best = best_trials(study, 1)
        if done:
            advance(done, _note(best[0], study) if best else "", earlier=True)

        def show(_: optuna.Study, trial: FrozenTrial) -> None:
            if trial.value is None:
                return
            best.append(trial)
            best.sort(key=lambda t: _rank(t, study.direction))
            del best[1:]
            advance(1, _note(best[0], study))

        if done < target:
            study.optimize(
                lambda trial: _objective(trial, setup, supernet, storage),
                n_trials=target - done,
                callbacks=[show],
            )
    failed = target - len(complete_trials(study))
    if failed > 0:
        raise TrainingError(
            f"Each trial must have a finite score, {failed} of {target} had none; the supernet's "
            "training went wrong, lower training.lr and start with another --name."
        )


def _objective(
    trial: optuna.Trial, setup: Setup, supernet: Supernet, storage: BaseStorage
) -> float:
    with hold_writes(storage):
        return _score(trial, setup, supernet)


def _score(trial: optuna.Trial, setup: Setup, supernet: Supernet) -> float:
    params = {
        dimension.name: trial.suggest_categorical(dimension.name, dimension.choices)
        for dimension in setup.space.dimensions
    }
    count = setup.space.count(params)
    if "trainable_params" not in trial.user_attrs:  # a retried trial brings both along
        trial.set_constraint(CONSTRAINT, count - setup.budget)
        trial.set_user_attr("trainable_params", count)
    begin = time.perf_counter()
    with supernet.merged(setup.space.architecture(params)) as model:
        score = evaluate(model, *setup.validation)
    trial.set_user_attr("validation_accuracy", score.accuracy)
    trial.set_user_attr("validation_loss", score.loss)
    trial.set_user_attr("seconds", round(time.perf_counter() - begin, 6))
    return score.loss if setup.recipe.search.objective == "loss" else score.accuracy


def _rank(trial: FrozenTrial, direction: StudyDirection) -> tuple[float, float, int]:
    """Lower is better: feasible trials by value, the others by violation; the earlier one."""
    violation = max(0.0, trial.constraints.get(CONSTRAINT, 0.0))
    sign = 1.0 if direction == StudyDirection.MINIMIZE else -1.0
    assert trial.value is not None
    return violation, sign * trial.value, trial.number


def best_trials(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The best feasible trials with different parameters, best first."""
    found: dict[frozenset[tuple[str, str]], FrozenTrial] = {}
    for trial in sorted(complete_trials(study), key=lambda t: _rank(t, study.direction)):
        if len(found) == count or _rank(trial, study.direction)[0] > 0:
            break
        found.setdefault(frozenset(trial.params.items()), trial)
    return list(found.values())


def _note(best: FrozenTrial, study: optuna.Study) -> str:
    assert best.value is not None
    minimize = study.direction == StudyDirection.MINIMIZE
    value = f"{best.value:.3f}" if minimize else f"{best.value:.1%}"
    return f"best {value}, {best.user_attrs['trainable_params']:,} parameters"
