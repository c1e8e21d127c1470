"""``glora recipes``, ``glora spaces`` and ``glora suites``."""

from __future__ import annotations

from glora_automl.cli._options import AsJson
from glora_automl.cli._output import print_list

__all__ = ["recipes", "spaces", "suites"]


def recipes(as_json: AsJson = False) -> None:
    """List the shipped recipes."""
    from glora_automl.recipes import list_recipes, load_recipe

    print_list({name: load_recipe(name).description for name in list_recipes()}, as_json)


def spaces(as_json: AsJson = False) -> None:
    """List the shipped search spaces."""
    from glora_automl.search_space import list_search_spaces, load_search_space

    found = {name: load_search_space(name).description for name in list_search_spaces()}
    print_list(found, as_json)


def suites(as_json: AsJson = False) -> None:
    """List the shipped suites."""
    from glora_automl.recipes import list_suites, load_suite

    print_list({name: load_suite(name).description for name in list_suites()}, as_json)
