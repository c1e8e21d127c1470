"""Verb ``select``: the end of a search, or a smaller adapter from a finished one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from glora_automl._messages import short
from glora_automl.budget import Budget
from glora_automl.commands._search import SEARCH_STAGES, SearchResult, finish, selection_works
from glora_automl.errors import BudgetError, StudyError
from glora_automl.pipeline import (
    GIVEN,
    Candidate,
    Publisher,
    Run,
    Workspace,
    best_adapter,
    best_outcome,
    check_searched,
    close_search,
    final_test,
    find_candidates,
    find_smallest,
    find_study,
    given_stage,
    keep_winner,
    load_backbone,
    open_run,
    refit_work,
    train_candidates,
    tune,
)
from glora_automl.presets import read_architecture, resolve_architecture
from glora_automl.study import (
    CONSTRAINT,
    SEARCHED,
    AdapterOutcome,
    ClassReport,
    Row,
    Selection,
    SelectOutcome,
    Stage,
    StageName,
    TestOutcome,
    done_trials,
    get_attribute,
    pareto_trials,
)
from glora_automl.workers import Claim, Work

__all__ = ["select", "winner_name"]


def select(
    name: str,
    budget: int | str | Budget | None = None,
    *,
    margin: float | None = None,
    architecture: str | None = None,
    workspace: Workspace | None = None,
) -> SearchResult:
    """End a search with the trials that are done, or select another adapter of a finished one.

    Without budget, margin and architecture the search of a study ends, also for its other workers:
    the adapter is selected, refit and tested.

    For a budget, candidates are the largest truncation of the supernet and the best trials within
    it; without held-out images the best one that is not small is taken. For a margin, halves,
    quarters and so on of the selected adapter are compared with it, and the smallest is taken that
    is shown to lose no more accuracy than the margin; see
    :func:`~glora_automl.pipeline.find_smallest`. The adapter is trained on and refit as at the end
    of a search, and tested once per study and size. Later calls return the kept result. A study
    with ``search.objectives = ["accuracy", "n_params"]`` has good trials for every budget.

    Args:
        name: Name of the study. For a budget or margin it must be finished.
        budget: The most trainable parameters, at most the study's budget.
        margin: Points of accuracy that the adapter may lose against the best one of the study,
            which must hold validation images out. It takes the place of ``budget``.
        architecture: An architecture found elsewhere, such as by a study of one's own: its printed
            form, or the path of a file with it. It takes the place of ``budget``.
        workspace: The environment.

    Returns:
        As for :func:`search` without budget and margin. With one of them, the study, the selected
        architecture, its row alone, the merged model, and the ladder of a margin. If no smaller
        adapter is within the margin, they are those of the best adapter.

    Raises:
        BudgetError: If the budget or the parameters of the architecture are above the study's, or
            an argument is invalid.
        SearchSpaceError: If the architecture is not one of the search space.
        StudyError: If the study is not finished, had no search or has no trial, if nothing fits, or
            if it holds no images out for a margin.
        GLoRAError: If another input is invalid.
        Stopped: If the workspace asked to stop.
    """
    given = {"budget": budget, "margin": margin, "architecture": architecture}
    if sum(value is not None for value in given.values()) > 1:
        found = ", ".join(f"{k} = {short(v)}" for k, v in given.items() if v is not None)
        raise BudgetError(
            f"One of budget, margin and architecture may be given, got {found}. Leave out "
            "`budget`, `margin` or `architecture`."
        )
    if margin is not None and not (isinstance(margin, int | float) and 0 < margin <= 100):
        raise BudgetError(
            f"margin must be above 0 and at most 100 points of accuracy, got {short(margin)}. "
            "Change `margin`."
        )
    wanted = None if budget is None else Budget.parse(budget)
    text = None if architecture is None else read_architecture(architecture)
    workspace, recipe = find_study(name, workspace)
    check_searched(name, recipe)
    with open_run(recipe, workspace, name=name) as run:
        resolved = None if wanted is None else wanted.resolve(run.context.n_backbone_params)
        if resolved is not None and resolved > run.context.budget:
            raise BudgetError(
                f"budget must be at most {run.context.budget}, that of the study {name!r}, got "
                f"{resolved}. Search again for more."
            )
        if all(value is None for value in given.values()):
            close_search(run)
            return finish(run)
        run.check_finished()
        run = tune(load_backbone(run))
        if text is not None:
            return _given(run, text)
        return _within_margin(run, margin) if resolved is None else _within_budget(run, resolved)


def _within_budget(run: Run, budget: int) -> SearchResult:
    stage = str(StageName(Stage.SELECT, str(budget)))

    def train(claim: Claim) -> AdapterOutcome:
        return train_candidates(run, stage, SEARCHED, _candidates(run, budget))

    outcome = run.stages.run_one(stage, Work(AdapterOutcome, train))
    assert outcome.selection is not None
    return _finish(run, budget, outcome.selection, outcome, [stage])


def _given(run: Run, text: str) -> SearchResult:
    """Train an architecture on from the supernet's weights."""
    context = run.context
    architecture = resolve_architecture(
        text, context.space.shapes, context.space.shapes, context.budget
    )
    params = context.space.params(architecture)
    trials = done_trials(run.study)
    number = next((trial.number for trial in trials if trial.params == params), None)
    stage = given_stage(architecture)

    def train(claim: Claim) -> AdapterOutcome:
        return train_candidates(run, stage, SEARCHED, [Candidate(architecture, number)])

    outcome = run.stages.run_one(stage, Work(AdapterOutcome, train))
    assert outcome.selection is not None
    n_params = architecture.count(context.space.shapes)
    return _finish(run, n_params, outcome.selection, outcome, [stage])


def winner_name(result: SearchResult) -> str:
    """Return the name of the file, without suffix, that has the adapter of :func:`select`."""
    return _winner_name(result.selection, result.budget)


def _winner_name(selection: Selection, budget: int) -> str:
    _, is_given, digest = selection.stage.partition(GIVEN)
    return f"winner-{digest if is_given else budget}"


def _within_margin(run: Run, margin: float | None) -> SearchResult:
    assert margin is not None, "there is a budget otherwise"
    if not run.context.holds_out:
        raise StudyError(
            f"The study {run.name!r} must hold validation images out to compare sizes, got "
            "all of them in training. Search again with `selection.holdout = true`."
        )
    outcomes = run.stages.run(selection_works(run))
    smallest = find_smallest(run, best_adapter(run, outcomes)[1], margin)
    chosen = smallest.ladder.chosen
    budget = run.context.budget if chosen is None else chosen.budget
    selection = best_outcome(run, outcomes)
    if chosen is not None:
        assert smallest.outcome.selection is not None
        selection = smallest.outcome.selection
    stages = [str(Stage.SELECTION), *smallest.stages]
    result = _finish(run, budget, selection, smallest.outcome, stages)
    run.record("ladder", smallest.ladder.to_json())
    Publisher(run).publish()
    return replace(result, ladder=smallest.ladder)


def _finish(
    run: Run, budget: int, selection: Selection, outcome: AdapterOutcome, stages: Sequence[str]
) -> SearchResult:
    """Refit and test an adapter, unless the study itself has done so.

    Args:
        run: The study.
        budget: The most trainable parameters.
        selection: The selected architecture.
        outcome: The adapter.
        stages: Its stages after the search.
    """
    kept, own = selection.weights_stage, _own_test(run, selection)
    if own is not None:
        row, classes = own
        trained = run.stages.outcome(kept, AdapterOutcome)
        assert trained is not None
        outcome = trained
    else:
        if selection.refit:
            outcome = run.stages.run(refit_work(run, kept, SEARCHED, outcome))[kept]
        parts = [*SEARCH_STAGES, *dict.fromkeys([*stages, kept])]
        work = Work(SelectOutcome, partial(_test, run, budget, outcome, parts))
        tested = run.stages.run_one(f"{selection.stage}-test", work)
        row, classes = tested.row, tested.classes
    return SearchResult(
        run.study,
        selection,
        (row,),
        budget,
        keep_winner(run, _winner_name(selection, budget), outcome),
        run.context.data,
        classes=classes,
    )


def _own_test(run: Run, selection: Selection) -> tuple[Row, ClassReport | None] | None:
    """Return the test of an adapter of the study itself; its classes if the study selected it."""
    tested = run.stages.outcome(Stage.TEST, TestOutcome)
    assert tested is not None, "the study is finished"
    is_own = Selection.from_json(get_attribute(run.study, "selection")) == selection
    classes = tested.classes if is_own else None
    if selection.preset is not None:
        return next(row for row in tested.rows if row.name == selection.preset), classes
    return (tested.rows[0], classes) if is_own else None


def _test(
    run: Run, budget: int, outcome: AdapterOutcome, parts: list[str], claim: Claim
) -> SelectOutcome:
    tested = final_test(run, {"select": outcome}, {"select": parts}, claim, "select")
    assert outcome.selection is not None
    return SelectOutcome(budget, outcome.selection, tested.rows[0], tested.spent, tested.classes)


def _candidates(run: Run, budget: int) -> list[Candidate]:
    found = find_candidates(run, budget)
    if not found:
        front = pareto_trials(run.study.get_trials(deepcopy=False), run.study.directions[0])
        smallest = min(
            [trial.user_attrs[CONSTRAINT] for trial in front], default=run.context.space.minimum
        )
        raise StudyError(
            f"budget must be at least {smallest}, the smallest trial of the study "
            f"{run.study.study_name!r}, got {budget}. Raise `budget`."
        )
    return found
