"""``glora train``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from glora_automl.cli._options import (
    AsJson,
    Budget,
    Changes,
    Data,
    Metric,
    Model,
    RecipeName,
    Seed,
    given,
    with_workspace,
)
from glora_automl.cli._output import print_found

__all__ = ["train"]


@with_workspace(leave_out=("data",))
def train(
    workspace: Any,
    recipe: RecipeName = None,
    architecture: Annotated[
        str,
        typer.Option(
            help="File of 'glora architecture', or lora (the highest rank that fits), lora-4, "
            "bitfit, ssf or probe."
        ),
    ] = "lora",
    data: Data = None,
    model: Model = None,
    changes: Changes = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the study; by default recipe and architecture.")
    ] = None,
    budget: Budget = None,
    metric: Metric = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Train one architecture without a search, and keep it like a search's winner."""
    from glora_automl import commands
    from glora_automl.recipes import override_recipe

    wanted = override_recipe(
        recipe,
        data=data,
        model=model,
        architecture=architecture,
        settings=changes or (),
        **given(budget=budget, metric=metric, seed=seed),
    )
    print_found(commands.search(wanted, name=name, workspace=workspace), workspace, as_json)
