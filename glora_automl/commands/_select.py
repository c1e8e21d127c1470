"""Verb ``select``: the end of a search, or a smaller adapter from a finished one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from glora_automl._messages import short
from glora_automl.architecture import Architecture
from glora_automl.budget import Budget
from glora_automl.commands._search import SEARCH_STAGES, SearchResult, finish, selection_works
from glora_automl.errors import BudgetError, StudyError
from glora_automl.pipeline import (
    Candidate,
    Publisher,
    Run,
    Workspace,
    best_adapter,
    best_inherited,
    best_outcome,
    check_searched,
    close_search,
    fetch_supernet,
    final_test,
    find_candidates,
    find_smallest,
    find_study,
    keep_winner,
    load_backbone,
    open_run,
    refit_work,
    selection_of,
    subnet_stage,
    train_candidates,
    trained_stage,
    tune,
)
from glora_automl.presets import read_architecture, resolve_architecture
from glora_automl.study import (
    CONSTRAINT,
    SEARCHED,
    AdapterOutcome,
    CandidatesOutcome,
    Selection,
    SelectOutcome,
    Spent,
    Stage,
    StageName,
    TestOutcome,
    done_trials,
    get_attribute,
    is_better,
    pareto_trials,
)
from glora_automl.workers import Claim, Work

__all__ = ["select"]


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
    of a search, and tested. This is done once per study and architecture: a call that selects an
    adapter of the study itself, or of an earlier call, returns that one with its test. A study
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
    work = Work(CandidatesOutcome, partial(_choose, run, budget))
    candidates = run.stages.run_one(stage, work).candidates
    selection, stages = _train(run, candidates)
    return _finish(run, budget, selection, [stage, *stages], kept=stage)


def _choose(run: Run, budget: int, claim: Claim) -> CandidatesOutcome:
    """Choose the architectures to train on; without held-out images the one of lowest loss."""
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
    chosen, spent = found, Spent()
    if not run.context.holds_out:
        best, spent = best_inherited(run, fetch_supernet(run), found)
        chosen = [best]
    selections = (selection_of(run, subnet_stage(c.architecture), c, found) for c in chosen)
    return CandidatesOutcome(tuple(selections), spent)


def _train(run: Run, candidates: Sequence[Selection]) -> tuple[Selection, list[str]]:
    """Train candidates on, unless it is done; return the best by validation, and the stages."""
    works: dict[str, Work[AdapterOutcome]] = {}
    stages: list[str] = []
    for number, selection in enumerate(candidates, 1):
        candidate = Candidate(Architecture.parse(selection.architecture), selection.trial)
        stage, title = trained_stage(run, candidate.architecture), "Train the best subnet"
        if len(candidates) > 1:
            title = f"Train subnet {number} of {len(candidates)}"

        def train(
            claim: Claim, stage: str = stage, candidate: Candidate = candidate, title: str = title
        ) -> AdapterOutcome:
            return train_candidates(run, stage, SEARCHED, [candidate], title)

        works[stage] = Work(AdapterOutcome, train)
        stages.append(stage)
    outcomes = run.stages.run(works)
    found: list[Selection] = []
    for chosen, stage in zip(candidates, stages, strict=True):
        scored = outcomes[stage].selection
        found.append(
            replace(chosen, stage=stage, trained=scored.trained, inherited=scored.inherited)
        )
    best = found[0]
    for other in found[1:]:
        assert best.trained is not None
        assert other.trained is not None
        if is_better(other.trained, best.trained, run.context.recipe.metric):
            best = other
    return best, stages


def _given(run: Run, text: str) -> SearchResult:
    """Train an architecture on from the supernet's weights."""
    context = run.context
    architecture = resolve_architecture(
        text, context.space.shapes, context.space.shapes, context.budget
    )
    params = context.space.params(architecture)
    trials = done_trials(run.study)
    number = next((trial.number for trial in trials if trial.params == params), None)
    kept, candidate = subnet_stage(architecture), Candidate(architecture, number)
    selection, stages = _train(run, [selection_of(run, kept, candidate, [candidate])])
    file = f"winner-{architecture.digest[:16]}"
    return _finish(run, selection.n_params, selection, stages, kept=kept, file=file)


def _within_margin(run: Run, margin: float | None) -> SearchResult:
    assert margin is not None, "there is a budget otherwise"
    if not run.context.holds_out:
        raise StudyError(
            f"The study {run.name!r} must hold validation images out to compare sizes, got "
            "all of them in training. Search again with `selection.holdout = true`."
        )
    outcomes = run.stages.run(selection_works(run))
    smallest = find_smallest(run, best_adapter(run, outcomes)[1], margin)
    chosen, stages = smallest.ladder.chosen, [str(Stage.SELECTION), *smallest.stages]
    if chosen is None:
        budget, kept, selection = run.context.budget, None, best_outcome(run, outcomes)
    else:
        assert smallest.outcome.selection is not None
        budget, kept = chosen.budget, str(StageName(Stage.LADDER, str(chosen.budget)))
        stage = trained_stage(run, Architecture.parse(smallest.outcome.selection.architecture))
        selection = replace(smallest.outcome.selection, stage=stage)
    result = _finish(run, budget, selection, stages, kept=kept)
    run.record("ladder", smallest.ladder.to_json())
    Publisher(run).publish()
    return replace(result, ladder=smallest.ladder)


def _finish(
    run: Run,
    budget: int,
    selection: Selection,
    stages: Sequence[str],
    *,
    kept: str | None,
    file: str | None = None,
) -> SearchResult:
    """Refit and test an adapter, unless the study has done so before.

    Args:
        run: The study.
        budget: The most trainable parameters.
        selection: The selected architecture.
        stages: Its stages after the search.
        kept: Stage that the result is named after; None keeps no result.
        file: Name of the adapter's file, without suffix; by default it has the budget.
    """
    adapter, weights = run.stages.outcome(selection.stage, AdapterOutcome), selection.weights_stage
    assert adapter is not None, "it is trained"
    if weights != selection.stage:
        adapter = run.stages.run(refit_work(run, weights, SEARCHED, adapter))[weights]
    tested = _own_test(run, selection)
    if tested is None:
        parts = [*SEARCH_STAGES, *dict.fromkeys([*stages, weights])]
        test = partial(final_test, run, {weights: adapter}, {weights: parts}, selected=weights)
        tested = run.stages.run_one(f"{selection.stage}-test", Work(TestOutcome, test))
    found = SelectOutcome(budget, selection, tested.rows[0], classes=tested.classes)
    if kept is not None:
        found = run.stages.run_one(f"{kept}-result", Work(SelectOutcome, lambda claim: found))
    file = file or f"winner-{budget}"
    return SearchResult(
        run.study,
        found.selection,
        (found.row,),
        budget,
        keep_winner(run, file, adapter),
        run.context.data,
        classes=found.classes,
        file=file,
    )


def _own_test(run: Run, selection: Selection) -> TestOutcome | None:
    """Return the test of an adapter of the study itself; its classes if the study selected it."""
    tested = run.stages.outcome(Stage.TEST, TestOutcome)
    assert tested is not None, "the study is finished"
    own = Selection.from_json(get_attribute(run.study, "selection"))
    # The searched adapter is tested first, also beside a baseline that was selected.
    searched = str(Stage.SELECTION) if own.preset is not None else own.stage
    if selection.preset is not None:
        row = next(row for row in tested.rows if row.name == selection.preset)
    elif selection.stage == searched:
        row = tested.rows[0]
    else:
        return None
    is_selected = (selection.stage, selection.preset) == (own.stage, own.preset)
    return TestOutcome((row,), classes=tested.classes if is_selected else None)
