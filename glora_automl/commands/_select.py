"""Verb ``select``: an adapter for a smaller budget, from a finished search."""

from __future__ import annotations

from functools import partial

from glora_automl.budget import Budget
from glora_automl.commands._search import SearchResult
from glora_automl.errors import BudgetError, StudyError
from glora_automl.pipeline import (
    Candidate,
    Run,
    Workspace,
    final_test,
    find_candidates,
    find_study,
    keep_winner,
    load_backbone,
    open_run,
    refit_work,
    train_candidates,
    tune,
)
from glora_automl.study import (
    CONSTRAINT,
    SEARCHED,
    AdapterOutcome,
    SelectOutcome,
    Stage,
    StageName,
    pareto_trials,
)
from glora_automl.workers import Claim, Work

__all__ = ["select"]


def select(
    name: str, budget: int | str | Budget, *, workspace: Workspace | None = None
) -> SearchResult:
    """Select, train and test an adapter under a smaller budget, without a new search.

    Candidates are the largest truncation of its supernet and its best trials within the budget.
    The best one is trained on and refit as at the end of a search, and tested once per
    study and budget. Later calls return the kept result. A study with
    ``search.objectives = ["accuracy", "n_params"]`` has good trials for every budget.

    Args:
        name: Name of the study, which must be finished.
        budget: The most trainable parameters, at most the study's budget.
        workspace: The environment.

    Returns:
        The study, the selected architecture, its row alone, and the merged model.

    Raises:
        BudgetError: If the budget is invalid or above the study's.
        StudyError: If the study is not finished, had no search, or nothing fits.
        GLoRAError: If another input is invalid.
        Stopped: If the workspace asked to stop.
    """
    wanted = Budget.parse(budget)
    workspace, recipe = find_study(name, workspace)
    with open_run(recipe, workspace, name=name) as run:
        return _select(run, wanted.resolve(run.context.n_backbone_params))


def _select(run: Run, budget: int) -> SearchResult:
    name = run.study.study_name
    if budget > run.context.budget:
        raise BudgetError(
            f"budget must be at most {run.context.budget}, that of the study {name!r}, got "
            f"{budget}. Search again for more."
        )
    run.check_searched()
    run.check_finished()
    run = tune(load_backbone(run))
    stage = str(StageName(Stage.SELECT, str(budget)))

    def train(claim: Claim) -> AdapterOutcome:
        return train_candidates(run, stage, SEARCHED, _candidates(run, budget))

    outcome = run.stages.run_one(stage, Work(AdapterOutcome, train))
    parts = [Stage.SUPERNET, Stage.SEARCH, stage]
    if run.context.recipe.selection.refit:
        refit = f"{stage}-refit"
        outcome = run.stages.run(refit_work(run, refit, SEARCHED, outcome))[refit]
        parts.append(refit)
    work = Work(SelectOutcome, partial(_test, run, budget, outcome, [str(p) for p in parts]))
    tested = run.stages.run_one(f"{stage}-test", work)
    return SearchResult(
        run.study,
        tested.selection,
        (tested.row,),
        budget,
        keep_winner(run, f"winner-{budget}", outcome),
        run.context.data,
    )


def _test(
    run: Run, budget: int, outcome: AdapterOutcome, parts: list[str], claim: Claim
) -> SelectOutcome:
    tested = final_test(run, {"select": outcome}, {"select": parts}, claim)
    assert outcome.selection is not None
    return SelectOutcome(budget, outcome.selection, tested.rows[0], tested.spent)


def _candidates(run: Run, budget: int) -> list[Candidate]:
    found = find_candidates(run, budget)
    if not found:
        front = pareto_trials(run.study.get_trials(deepcopy=False), run.study.directions[0])
        smallest = min(trial.user_attrs[CONSTRAINT] for trial in front)
        raise StudyError(
            f"budget must be at least {smallest}, the smallest trial of the study "
            f"{run.study.study_name!r}, got {budget}. Raise `budget`."
        )
    return found
