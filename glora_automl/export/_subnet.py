"""What of a study is exported: one architecture, with the weights that it has there."""

from __future__ import annotations

from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.export._adapter import Adapter
from glora_automl.export._record import Backbone, Preprocessing
from glora_automl.study import (
    Row,
    Run,
    Selection,
    alone,
    fetch_supernet,
    get_attribute,
    get_setting,
)
from glora_automl.supernet import Score, Supernet

__all__ = ["Choice", "choose", "describe", "take"]


class Choice(NamedTuple):
    """Which adapter of a study it is.

    Attributes:
        trial: Number of the trial that proposed it.
        architecture: What it proposed.
        weights: ``fine-tuned``, ``inherited``, which are the supernet's, or ``trained``, of an
            architecture that was given.
        validation: Score on the validation images.
        test: Score on the test images; None if it was never tested.
        outcome: What the selection has left of it; None of other trials than the winner.
    """

    trial: int
    architecture: Architecture
    weights: str
    validation: Score | None
    test: Score | None = None
    outcome: dict[str, Any] | None = None


def choose(run: Run, trial: str) -> Choice:
    """Find the adapter that is meant.

    Args:
        run: The study.
        trial: ``best``, which is the winner, or the number of a trial.

    Raises:
        StudyError: If the study is not finished, or has no complete trial of that number.
    """
    name = run.study.study_name
    if trial != "best" and not (trial.isascii() and trial.isdecimal()):
        raise StudyError(f"--trial must be best or the number of a trial, got {trial!r}.")
    given = run.setup.recipe.architecture is not None
    if trial == "best" or given:  # without a search there is no supernet to take it from
        run.check_finished()
    outcome = run.stages.outcome("selection")
    finished = run.stages.outcome("test") is not None
    if outcome is not None and finished:
        selection = Selection.from_json(outcome["selection"])
        if trial in ("best", str(selection.trial)):
            row = Row.from_json(get_attribute(run.study, "result")[0])
            tuned = selection.uses_finetuned or run.setup.recipe.selection.refit
            return Choice(
                selection.trial,
                Architecture.parse(outcome["architecture"]),
                "trained" if given else "fine-tuned" if tuned else "inherited",
                row.validation,
                row.test,
                outcome,
            )
    found = _complete(run.study.get_trials(deepcopy=False), int(trial), name)
    seen = found.user_attrs
    return Choice(
        found.number,
        run.setup.space.architecture(found.params),
        "inherited",
        Score(seen["validation_accuracy"], seen["validation_loss"], seen["validation_images"]),
    )


def _complete(trials: list[FrozenTrial], number: int, name: str) -> FrozenTrial:
    if number >= len(trials):
        there = f"0 to {len(trials) - 1}" if trials else "none"
        raise StudyError(f"The study {name!r} has no trial {number}; there are: {there}.")
    if trials[number].state != TrialState.COMPLETE:
        state = trials[number].state.name.lower()
        raise StudyError(
            f"A trial to export must be complete, trial {number} of the study {name!r} is {state}; "
            f"'glora show {name}' lists good ones."
        )
    return trials[number]


def take(run: Run, choice: Choice) -> Supernet:
    """The subnet with its weights, on the CPU and not merged, in evaluation mode.

    Args:
        run: The study, with its backbone.
        choice: Which of its adapters.

    Raises:
        CheckpointError: If its artifact is missing or altered.
    """
    if choice.outcome is not None:
        supernet = alone(run.setup, choice.architecture)
        supernet.load_state_dict(run.download(choice.outcome))
    else:
        supernet = fetch_supernet(run)
        supernet.activate(choice.architecture)
    supernet.model.cpu().eval()
    return supernet


def describe(run: Run, choice: Choice, supernet: Supernet) -> Adapter:
    """The adapter as a value, with what there is to tell of it."""
    setup = run.setup
    about = {
        "study": run.study.study_name,
        "trial": choice.trial,
        "weights": choice.weights,
        "budget": setup.budget,
        "backbone parameters": setup.backbone_parameters,
        "validation": None if choice.validation is None else choice.validation._asdict(),
        "test": None if choice.test is None else choice.test._asdict(),
        "digests": get_setting(run.study, "digests"),
        "versions": get_setting(run.study, "versions"),
    }
    return Adapter.of(
        supernet,
        Backbone.of(setup.recipe.backbone, supernet.model),
        setup.task.classes,
        # Images that come as arrays are squashed, too.
        Preprocessing.of(setup.format, getattr(setup.recipe.task, "resize", "squash")),
        about,
    )
