"""Verbs ``search``, ``resume`` and ``train``: from a recipe to a tested adapter."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from torch import nn

from glora_automl._messages import short
from glora_automl.errors import RecipeError
from glora_automl.pipeline import (
    Publisher,
    Run,
    TargetRaised,
    Workspace,
    baseline_architectures,
    baseline_work,
    best_adapter,
    best_outcome,
    check_searched,
    final_test,
    find_smallest,
    find_study,
    forecast,
    keep_winner,
    load_backbone,
    load_supernet,
    open_run,
    record_result,
    recorded,
    refit_work,
    search_trials,
    select_work,
    train_given,
    tune,
)
from glora_automl.presets import read_architecture
from glora_automl.recipes import Recipe
from glora_automl.study import (
    SEARCHED,
    AdapterOutcome,
    ClassReport,
    DataSummary,
    Ladder,
    Row,
    Selection,
    Stage,
    TestOutcome,
)
from glora_automl.workers import Callback, Work

__all__ = [
    "SEARCH_STAGES",
    "SearchResult",
    "check_timeout",
    "finish",
    "resume",
    "search",
    "selection_works",
    "train",
]

SEARCH_STAGES = (str(Stage.TUNE), str(Stage.SUPERNET), str(Stage.SEARCH))
"""Stages that every searched adapter of a study shares."""

MAX_TIMEOUT = 100_000_000
"""Longest time limit in seconds, of three years."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Result of a finished study.

    Attributes:
        study: The Optuna study.
        selection: The selected architecture.
        rows: The searched adapter and the baselines, with test scores, and with validation scores
            if images are held out.
        budget: The most trainable parameters.
        model: The selected adapter as a plain timm model: merged, at the backbone's speed. Its
            ``pretrained_cfg`` has the preprocessing of the training and ``label_names``.
        data: The study's images: copies between splits, classes without images, majority class.
        ladder: Smaller adapters beside it; None without a margin.
        classes: The selected adapter by class, if it was tested.
        file: Name of the adapter's file in the study's folder, without suffix.
    """

    study: optuna.Study
    selection: Selection
    rows: tuple[Row, ...]
    budget: int
    model: nn.Module
    data: DataSummary
    ladder: Ladder | None = None
    classes: ClassReport | None = None
    file: str = "winner"


def search(
    recipe: Recipe,
    *,
    name: str | None = None,
    warm_start: str | None = None,
    arrays: tuple[np.ndarray, ...] | None = None,
    sampler: BaseSampler | None = None,
    callbacks: Sequence[Callback] = (),
    timeout: float | None = None,
    workspace: Workspace | None = None,
) -> SearchResult:
    """Run a recipe to its end, continue an interrupted run, or join running workers.

    The stages are backbone, tuning, supernet, search, selection, baselines, refit and one test. A
    ranking of backbones comes before them if the recipe has candidates; a ladder of smaller
    adapters comes before the refit with ``selection.margin``. Without held-out images the refit
    comes before the baselines. A recipe with an architecture has backbone, training and test.
    Study and artifacts hold everything; the files in ``runs`` only save time. A run that was killed
    at any point continues to the same trials and figures, on this machine or on another one.

    Args:
        recipe: The recipe.
        name: Name of the study; by default the recipe's.
        warm_start: Name of an earlier study in the same storage with the same search space. The
            first generation contains its best architectures.
        arrays: Images and labels of a recipe with ``task.source = "arrays"``, uint8 of shape
            ``(n, height, width)`` or ``(n, height, width, channels)``, and ``(n,)``. A third array
            weighs the images in the losses of trainings. The study keeps their digest alone.
        sampler: A sampler of Optuna that proposes the trials instead of the recipe's; its
            proposals are repaired into the budget. The study does not keep it, so give it to each
            call, and to :func:`resume`.
        callbacks: Called with the study and the trial after each trial of this process, as by
            ``study.optimize``.
        timeout: Seconds from now after which no trial begins. They include the stages before the
            search, and at least one trial is evaluated. The stages after the search come on top.
            The limit ends the search of all workers: the study counts as searched, with fewer
            trials.
        workspace: The environment.

    Raises:
        GLoRAError: If the input is invalid; see :mod:`glora_automl.errors`.
        Stopped: If the workspace asked to stop. Finished work is kept.
    """
    deadline = _deadline(recipe, timeout)
    with (
        open_run(
            recipe, workspace, name=name, warm_start=warm_start, arrays=arrays, deadline=deadline
        ) as opened,
        recorded(opened) as run,
    ):
        return finish(replace(run, sampler=sampler, callbacks=tuple(callbacks)))


def resume(
    name: str,
    *,
    n_trials: int | None = None,
    sampler: BaseSampler | None = None,
    callbacks: Sequence[Callback] = (),
    timeout: float | None = None,
    workspace: Workspace | None = None,
) -> SearchResult:
    """Continue a study, on any machine that reaches its storage and its artifacts.

    A finished study takes more trials: by ``n_trials``, or by ``study.enqueue_trial`` before this
    call. Its supernet and baselines stay; the winner is selected among all trials, and tested.

    Args:
        name: Name of the study.
        n_trials: Complete trials to reach, if not the study's. With as many or more trials, the
            search counts as finished; the best of all its trials is selected. A study without a
            search takes none.
        sampler: As for :func:`search`.
        callbacks: As for :func:`search`.
        timeout: As for :func:`search`.
        workspace: The environment.

    Raises:
        GLoRAError: If the input is invalid; see :mod:`glora_automl.errors`.
        Stopped: If the workspace asked to stop. Finished work is kept.
    """
    workspace, recipe = find_study(name, workspace)
    if n_trials is not None:
        check_searched(name, recipe)
    deadline = _deadline(recipe, timeout)
    with (
        open_run(recipe, workspace, name=name, n_trials=n_trials, deadline=deadline) as opened,
        recorded(opened) as run,
    ):
        return finish(replace(run, sampler=sampler, callbacks=tuple(callbacks)))


def check_timeout(timeout: float | None) -> None:
    """Check a time limit in seconds.

    Raises:
        RecipeError: If it is out of bounds.
    """
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 < timeout <= MAX_TIMEOUT):
        raise RecipeError(
            f"timeout must be above 0 and at most {MAX_TIMEOUT:,} seconds, got {short(timeout)}. "
            "Correct `timeout`."
        )


def _deadline(recipe: Recipe, timeout: float | None) -> float | None:
    """Return the moment of :func:`time.monotonic` at which a search of a recipe ends."""
    check_timeout(timeout)
    if timeout is None:
        return None
    if recipe.architecture is not None:
        raise RecipeError(
            f"timeout must be None for a recipe with an architecture, which has no search, got "
            f"{short(timeout)}. Leave out `timeout`."
        )
    return time.monotonic() + timeout


def train(
    recipe: Recipe,
    architecture: str = "lora",
    *,
    name: str | None = None,
    workspace: Workspace | None = None,
) -> SearchResult:
    """Train one architecture without a search, and keep it like the winner of a search.

    Args:
        recipe: The recipe.
        architecture: A preset (``lora``, ``lora-4``, ``bitfit``, ``ssf``, ``probe``), a printed
            architecture, or the path of a file with one.
        name: Name of the study; by default the recipe's with the architecture's.
        workspace: The environment.

    Raises:
        GLoRAError: If the input is invalid.
        Stopped: If the workspace asked to stop.
    """
    text = read_architecture(architecture)
    return search(recipe.replace(architecture=text), name=name, workspace=workspace)


def finish(run: Run) -> SearchResult:
    """Take part in all stages that are left, and wait for those of other workers."""
    run = load_backbone(run)
    _log_forecast(run)
    run = tune(run)
    publisher = Publisher(run)
    if run.context.recipe.architecture is not None:
        outcomes = {str(Stage.SELECTION): train_given(run)}
        found = _Found(outcomes, best_outcome(run, outcomes))
    else:
        found = _search(run, publisher)
    outcomes, selection = found.outcomes, found.selection
    if found.ladder is not None:
        run.record("ladder", found.ladder.to_json())
    run.record("selection", selection.to_json())
    winner = next(
        stage
        for stage, outcome in outcomes.items()
        if outcome.artifact and selection.preset in (None, outcome.row.name)
    )
    test = Work(TestOutcome, partial(final_test, run, outcomes, found.parts, selected=winner))
    tested = run.stages.run_one(Stage.TEST, test)
    if tested.classes is not None:
        run.record("classes", tested.classes.to_json())
    run.record("result", [row.to_json() for row in tested.rows])
    publisher.publish()
    model = keep_winner(run, "winner", outcomes[winner])
    record_result(run, tested.rows)
    return SearchResult(
        run.study,
        selection,
        tested.rows,
        run.context.budget,
        model,
        run.context.data,
        found.ladder,
        tested.classes,
    )


def _log_forecast(run: Run) -> None:
    """Log what a search will do, before its first stage."""
    context = run.context
    begun = run.stages.is_done(Stage.TUNE) or run.stages.is_done(Stage.SUPERNET)
    if context.recipe.architecture is None and context.process_group.is_main and not begun:
        left = None if run.deadline is None else run.deadline - time.monotonic()
        for line in forecast(context, left):
            context.progress.log(line)


@dataclass(frozen=True)
class _Found:
    """A study before its test.

    Attributes:
        outcomes: The searched adapter and the baselines, by the stage of their final weights.
        selection: The selected one of them.
        parts: All stages of the first.
        ladder: Smaller adapters beside the selected one.
    """

    outcomes: dict[str, AdapterOutcome]
    selection: Selection
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ladder: Ladder | None = None


def selection_works(run: Run) -> dict[str, Work[AdapterOutcome]]:
    """Return the stages of the searched adapter and the baselines, for :meth:`Stages.run`."""
    return select_work(run) | _baseline_works(run)


def _baseline_works(run: Run) -> dict[str, Work[AdapterOutcome]]:
    works: dict[str, Work[AdapterOutcome]] = {}
    if run.context.recipe.selection.baselines:
        for label, architecture in baseline_architectures(run.context).items():
            works |= baseline_work(run, label, architecture)
    return works


def _search(run: Run, publisher: Publisher) -> _Found:
    """Run supernet, search, selection, baselines, ladder and refit."""
    holds_out = run.context.holds_out
    # Without held-out images no baseline competes, and none delays the longest training.
    works = selection_works(run) if holds_out else select_work(run)
    group, trained = run.context.process_group, None
    if group.from_main(lambda: not run.stages.is_done(Stage.SELECTION)):
        trained = load_supernet(run)
    # Settings may change as long as there is no supernet; from here on they stay.
    run.check_settings()
    outcomes: dict[str, AdapterOutcome] = {}
    while not outcomes:
        if trained is not None and not run.stages.is_done(Stage.SELECTION):
            search_trials(run, trained, publisher.after_trials)
        with suppress(TargetRaised):
            outcomes = run.stages.run(works)
    recipe = run.context.recipe
    selection, ladder = best_outcome(run, outcomes), None
    adapter, parts = outcomes[str(Stage.SELECTION)], [*SEARCH_STAGES, str(Stage.SELECTION)]
    if recipe.selection.margin is not None:
        best = best_adapter(run, outcomes)[1]
        smallest = find_smallest(run, best, recipe.selection.margin)
        ladder = smallest.ladder
        parts += smallest.stages
        if ladder.chosen is not None:
            adapter = smallest.outcome
            assert adapter.selection is not None
            selection = adapter.selection
    assert adapter.selection is not None
    stage = adapter.selection.weights_stage
    if recipe.selection.refit:
        last = refit_work(run, stage, SEARCHED, adapter)
        outcomes |= run.stages.run(last if holds_out else last | _baseline_works(run))
        adapter = outcomes.pop(stage)
    baselines = {s: o for s, o in outcomes.items() if s != Stage.SELECTION}
    parts = [*dict.fromkeys([*parts, stage])]
    return _Found({stage: adapter, **baselines}, selection, {stage: parts}, ladder)
