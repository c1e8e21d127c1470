"""What of a study is exported: one architecture, with the weights that it has there."""

from __future__ import annotations

from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState
from torch import nn

from glora_automl.architecture import Architecture
from glora_automl.budget import parse_budget
from glora_automl.errors import StudyError
from glora_automl.export._adapter import Adapter
from glora_automl.export._record import Backbone, Preprocessing, Record
from glora_automl.pipeline import Run, fetch_supernet, standalone
from glora_automl.study import Row, Selection, get_setting, parse_trial
from glora_automl.supernet import Supernet
from glora_automl.training import Score

__all__ = ["Chosen", "choose", "describe", "describe_backbone", "take"]


class Chosen(NamedTuple):
    """Which adapter of a study it is.

    Attributes:
        trial: Number of the trial that proposed it; None for a control.
        architecture: What it proposed.
        weights: ``retrained`` alone, ``fine-tuned``, ``inherited``, which are the supernet's, or
            ``trained``, of an architecture that was given.
        validation: Score on the validation images.
        test: Score on the test images; None if it was never tested.
        outcome: What the selection has left of it; None of other trials than the winner.
        budget: Of the pick that took it; None of others.
        baseline: Name of the control that it is; None of what was searched.
    """

    trial: int | None
    architecture: Architecture
    weights: str
    validation: Score | None
    test: Score | None = None
    outcome: dict[str, Any] | None = None
    budget: int | None = None
    baseline: str | None = None


def choose(run: Run, trial: str, budget: int | str | None) -> Chosen:
    """Find the adapter that is meant.

    Args:
        run: The study.
        trial: ``best``, which is the winner, or the number of a trial.
        budget: Of a pick, whose winner is meant.

    Raises:
        StudyError: If the study is not finished, has no complete trial of that number, or nothing
            was picked for that budget.
    """
    name = run.study.study_name
    if budget is not None:
        return _picked(run, trial, parse_budget(budget, run.setup.backbone_parameters))
    number = parse_trial(trial)
    given = run.setup.recipe.architecture is not None
    if number is None or given:  # without a search there is no supernet to take it from
        run.check_finished()
    outcome = run.stages.outcome("selection")
    tested = run.stages.outcome("test")
    if outcome is not None and tested is not None:
        winner = _winner(run, outcome, tested)
        if number is None or number == winner.trial:
            return winner
    assert number is not None, "the winner of a finished study is there"
    found = _complete(run.study.get_trials(deepcopy=False), number, name)
    seen = found.user_attrs
    return Chosen(
        found.number,
        run.setup.space.architecture(found.params),
        "inherited",
        Score(seen["validation_accuracy"], seen["validation_loss"], seen["validation_images"]),
    )


def _picked(run: Run, trial: str, budget: int) -> Chosen:
    if trial != "best":
        raise StudyError(
            f"--budget takes the winner of a pick, and --trial another one, got {budget} and "
            f"{trial!r}; leave one out."
        )
    outcome = run.stages.outcome(f"pick-{budget}")
    tested = run.stages.outcome(f"pick-{budget}-test")
    if outcome is None or tested is None:
        name = run.study.study_name
        raise StudyError(
            f"Nothing was picked from the study {name!r} for the budget {budget} yet: run "
            f"'glora pick {name} --budget {budget}'."
        )
    return _winner(run, outcome, tested)._replace(budget=budget)


def _winner(run: Run, outcome: dict[str, Any], tested: dict[str, Any]) -> Chosen:
    """What a selection has left.

    Args:
        run: The study.
        outcome: Of the stage that selected.
        tested: Of the stage that tested it, before all others.
    """
    selection = Selection.from_json(outcome["selection"])
    row = Row.from_json(tested["rows"][0])
    recipe = run.setup.recipe
    weights = selection.weights
    if weights == "inherited" and recipe.selection.refit:
        weights = "fine-tuned"
    return Chosen(
        selection.trial,
        Architecture.parse(outcome["architecture"]),
        weights if recipe.architecture is None else "trained",
        row.validation,
        row.test,
        outcome,
        baseline=selection.baseline,
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


def take(run: Run, chosen: Chosen) -> Supernet:
    """The subnet with its weights, on the CPU and not merged, in evaluation mode.

    Args:
        run: The study, with its backbone.
        chosen: Which of its adapters.

    Raises:
        CheckpointError: If its artifact is missing or altered.
    """
    if chosen.outcome is not None:
        supernet = standalone(run.setup, chosen.architecture)
        supernet.load_state_dict(run.download(chosen.outcome))
    else:
        supernet = fetch_supernet(run)
        supernet.activate(chosen.architecture)
    supernet.model.cpu().eval()
    return supernet


def describe(run: Run, chosen: Chosen, supernet: Supernet) -> Adapter:
    """The adapter as a value, with what there is to tell of it."""
    record = describe_backbone(run, supernet.model)
    about = {
        **record.about,
        "trial": chosen.trial,
        "baseline": chosen.baseline,
        "weights": chosen.weights,
        "budget": chosen.budget or run.setup.budget,
        "validation": None if chosen.validation is None else chosen.validation._asdict(),
        "test": None if chosen.test is None else chosen.test._asdict(),
    }
    return Adapter.of(supernet, record.backbone, record.classes, record.preprocessing, about)


def describe_backbone(run: Run, model: nn.Module) -> Record:
    """What there is to tell of the backbone alone.

    Args:
        run: The study.
        model: Its backbone, adapted or not, but not merged.
    """
    setup = run.setup
    return Record(
        kind="backbone",
        classes=setup.task.classes,
        # Images that come as arrays are squashed, too.
        preprocessing=Preprocessing.of(
            setup.format, getattr(setup.recipe.task, "resize", "squash")
        ),
        backbone=Backbone.of(setup.recipe.backbone, model),
        about={
            "study": run.study.study_name,
            "backbone parameters": setup.backbone_parameters,
            "digests": get_setting(run.study, "digests"),
            "versions": get_setting(run.study, "versions"),
        },
    )
