"""``glora layers``."""

from __future__ import annotations

from typing import Annotated

import typer

from glora_automl.cli._options import AsJson
from glora_automl.cli._output import out_console, print_json

__all__ = ["layers"]


def layers(
    backbone: Annotated[str, typer.Argument(help="Name of a timm model or path of a recipe.")],
    as_json: AsJson = False,
) -> None:
    """List the layers of a backbone that can be adapted, and why others cannot."""
    from glora_automl._declarations import validate
    from glora_automl.backbones import BackboneSettings, list_layers
    from glora_automl.errors import TaskError
    from glora_automl.recipes import list_recipes, load_recipe

    is_recipe = backbone.endswith(".toml") or backbone in list_recipes()
    if is_recipe:
        settings = load_recipe(backbone).backbone
    else:
        settings = validate(BackboneSettings, {"model": backbone}, "backbone", TaskError)
    groups = list_layers(settings)
    if as_json:
        print_json([group._asdict() for group in groups])
        return
    from rich.table import Column, Table

    table = Table(Column("layers", overflow="fold"), "number", "out x in", "tensors, or why not")
    for group in groups:
        size = "–" if group.size is None else " x ".join(map(str, group.size))
        table.add_row(group.pattern, str(group.n_layers), size, group.reason or group.tensors)
    out_console().print(table)
