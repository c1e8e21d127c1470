"""``glora search``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from glora_automl.cli._options import (
    AsJson,
    Budget,
    Changes,
    Data,
    Margin,
    Metric,
    Model,
    NTrials,
    RecipeName,
    Seed,
    Timeout,
    given,
    integer,
    read_timeout,
    with_workspace,
)
from glora_automl.cli._output import print_found
from glora_automl.errors import RecipeError

if TYPE_CHECKING:
    from glora_automl.commands import SearchResult
    from glora_automl.pipeline import Workspace
    from glora_automl.recipes import Recipe

__all__ = ["search"]


@with_workspace(leave_out=("data",))
def search(
    workspace: Any,
    recipe: RecipeName = None,
    data: Data = None,
    model: Model = None,
    changes: Changes = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    budget: Budget = None,
    margin: Margin = None,
    metric: Metric = None,
    n_trials: NTrials = None,
    timeout: Timeout = None,
    seed: Seed = None,
    effort: Annotated[
        str | None,
        typer.Option(help="low, medium or high: the cost of about 1, 3 or 8 trainings of LoRA."),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="evolution, tpe, nsga2 or random.")] = None,
    warm_start: Annotated[
        str | None, typer.Option(help="Begin with the best architectures of an earlier study.")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Workers on a Ray cluster, one per GPU: ray://host:10001, or ray on this machine."
        ),
    ] = None,
    n_workers: Annotated[
        int | None,
        typer.Option(
            parser=integer,
            help="Workers on a Ray cluster that scales up; with --device cuda, each with a GPU.",
        ),
    ] = None,
    cpus_per_worker: Annotated[
        int | None,
        typer.Option(
            parser=integer, help="CPUs per worker of a Ray cluster without GPUs; by default 2."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe, continue an interrupted run, or join running workers."""
    from glora_automl import commands
    from glora_automl.recipes import override_recipe

    sizes = given(n_workers=n_workers, cpus_per_worker=cpus_per_worker)
    if workers is None and sizes:
        raise RecipeError(
            f"`{next(iter(sizes))}` must come with `workers`, got none. Set `workers`."
        )
    seconds = read_timeout(timeout)
    wanted = override_recipe(
        recipe,
        data=data,
        model=model,
        effort=effort,
        settings=changes or (),
        search=given(n_trials=n_trials, sampler=sampler),
        selection=given(margin=margin),
        **given(budget=budget, metric=metric, seed=seed),
    )
    place: Workspace = workspace
    if workers is None:
        result = commands.search(
            wanted, name=name, warm_start=warm_start, timeout=seconds, workspace=place
        )
    else:
        others = given(warm_start=warm_start, timeout=seconds)
        result = _on_ray(wanted, workers, name, others, place, **sizes)
    print_found(result, place, as_json)


def _on_ray(
    recipe: Recipe,
    address: str,
    name: str | None,
    others: dict[str, Any],
    workspace: Workspace,
    **sizes: int,
) -> SearchResult:
    from glora_automl.clusters import search_on_ray

    if others:
        option = next(iter(others))
        raise RecipeError(f"`{option}` must be left out with `workers`. Remove one of them.")
    return search_on_ray(recipe, address, name=name, workspace=workspace, **sizes)
