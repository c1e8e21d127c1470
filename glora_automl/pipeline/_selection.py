"""From the best trials to one adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.pipeline._baselines import adapter_outcome, baseline_architectures, baseline_stage
from glora_automl.pipeline._finetuning import cross_validate, finetune
from glora_automl.pipeline._halving import successive_halving
from glora_automl.pipeline._initial import initial_presets
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._supernet import fetch_supernet
from glora_automl.study import (
    CONTROLS_ASIDE,
    Row,
    Selection,
    best_row,
    best_trials,
    done_trials,
    get_setting,
)
from glora_automl.supernet import Supernet
from glora_automl.training import Score, evaluate
from glora_automl.workers import Claim

__all__ = [
    "Candidate",
    "TargetRaised",
    "apart",
    "choose",
    "competing_baselines",
    "rank",
    "score_again",
    "select",
]


class TargetRaised(Exception):
    """Raised where the best are to be chosen, and there are to be more trials first."""


class Candidate(NamedTuple):
    """A trial that was scored again.

    Attributes:
        score: On all validation images.
        n_params: Its trainable parameters.
        trial: Its number.
        architecture: What it proposed.
    """

    score: Score
    n_params: int
    trial: int
    architecture: Architecture


def rank(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first.

    By accuracy, which the search was after, then calibrated loss (plain loss where they were
    cross-validated), then size: on few images many are equally accurate.
    """

    def order(candidate: Candidate) -> tuple[float, ...]:
        score = candidate.score
        loss = score.loss if score.scaled_loss is None else score.scaled_loss
        return -score.accuracy, loss, candidate.n_params, candidate.trial

    return sorted(candidates, key=order)


def select(run: Run, claim: Claim) -> dict[str, Any]:
    """Choose among the best trials of the search, when all are done.

    Raises:
        TargetRaised: If the study has to have more trials first.
        StudyError: If no trial fits the budget.
    """
    if len(done_trials(run.study)) < get_setting(run.study, "target"):
        raise TargetRaised  # this worker now says that it chooses, so nobody raises it any more
    settings = run.setup.recipe.selection
    if settings.rounds[:1] > (1,):
        candidates = halving_candidates(run, settings.rounds[0])
    else:
        candidates = best_trials(run.study, settings.n_candidates)
    if not candidates:
        raise StudyError(
            f"The study {run.study.study_name!r} has no trial within the budget of "
            f"{run.setup.budget} to select; raise search.n_trials."
        )
    return choose(run, "selection", candidates, against=competing_baselines(run))


def halving_candidates(run: Run, places: int) -> list[FrozenTrial]:
    """Who takes part in a contest: the best that were found, and of what was picked by hand.

    Half of the places are for the hand-picked adapters of the first generation: what a search has
    found has to win against them, and inherited weights may have done them wrong.
    """
    every = best_trials(run.study, len(done_trials(run.study)))
    known = initial_presets(run.setup)
    picked = [trial for trial in every if trial.params in known][: places // 2]
    numbers = {trial.number for trial in picked}
    others = [trial for trial in every if trial.number not in numbers]
    return apart(others, places - len(picked)) + picked


def apart(trials: Sequence[FrozenTrial], places: int) -> list[FrozenTrial]:
    """The first of some trials that are no siblings: a tenth of their choices differ, or more.

    The best of an evolution are descendants of one. To train another one that differs in a choice
    or two says little that the first does not.

    Args:
        trials: Best first.
        places: How many are wanted. Siblings fill what is left.
    """

    def related(one: FrozenTrial, other: FrozenTrial) -> bool:
        different = [key for key in one.params if one.params[key] != other.params[key]]
        return 10 * len(different) < len(one.params)

    found: list[FrozenTrial] = []
    for trial in trials:
        if len(found) < places and not any(related(trial, other) for other in found):
            found.append(trial)
    numbers = {trial.number for trial in found}
    left = [trial for trial in trials if trial.number not in numbers]
    return found + left[: places - len(found)]


def competing_baselines(run: Run) -> dict[str, dict[str, Any]]:
    """Outcomes of the controls, by name, that take part in a contest's end; none without one."""
    if not run.setup.recipe.selection.rounds or not run.setup.recipe.selection.baselines:
        return {}
    found = {
        name: run.stages.outcome(baseline_stage(name)) for name in baseline_architectures(run.setup)
    }
    return {
        name: out for name, out in found.items() if out is not None and out["artifact"] is not None
    }


def choose(
    run: Run,
    stage: str,
    candidates: Sequence[FrozenTrial],
    *,
    name: str = "searched",
    against: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Score trials again, choose one, and train it: on, or in a contest with others from the start.

    Trained on it is kept as it was where that validates better. After a contest its winner is kept
    as it was trained there: the scores of inherited weights are the best of many, and flatter. A
    control that validates better than the winner takes its place.

    Args:
        run: The study whose supernet they have been scored with.
        stage: The stage that this is.
        candidates: The trials.
        name: Of the row in the result table.
        against: Outcomes of the controls that the winner of a contest has to beat.

    Returns:
        The stage's outcome: an arm and its selection; where that is a control, what was found
        ``aside``, which is an arm, too.
    """
    setup = run.setup
    settings = setup.recipe.selection
    # Fresh from the artifact: fine-tuning changes it, and this may not be the first attempt.
    supernet = fetch_supernet(run)
    weights = supernet.state_dict()
    scored, images = score_again(run, supernet, candidates)
    scored = rank(scored)
    images += setup.recipe.training.epochs * len(setup.task.train)
    held = None
    if settings.rounds:
        held = successive_halving(run, stage, [candidate.architecture for candidate in scored])
        scored.insert(0, scored.pop(held.place))
        images += held.row.n_images
    score, count, number, architecture = scored[0]
    inherited, finetuned = score, None
    if settings.n_splits:
        with supernet.merged(architecture) as model:
            inherited = evaluate(model, *setup.validation, scale_temperature=True)
    if settings.finetune_epochs and held is None:
        with setup.progress.epochs("Fine-tune the winner", settings.finetune_epochs) as on_epoch:
            images += finetune(
                run, supernet, architecture, *setup.train, stage=stage, on_epoch=on_epoch
            )
        with merge(supernet.model, share=True) as model:
            finetuned = evaluate(model, *setup.validation, scale_temperature=True)
    selection = Selection(
        trial=number,
        architecture=str(architecture),
        n_params=count,
        inherited=inherited,
        finetuned=finetuned,
        candidates=tuple(candidate.trial for candidate in scored),
        cross_validated=score if settings.n_splits else None,
        retrained=held.row.validation if held else None,
    )
    row = Row(name, n_params=count, validation=selection.score, n_images=images)
    if held:
        rows = {baseline: Row.from_json(out["row"]) for baseline, out in (against or {}).items()}
        all_images = images + sum(other.n_images for other in rows.values())
        best = best_row([row, *rows.values()])
        if best is not row:
            aside = replace(row, name=CONTROLS_ASIDE)
            found = adapter_outcome(run, f"{stage}-aside", aside, held.supernet, architecture)
            row = replace(row, n_images=all_images)
            return {**_control_won(row, selection, (against or {})[best.name]), "aside": found}
        row = replace(row, n_images=all_images)
        outcome = adapter_outcome(run, stage, row, held.supernet, architecture)
        return {**outcome, "selection": selection.to_json()}
    if settings.refit:
        supernet.load_state_dict(weights)
        title = "Fine-tune the winner on all labelled images"
        with setup.progress.epochs(title, settings.finetune_epochs) as on_epoch:
            images += finetune(
                run,
                supernet,
                architecture,
                *setup.labelled,
                stage=f"{stage}-all",
                on_epoch=on_epoch,
            )
        row = replace(row, n_images=images)
    elif selection.weights == "inherited":
        supernet.load_state_dict(weights)
    supernet.activate(architecture)  # the last that was active may be another candidate
    outcome = adapter_outcome(run, stage, row, supernet, architecture)
    return {**outcome, "selection": selection.to_json()}


def _control_won(row: Row, selection: Selection, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome of a selection whose winner is a control, with its figures and weights.

    Args:
        row: Of what was searched.
        selection: Of what was searched.
        outcome: Of the control.
    """
    baseline = Row.from_json(outcome["row"])
    assert baseline.n_params is not None
    assert baseline.validation is not None
    row = replace(row, n_params=baseline.n_params, validation=baseline.validation)
    selection = replace(
        selection,
        trial=None,
        architecture=outcome["architecture"],
        n_params=baseline.n_params,
        inherited=baseline.validation,
        finetuned=None,
        retrained=baseline.validation,
        baseline=baseline.name,
    )
    return {**outcome, "row": row.to_json(), "selection": selection.to_json()}


def score_again(
    run: Run, supernet: Supernet, candidates: Sequence[FrozenTrial]
) -> tuple[list[Candidate], int]:
    """The candidates' scores on all validation images, and how many images were trained on."""
    setup = run.setup
    folds = setup.recipe.selection.n_splits
    title = f"Cross-validate the best in {folds} parts" if folds else "Score the best again"
    scored: list[Candidate] = []
    images = 0
    with setup.progress.stage(title, len(candidates), "trials") as advance:
        for trial in candidates:
            architecture = setup.space.architecture(trial.params)
            if folds:
                score, seen = cross_validate(run, supernet, architecture)
                images += seen
            else:
                with supernet.merged(architecture) as model:
                    score = evaluate(model, *setup.validation, scale_temperature=True)
            count = architecture.count(setup.space.shapes)
            scored.append(Candidate(score, count, trial.number, architecture))
            advance(1)
            run.worker.check_stop()
    return scored, images
