"""An adapter for a smaller budget, from a search that is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from glora_automl.budget import parse_budget
from glora_automl.commands._search import SearchResult
from glora_automl.errors import BudgetError, StudyError
from glora_automl.pipeline import Run, choose, final_test, find, join, keep_winner, load_backbone
from glora_automl.progress import Progress
from glora_automl.study import CONSTRAINT, Row, Selection, best_trials, front_of
from glora_automl.workers import Claim

__all__ = ["pick"]


def pick(
    name: str,
    budget: int | str,
    *,
    storage: str | BaseStorage | None = None,
    artifacts: str | None = None,
    data: str | None = None,
    runs: str | Path = "runs",
    device: str = "auto",
    patience: float = 300.0,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Choose, train on and test the best adapter under a smaller budget, without a new search.

    The best of the study's trials that fit are scored again and one is chosen and trained on, as
    at the end of the search; then it looks at the test images. That is done once for a study and a
    budget: later calls give what was found. A study with ``search.objectives = ["accuracy",
    "parameters"]`` has good trials for every budget; others have them near their own.

    Args:
        name: Name of the study, which must be finished.
        budget: The most trainable parameters: at most the study's budget, written as there.
        storage: As for :func:`glora_automl.search`.
        artifacts: Where this machine finds the study's artifacts, if not where the study says.
        data: Where this machine finds the images, if not where the study says.
        runs: As for :func:`glora_automl.search`.
        device: As for :func:`glora_automl.search`.
        patience: As for :func:`glora_automl.search`.
        stop: As for :func:`glora_automl.search`.
        progress: As for :func:`glora_automl.search`.

    Returns:
        The study, what was chosen, its row of figures alone, and the merged model.

    Raises:
        BudgetError: If the budget is misspelt or above the study's.
        StudyError: If the study is not finished, had no search, or no trial fits.
        GLoRAError: If anything else is wrong with the input.
        Stopped: If ``stop`` asked for it.
    """
    storage, recipe = find(name, storage=storage, data=data, runs=runs, patience=patience)
    with join(
        recipe,
        name=name,
        storage=storage,
        artifacts=artifacts,
        runs=runs,
        device=device,
        patience=patience,
        stop=stop,
        progress=progress,
    ) as run:
        return _pick(run, parse_budget(budget, run.setup.backbone_parameters))


def _pick(run: Run, budget: int) -> SearchResult:
    name = run.study.study_name
    if budget > run.setup.budget:
        raise BudgetError(
            f"The budget of a pick must be at most that of the study {name!r}, "
            f"{run.setup.budget}, got {budget}; more needs another search."
        )
    run.check_searched()
    run.check_finished()
    candidates = best_trials(run.study, run.setup.recipe.selection.n_candidates, within=budget)
    if not candidates:
        front = front_of(run.study.get_trials(deepcopy=False), run.study.directions[0])
        least = front[0].user_attrs[CONSTRAINT]
        raise StudyError(
            f"The study {name!r} must have a trial within the budget of a pick, got {budget}; its "
            f"smallest on the front has {least} parameters."
        )
    run = load_backbone(run)
    stage = f"pick-{budget}"
    choosing: dict[str, Callable[[Claim], dict[str, Any]]] = {
        stage: lambda _: choose(run, stage, candidates)
    }
    outcomes = run.stages.run(choosing)
    parts = {stage: ("supernet", "search", stage)}

    def test(claim: Claim) -> dict[str, Any]:
        found = final_test(run, outcomes, parts, claim)
        selection = outcomes[stage]["selection"]
        return {
            **found,
            "pick": {"budget": budget, "selection": selection, "row": found["rows"][0]},
        }

    rows = run.stages.run({f"{stage}-test": test})[f"{stage}-test"]["rows"]
    return SearchResult(
        run.study,
        Selection.from_json(outcomes[stage]["selection"]),
        tuple(Row.from_json(row) for row in rows),
        budget,
        keep_winner(run, f"winner-{budget}", outcomes[stage]),
    )
