"""Changes to a recipe: other images, another model, any setting."""

from __future__ import annotations

import os
import re
import tomllib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glora_automl._files import read_file, user_path
from glora_automl._messages import one_line, short
from glora_automl.backbones import AUTO, LISTS, in_folder
from glora_automl.errors import RecipeError
from glora_automl.presets import is_preset, read_architecture
from glora_automl.recipes._effort import with_effort
from glora_automl.recipes._recipe import Recipe, list_recipes, load_recipe, parse_recipe
from glora_automl.recipes._tuning import nested

__all__ = ["OWN", "name_of", "override_recipe", "with_data", "with_settings"]

OWN = "own"
"""Recipe for images of the user."""

MAX_LIST_BYTES = 1 << 20
"""Largest file of model names."""


def override_recipe(
    name: str | None = None,
    *,
    data: str | None = None,
    model: str | Sequence[str] | None = None,
    architecture: str | None = None,
    effort: str | None = None,
    settings: Sequence[str] = (),
    **changes: Any,
) -> Recipe:
    """Return a recipe with changes; without a name the one for images of the user.

    Args:
        name: As for :func:`load_recipe`.
        data: A folder of images, an ``.npz`` file or a table of paths and labels, which replaces
            the recipe's. Without ``name``, the study is named after it.
        model: A timm model, or candidates for it, in place of the recipe's: see :func:`with_model`.
        architecture: A preset or the file of an architecture, which is trained without a search.
            The study is named after it, too.
        effort: As for :func:`with_effort`.
        settings: Further changes, each as ``key=value``, such as ``search.n_trials=100``.
        **changes: As for :meth:`Recipe.replace`, applied last, so they win over ``settings``.

    Raises:
        GLoRAError: If the recipe does not exist, or a change does not fit it.
    """
    if name is None and data is None:
        raise RecipeError(
            f"recipe must be a name ({', '.join(list_recipes())}) or a path that ends in .toml, "
            "got none. Name one, or give `data`."
        )
    recipe = load_recipe(name or OWN)
    if data is not None:
        recipe = with_data(recipe, data)
        if name is None:
            # The text of the recipe `own` tells how to call it, not what this study is.
            recipe = recipe.replace(
                name=name_of(data), description=f"images of {Path(data).resolve().name}"[:1000]
            )
    if model is not None:
        recipe = with_model(recipe, model)
    if architecture is not None:
        text = read_architecture(architecture)
        stem = text if is_preset(text) else name_of(architecture)
        recipe = recipe.replace(name=f"{recipe.name}-{stem}"[:100], architecture=text)
    if effort is not None:
        recipe = with_effort(recipe, effort)
    return with_settings(recipe, settings, **changes)


def with_data(recipe: Recipe, path: str) -> Recipe:
    """Return the recipe with other images.

    Args:
        recipe: A recipe. Its other task settings stay if its images come from such a place.
        path: A folder, an ``.npz`` file or a table (``.csv``, ``.tsv``).

    Raises:
        RecipeError: If nothing exists at the path.
    """
    place = user_path(path, "data", RecipeError)
    if not os.path.exists(place):
        raise RecipeError(
            "data must be an existing folder, .npz file or table (.csv, .tsv), got "
            f"{short(path, 100)}. Correct `data`."
        )
    files = {".npz": "npz", ".csv": "csv", ".tsv": "csv"}
    source = recipe.task.source
    kind = files.get(place.suffix.lower(), "folder")
    if kind == "folder" and source not in ("npz", "csv", "digits"):
        kind = source
    return recipe.replace(task={"source": kind, "path": str(place)})


def with_model(recipe: Recipe, model: str | Sequence[str]) -> Recipe:
    """Return the recipe with another model, or with candidates for it.

    Args:
        recipe: A recipe. Of its backbone, only the initial head stays.
        model: Each text has names, separated by commas, or is the path of a ``.txt`` file with one
            name per line. A name is a timm model with its pretrained weights, ``name=path`` with a
            local checkpoint, or a list such as ``auto``. The study takes the best of several.

    Raises:
        RecipeError: If there is no name, a file cannot be read, or a checkpoint has another suffix.
    """
    names = [
        name for text in ([model] if isinstance(model, str) else model) for name in _names(text)
    ]
    if not names:
        raise RecipeError(f"model must have at least one name, got {model!r}. Correct `model`.")
    backbone: dict[str, Any] = {"model": AUTO, "candidates": names}
    if len(names) == 1 and names[0] not in LISTS:
        name, equals, path = names[0].partition("=")
        backbone = {"model": name, **({"checkpoint": path} if equals else {"pretrained": True})}
    backbone["head_init"] = recipe.backbone.head_init
    table = recipe.model_dump(mode="json")
    return parse_recipe({**table, "backbone": backbone}, f"recipe {recipe.name}")


def _names(text: str) -> list[str]:
    """Return the names of an option, or those of a file with comments after ``#``."""
    if not text.endswith(".txt"):
        return [name.strip() for name in text.split(",") if name.strip()]
    path = user_path(text, "`model`", RecipeError)
    try:
        lines = read_file(path, MAX_LIST_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"model must be names or a readable .txt file, got {short(text, 100)}: "
            f"{one_line(error)}. Correct `model`."
        ) from None
    names = (line.partition("#")[0].strip() for line in lines)
    return [str(in_folder(name, path.parent)) for name in names if name]


def with_settings(recipe: Recipe, settings: Sequence[str], **last: Any) -> Recipe:
    """Return the recipe with changed settings, applied in order and then checked together.

    Args:
        recipe: A recipe.
        settings: Each is ``key=value``: a dotted key, and a TOML value. Any other value is text.
        **last: Further changes, as for :meth:`Recipe.replace`, applied last.

    Raises:
        RecipeError: If a setting is invalid.

    Example:
        >>> from glora_automl.recipes import load_recipe
        >>> changed = with_settings(load_recipe("vtab1k"), ["task.name=dtd", "search.n_trials=100"])
        >>> changed.task.name, changed.search.n_trials
        ('dtd', 100)
    """
    tables: list[dict[str, Any]] = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key.strip()):
            raise RecipeError(
                f"set must be key=value, such as search.n_trials=100, got {short(setting)}. "
                "Correct `set`."
            )
        if len(key) > 200:
            raise RecipeError(f"set must be key=value, got the key {short(key)}. Correct `set`.")
        tables.append(nested({key.strip(): _value(text.strip())}))
    return recipe.replace_all([*tables, last])


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text


def name_of(data: str | Path) -> str:
    """Return the name of a study or task for a file or folder: in ASCII, without spaces.

    Example:
        >>> name_of("photos/my zoo.npz"), name_of("Bäume"), name_of("木")
        ('my-zoo', 'Baume', 'own')
    """
    place = Path(os.path.abspath(data))  # a link has a name of its own
    letters = unicodedata.normalize("NFKD", place.name if place.is_dir() else place.stem)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip(".-_")[:60] or "own"
