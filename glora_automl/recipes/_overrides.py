"""Changes to a recipe from the command line: other images, another model, any setting."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glora_automl.errors import RecipeError
from glora_automl.presets import is_preset, read_architecture
from glora_automl.recipes._recipe import Recipe, list_recipes, load_recipe, parse_recipe

__all__ = ["OWN", "override_recipe", "with_data", "with_settings"]

OWN = "own"
"""The recipe for images of the user's own."""


def override_recipe(
    name: str | None = None,
    *,
    data: str | None = None,
    model: str | None = None,
    architecture: str | None = None,
    settings: Sequence[str] = (),
    **changes: Any,
) -> Recipe:
    """A recipe with changes; without a name the one for images of the user's own.

    Args:
        name: As for :func:`load_recipe`.
        data: An ``.npz`` file, or a folder of images, in the place of the recipe's. Where the
            recipe is not named, the study is named after it.
        model: A timm model with its pretrained weights in the place of the recipe's.
        architecture: A ready architecture or a file with one, which is trained instead of a search;
            the study is named after it, too.
        settings: Further changes, each as ``key=value``, such as ``search.n_trials=100``.
        **changes: As for :meth:`Recipe.replace`, made at the end.

    Raises:
        GLoRAError: If there is no such recipe, or a change does not fit it.
    """
    if name is None and data is None:
        raise RecipeError(
            f"A study needs a recipe ({', '.join(list_recipes())}, or a path that ends in .toml) "
            "or images of your own (--data)."
        )
    recipe = load_recipe(name or OWN)
    if data is not None:
        recipe = with_data(recipe, data)
        if name is None:
            recipe = recipe.replace(name=name_of(data))
    if model is not None:
        recipe = with_model(recipe, model)
    if architecture is not None:
        given = read_architecture(architecture)
        stem = given if is_preset(given) else name_of(architecture)
        recipe = recipe.replace(name=f"{recipe.name}-{stem}", architecture=given)
    return with_settings(recipe, settings).replace(**changes)


def with_data(recipe: Recipe, path: str) -> Recipe:
    """The recipe on other images.

    Args:
        recipe: A recipe. Of a task that has its images at a path, of the kind that is there, the
            other settings stay.
        path: An ``.npz`` file, or a folder.

    Raises:
        RecipeError: If there is nothing at the path.
    """
    place = Path(os.path.expanduser(path))
    if not place.exists():
        raise RecipeError(
            f"The images must be an .npz file or a folder, but there is nothing at {path!r}; see "
            "--data."
        )
    packed = place.suffix == ".npz"
    source = recipe.task.source
    kept = source == "npz" if packed else source not in ("npz", "digits")
    kind = source if kept else "npz" if packed else "folder"
    return recipe.replace(task={"source": kind, "path": str(place)})


def with_model(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another timm model and its pretrained weights.

    Raises:
        RecipeError: If the name is none.
    """
    table = recipe.model_dump(mode="json")
    backbone = {"model": name, "pretrained": True}
    return parse_recipe({**table, "backbone": backbone}, f"recipe {recipe.name}")


def with_settings(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with settings changed, one after the other.

    Args:
        recipe: A recipe.
        settings: Each is ``key=value``, with the key's sections before it and the value as TOML
            has it; what is no TOML is a text.

    Raises:
        RecipeError: If one is misspelt.

    Example:
        >>> from glora_automl.recipes import load_recipe
        >>> changed = with_settings(load_recipe("vtab1k"), ["task.name=dtd", "search.n_trials=100"])
        >>> changed.task.name, changed.search.n_trials
        ('dtd', 100)
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key.strip()):
            raise RecipeError(
                f"A setting must be key=value, such as search.n_trials=100, got {setting!r}; see "
                "--set."
            )
        change: Any = _value(text.strip())
        for part in reversed(key.strip().split(".")):
            change = {part: change}
        recipe = recipe.replace(**change)
    return recipe


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def name_of(data: str) -> str:
    """A study's name for images of the user's own.

    Example:
        >>> name_of("photos/my zoo.npz")
        'my-zoo'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).resolve().stem).lstrip(".-_") or "own"
