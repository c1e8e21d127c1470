"""Stages ``selection`` and ``refit``: from the best trials to one trained adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from optuna.trial import TrialState
from torch import Tensor

from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._search import create_scorer, largest_truncation
from glora_automl.pipeline._standalone import adapter_outcome, validate, validate_predictions
from glora_automl.pipeline._supernet import Trained, fetch_supernet
from glora_automl.pipeline._training import TrainingJob, standalone, subnet_of
from glora_automl.study import (
    SEARCHED,
    AdapterOutcome,
    Row,
    Selection,
    Spent,
    Stage,
    StageName,
    beats,
    best_trials,
    done_trials,
    get_setting,
    is_better,
    quality,
)
from glora_automl.supernet import Supernet
from glora_automl.training import Score
from glora_automl.workers import Claim, Work

__all__ = [
    "Candidate",
    "TargetRaised",
    "best_adapter",
    "best_inherited",
    "best_outcome",
    "candidate_count",
    "find_candidates",
    "refit_ratio",
    "refit_work",
    "select_work",
    "selection_of",
    "subnet_stage",
    "train_candidates",
    "trained_stage",
]


def subnet_stage(architecture: Architecture) -> str:
    """Return the stage of ``glora select`` that trains an architecture on from the supernet.

    Example:
        >>> subnet_stage(Architecture({}))
        'select-architecture-e3b0c44298fc1c14'
    """
    return str(StageName(Stage.SELECT, f"architecture-{architecture.digest[:16]}"))


def trained_stage(run: Run, architecture: Architecture) -> str:
    """Return the stage that trains an architecture on from the supernet, which may be done.

    All such stages train it alike, so that of the study's own selection, of a ladder or of an
    earlier ``glora select`` has the adapter already.
    """
    own = subnet_stage(architecture)
    attempts = run.stages.study.get_trials(deepcopy=False)
    names = (StageName.parse(attempt.user_attrs["stage"]) for attempt in attempts)
    steps = {str(n): None for n in names if n.stage == Stage.LADDER and n.detail.isdigit()}
    for stage in (str(Stage.SELECTION), own, *steps):
        found = run.stages.outcome(stage, AdapterOutcome)
        text = None if found is None else found.architecture
        if text is not None and Architecture.parse(text).digest == architecture.digest:
            return stage
    return own


class TargetRaised(Exception):
    """Raised where a selection begins before the study has all of its trials."""


class Candidate(NamedTuple):
    """An architecture that may be selected.

    Attributes:
        architecture: The architecture.
        trial: Number of its trial, if it has one.
    """

    architecture: Architecture
    trial: int | None = None


def select_work(run: Run) -> dict[str, Work[AdapterOutcome]]:
    """Return the stage that selects the architecture, for :meth:`Stages.run`."""
    return {str(Stage.SELECTION): Work(AdapterOutcome, partial(_select, run))}


def _select(run: Run, claim: Claim) -> AdapterOutcome:
    """Select the best trial; with held-out images, the best of several that are trained on.

    Raises:
        TargetRaised: If the study needs more trials first.
        StudyError: If no trial fits the budget.
    """
    if len(done_trials(run.study)) < get_setting(run.study, "target"):
        raise TargetRaised  # the selection runs now, so no worker raises the target any more
    candidates = find_candidates(run, run.context.budget)
    if not candidates:
        raise StudyError(
            f"The study {run.study.study_name!r} must have a trial within its budget of "
            f"{run.context.budget}, got none. Raise `search.n_trials`."
        )
    return train_candidates(run, str(Stage.SELECTION), SEARCHED, candidates)


def candidate_count(context: Context) -> int:
    """Return how many of the best trials are candidates: one, unless images are held out."""
    return context.recipe.selection.n_candidates if context.holds_out else 1


def find_candidates(run: Run, budget: int) -> list[Candidate]:
    """Return the architectures that may be trained on.

    With held-out images they are the truncation with the largest components, which needs no score,
    and the best trials. On digits that truncation and the best trial are level after training on
    (docs/benchmarks/quality.md).

    Without held-out images nothing can tell which trained candidate is better. Then the best trial
    is the only one, of those that are not small: an inherited loss does not tell what more
    parameters will learn. The truncation competes by its loss where the search has not tried it,
    as within a smaller budget.

    Args:
        run: The study.
        budget: The most trainable parameters.
    """
    context = run.context
    n_candidates = candidate_count(context)
    fullness = 0.0 if context.holds_out else context.recipe.search.min_budget_fraction
    found = [
        Candidate(context.space.architecture(trial.params), trial.number)
        for trial in best_trials(run.study, n_candidates, within=budget, fullness=fullness)
    ]
    largest = largest_truncation(context, fetch_supernet(run), budget)
    if largest is None:
        return found
    params = context.space.params(largest)
    trials = run.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    number = next((t.number for t in trials if t.params == params), None)
    if not context.holds_out:
        return found if found and number is not None else [*found, Candidate(largest)]
    different: dict[str, Candidate] = {}
    for candidate in (Candidate(largest, number), *found):
        different.setdefault(candidate.architecture.digest, candidate)
    return list(different.values())[:n_candidates]


class _Trained(NamedTuple):
    """A candidate after its training."""

    candidate: Candidate
    inherited: Score
    trained: Score
    predictions: Mapping[str, Tensor]
    subnet: Supernet


def train_candidates(
    run: Run,
    stage: str,
    name: str,
    candidates: Sequence[Candidate],
    title: str = "Train the best subnet",
) -> AdapterOutcome:
    """Train subnets on from inherited weights; return the best one by validation.

    Random numbers depend on the architecture, not on the stage: it is the same adapter in each.
    Without held-out images the one with the lowest loss keeps its inherited weights: the refit has
    all steps.

    Args:
        run: The study.
        stage: The stage.
        name: Name of the row.
        candidates: The subnets.
        title: Title of a training of one candidate.
    """
    context = run.context
    if not context.holds_out:
        return _inherit(run, stage, name, candidates)
    # A fresh copy: another attempt may have changed the last one.
    supernet = fetch_supernet(run).supernet
    best: _Trained | None = None
    spent = Spent()
    for number, candidate in enumerate(candidates, 1):
        subnet = subnet_of(context, supernet, candidate.architecture)
        inherited = validate(context, subnet)
        if len(candidates) > 1:
            title = f"Train subnet {number} of {len(candidates)}"
        detail = f"-{candidate.architecture.digest[:16]}"
        job = TrainingJob(
            context,
            f"{Stage.SELECTION}{detail}",
            title,
            context.train,
            context.recipe.selection.epochs_ratio,
            run.checkpoint(stage, detail),
        )
        spent = spent.plus(job.run(subnet))
        trained, predictions = validate_predictions(context, subnet)
        spent = spent.plus(Spent(n_evaluated=2 * trained.n_images))
        if best is None or is_better(trained, best.trained, context.recipe.metric):
            best = _Trained(candidate, inherited, trained, predictions, subnet)
    assert best is not None, "there is at least one candidate"
    selection = replace(
        selection_of(run, stage, best.candidate, candidates),
        trained=best.trained,
        inherited=best.inherited,
    )
    n_params = selection.n_params
    row = Row(
        name,
        n_params=n_params,
        validation=best.trained,
        n_images=spent.n_trained,
        n_evaluated=spent.n_evaluated,
    )
    architecture = best.candidate.architecture
    return adapter_outcome(
        run, stage, row, best.subnet, architecture, spent, selection, best.predictions
    )


def _inherit(run: Run, stage: str, name: str, candidates: Sequence[Candidate]) -> AdapterOutcome:
    """Return the subnet with the lowest loss, with its inherited weights."""
    trained = fetch_supernet(run)
    best, spent = best_inherited(run, trained, candidates)
    subnet = subnet_of(run.context, trained.supernet, best.architecture)
    selection = selection_of(run, stage, best, candidates)
    row = Row(name, n_params=selection.n_params)
    return adapter_outcome(run, stage, row, subnet, best.architecture, spent, selection)


def best_inherited(
    run: Run, trained: Trained, candidates: Sequence[Candidate]
) -> tuple[Candidate, Spent]:
    """Return the candidate with the lowest loss of inherited weights, and the cost of the losses.

    A single candidate needs none.
    """
    if len(candidates) == 1:
        return candidates[0], Spent()
    scorer = create_scorer(run.context, trained)
    scores = [scorer.score(candidate.architecture) for candidate in candidates]
    # The loss of a trial is finite, that of another architecture may be none.
    best = candidates[int(np.nanargmin([score.loss for score in scores]))]
    return best, Spent(n_evaluated=sum(score.n_images for score in scores))


def selection_of(
    run: Run, stage: str, candidate: Candidate, candidates: Sequence[Candidate]
) -> Selection:
    """Return the selection of one of several candidates, without scores.

    Args:
        run: The study.
        stage: The stage that trains it.
        candidate: The candidate.
        candidates: All of them.
    """
    return Selection(
        architecture=str(candidate.architecture),
        n_params=candidate.architecture.count(run.context.space.shapes),
        trial=candidate.trial,
        candidates=tuple(c.trial for c in candidates if c.trial is not None),
        refit=run.context.recipe.selection.refit,
        stage=stage,
    )


def refit_work(
    run: Run, stage: str, name: str, outcome: AdapterOutcome
) -> dict[str, Work[AdapterOutcome]]:
    """Return the stage that trains an adapter on with all labelled images, for `Stages.run`."""
    return {stage: Work(AdapterOutcome, partial(_refit, run, stage, name, outcome))}


def _refit(
    run: Run, stage: str, name: str, outcome: AdapterOutcome, claim: Claim
) -> AdapterOutcome:
    """Train a selected adapter on, with training and validation images together."""
    assert outcome.architecture is not None
    assert outcome.artifact is not None
    context = run.context
    architecture = Architecture.parse(outcome.architecture)
    subnet = standalone(context, architecture)
    subnet.load_state_dict(run.download(outcome.artifact))
    spent = TrainingJob(
        context,
        str(Stage.REFIT),  # random numbers do not depend on the stage
        "Train on all labelled images",
        context.labelled,
        refit_ratio(context),
        run.checkpoint(stage),
    ).run(subnet)
    row = replace(outcome.row, name=name)
    return adapter_outcome(run, stage, row, subnet, architecture, spent, outcome.selection)


def refit_ratio(context: Context) -> float:
    """Return the length of the refit: without held-out images, that of all candidates is added."""
    selection = context.recipe.selection
    candidates = selection.n_candidates * selection.epochs_ratio
    return selection.refit_epochs_ratio + (0.0 if context.holds_out else candidates)


def best_adapter(run: Run, outcomes: Mapping[str, AdapterOutcome]) -> tuple[str, AdapterOutcome]:
    """Return the stage and the outcome of the searched adapter, or of a baseline that beats it.

    A baseline replaces the searched adapter only if :func:`~glora_automl.study.beats` shows that
    it is better. The validation favours baselines: they are validated after their whole training,
    the searched adapter before its last one. Over seven tasks the better score alone, which chose
    a baseline on five of them, lost 0.9 points of test accuracy (docs/benchmarks/quality.md).

    Args:
        run: The study.
        outcomes: The searched adapter first, then the baselines, by stage; those that fit the
            budget have a validation score.
    """
    metric = run.context.recipe.metric
    (stage, searched), *baselines = outcomes.items()
    scored = [(name, o) for name, o in baselines if o.row.validation is not None]
    better = [(name, o) for name, o in scored if _beats(run, o, searched, len(scored))]
    if not better:
        return stage, searched
    return max(better, key=lambda pair: quality(_score(pair[1]), metric))  # the first of equals


def _beats(run: Run, outcome: AdapterOutcome, other: AdapterOutcome, n_tests: int) -> bool:
    """Return whether one of several adapters is shown to be better than another one."""
    labels = run.context.validation[1].cpu().numpy()
    one, two = (_predictions(run, o) for o in (outcome, other))
    return beats(labels, one, two, run.context.recipe.metric, n_tests)


def _predictions(run: Run, outcome: AdapterOutcome) -> np.ndarray:
    """Return the probabilities ``(n, classes)`` or else the classes ``(n,)`` of an adapter."""
    assert outcome.predictions is not None
    found = run.download(outcome.predictions)
    return found.get("probabilities", found["classes"]).numpy()


def best_outcome(run: Run, outcomes: Mapping[str, AdapterOutcome]) -> Selection:
    """Return the selection of :func:`best_adapter`.

    Args:
        run: The study.
        outcomes: As there.
    """
    stage, selected = best_adapter(run, outcomes)
    if selected.selection is not None:
        return selected.selection
    assert selected.architecture is not None
    assert selected.row.n_params is not None
    first = next(iter(outcomes.values()))
    return Selection(
        architecture=selected.architecture,
        n_params=selected.row.n_params,
        trained=_score(selected),
        preset=selected.row.name,
        candidates=() if first.selection is None else first.selection.candidates,
        refit=run.context.recipe.selection.refit,
        stage=stage,
    )


def _score(outcome: AdapterOutcome) -> Score:
    assert outcome.row.validation is not None
    return outcome.row.validation
