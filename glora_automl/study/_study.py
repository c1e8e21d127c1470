"""The Optuna study of a recipe: created, found again, checked, and repaired after a crash."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from glora_automl.errors import RecipeError, StudyError
from glora_automl.study._recipe import Recipe, parse_recipe

__all__ = [
    "FORMAT",
    "complete_trials",
    "create_or_load_study",
    "load_study",
    "read_recipe",
    "requeue_interrupted",
]

FORMAT = 1
"""Version of what is written into a study: parameter names, values and attributes."""

_MAX_RETRIES = 10

Attribute = Literal[
    "format", "recipe", "budget", "digests", "versions", "target", "seconds", "selection", "result"
]
"""What a study keeps besides its trials; the storage has it as ``glora:<name>``."""


def get_attribute(study: optuna.Study, key: Attribute) -> Any:
    """One of our study attributes, or None."""
    return study.user_attrs.get(f"glora:{key}")


def set_attribute(study: optuna.Study, key: Attribute, value: Any) -> None:
    """Write one of our study attributes; ``value`` must be JSON."""
    study.set_user_attr(f"glora:{key}", value)


def load_study(storage: BaseStorage, name: str, sampler: BaseSampler | None = None) -> optuna.Study:
    """Find a study of ours.

    Raises:
        StudyError: If it is not there, not ours, or of a newer format.
    """
    known = optuna.get_all_study_names(storage)
    if name not in known:
        names = ", ".join(sorted(known)[:8]) or "none"
        raise StudyError(f"The storage has no study {name!r}; there are: {names}.")
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    version = get_attribute(study, "format")
    if version is None:
        raise StudyError(
            f"The study {name!r} is not one of GLoRA's; choose another name with --name."
        )
    if version > FORMAT:
        raise StudyError(
            f"The study {name!r} has format {version}, this version reads up to {FORMAT}; "
            "upgrade glora-automl."
        )
    return study


def read_recipe(study: optuna.Study) -> Recipe:
    """The recipe that a study keeps."""
    return parse_recipe(get_attribute(study, "recipe"), f"study {study.study_name}")


def create_or_load_study(
    storage: BaseStorage,
    name: str,
    recipe: Recipe,
    budget: int,
    digests: dict[str, str],
    versions: dict[str, str],
    sampler: BaseSampler,
) -> optuna.Study:
    """Create the study of a recipe, or go on with it if its settings are the same.

    A study whose supernet was not trained to the end takes other settings.

    Raises:
        RecipeError: If it exists with other settings; the message names the first that differs.
        StudyError: If a study of that name is not ours, or its data are not these.
    """
    loss = recipe.search.objective == "loss"
    direction = StudyDirection.MINIMIZE if loss else StudyDirection.MAXIMIZE
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        sampler=sampler,
        direction=direction,
        load_if_exists=True,
    )
    same_direction = study.directions == [direction]
    if same_direction and _is_blank(study):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([f"validation_{recipe.search.objective}"])
        set_attribute(study, "recipe", recipe.model_dump(mode="json"))
        set_attribute(study, "budget", budget)
        set_attribute(study, "digests", digests)
        set_attribute(study, "versions", versions)
        set_attribute(study, "format", FORMAT)
        return study
    study = load_study(storage, name, sampler)
    kept = read_recipe(study)
    old, new = kept.identity(), recipe.identity()
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            raise RecipeError(
                f"The study {name!r} exists with {key} = {old.get(key)!r}, this recipe has "
                f"{new.get(key)!r}; choose another name with --name."
            )
    for key, digest in digests.items():
        if get_attribute(study, "digests").get(key) != digest:
            raise StudyError(
                f"The {key} of the study {name!r} must have the digest "
                f"{get_attribute(study, 'digests').get(key)}, here it is {digest}; use the same "
                "data and versions, or another name with --name."
            )
    if kept.search.trials != recipe.search.trials:
        if get_attribute(study, "result") is not None:
            raise RecipeError(
                f"The study {name!r} is finished with search.trials = {kept.search.trials} and "
                f"its test images were looked at, got {recipe.search.trials}; start another with "
                "--name."
            )
        set_attribute(study, "recipe", recipe.model_dump(mode="json"))
    return study


def _is_blank(study: optuna.Study) -> bool:
    """Whether nothing hangs on a study yet, so that any settings may be written into it.

    It is new, its creation was interrupted, or it is ours and its supernet was never trained to
    the end: after a mistake in the recipe, the mended one starts over under the same name.
    """
    ours = all(key.startswith("glora:") for key in study.user_attrs)
    trained = "supernet" in (get_attribute(study, "digests") or {})
    return ours and not trained and not study.get_trials(deepcopy=False)


def complete_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, by number."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def requeue_interrupted(study: optuna.Study) -> int:
    """Queue what an interrupted worker left behind; call it while no other worker runs.

    A trial that still counts as running is failed; each failed one is evaluated again, in its
    place (see :class:`~glora_automl.samplers.EvolutionSampler`).

    Returns:
        The number of trials that were queued.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    retried = {n for t in trials for n in t.system_attrs.get("retry_history", ())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        retry = RetryHeartbeatStaleTrialCallback(max_retry=_MAX_RETRIES)
    queued = [t for t in trials if t.state == TrialState.FAIL and t.number not in retried]
    for trial in queued:
        retry(study, trial)
    return len(queued)
