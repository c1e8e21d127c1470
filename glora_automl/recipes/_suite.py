"""Suites: one recipe on many tasks, one study per task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from glora_automl import _declarations
from glora_automl._declarations import Declaration, Float, suggest
from glora_automl._files import user_path
from glora_automl._messages import short
from glora_automl.errors import GLoRAError, RecipeError
from glora_automl.recipes._overrides import OWN, name_of, override_recipe, with_settings
from glora_automl.recipes._recipe import Name, Recipe
from glora_automl.tasks import is_hidden

__all__ = ["Suite", "SuiteTask", "list_suites", "load_suite", "suite_recipes"]

MAX_SEEDS = 1000
"""Most studies per task."""


class SuiteTask(Declaration):
    """A task of a suite.

    Attributes:
        name: Its name; letters, digits, ``.``, ``_`` and ``-``.
        group: Its group. The mean of a suite is the mean of its groups' means.
        path: Path of its images below the suite's data, if tasks have their own.
        set: Changes to the suite's recipe, as a table.
    """

    name: Name
    group: str = ""
    path: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)


class Published(Declaration):
    """Published results on a suite's tasks, for a column of their own.

    Attributes:
        name: The method.
        source: The publication and what its figures mean.
        accuracies: Test accuracies in %, by task.
    """

    name: str
    source: str
    accuracies: dict[str, Annotated[Float, Field(ge=0, le=100)]]

    @property
    def method(self) -> str:
        """The column's name."""
        return f"{self.name}, published"


class Suite(Declaration):
    """Tasks that share one recipe.

    Attributes:
        name: Prefix of the studies' names.
        description: One line for ``glora suites``.
        recipe: Name of a recipe, or path of its ``.toml`` file relative to the suite's folder.
        tasks: The tasks.
        published: Published results on these tasks.
    """

    name: Name
    description: str = Field(default="", max_length=1000)
    recipe: str = Field(max_length=4096)
    tasks: tuple[SuiteTask, ...] = Field(min_length=1)
    published: tuple[Published, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Suite:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"tasks must have different names, got {twice!r} twice.")
        for entry in self.published:
            if strange := sorted(set(entry.accuracies) - set(names)):
                raise ValueError(
                    f"published accuracies must be of the suite's tasks, {entry.name} has "
                    f"{strange[0]!r}. {suggest(strange[0], names)}"
                )
        return self


def list_suites() -> list[str]:
    """Return the names of the shipped suites.

    Example:
        >>> list_suites()
        ['dg', 'fewshot', 'vtab1k']
    """
    return _declarations.names("suites")


def load_suite(name: str | Path, *, data: str | None = None) -> Suite:
    """Read a shipped suite by name or a ``.toml`` file by its path, or build one from a folder.

    The tasks of a folder are its ``.npz`` files and its folders of images. Their recipe is the one
    for images of the user, and they are named as its studies are: ``my trees`` is ``my-trees``.

    Args:
        name: Name, file or folder.
        data: Folder that the tasks' paths are relative to; by default that of the file.

    Raises:
        RecipeError: If the suite is not found or invalid, or the folder has no tasks, or two of
            them get the same name.
    """
    place = user_path(name, "suite", RecipeError)
    if place.is_dir():
        table: dict[str, Any] = {"name": name_of(place), "recipe": OWN}
        found = _tasks_in(place)
        table["tasks"] = [{"name": name, "path": str(path)} for name, path in found.items()]
        return _declarations.validate(Suite, table, f"suite {name}", RecipeError)
    stem, table = _declarations.read("suites", name, RecipeError)
    with _declarations.of_file():
        suite = _declarations.validate(Suite, {"name": stem, **table}, f"suite {stem}", RecipeError)
    begin = place.parent if data is None else user_path(data, "`data`", RecipeError)
    tasks = [
        task if task.path is None else task.model_copy(update={"path": str(begin / task.path)})
        for task in suite.tasks
    ]
    recipe = suite.recipe
    if recipe.endswith(".toml"):
        recipe = str(place.parent / recipe)
    return suite.model_copy(update={"tasks": tuple(tasks), "recipe": recipe})


def _tasks_in(folder: Path) -> dict[str, Path]:
    """Return the images of a folder's tasks by name."""
    entries = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    found = [path for path in entries if path.is_dir() or path.suffix.lower() == ".npz"]
    if not found:
        raise RecipeError(
            "suite must be a folder with .npz files or folders of images, one per task, got "
            f"{str(folder)!r} without any. Add them, or name another folder."
        )
    tasks: dict[str, Path] = {}
    for path in found:
        name = name_of(path)
        if (first := tasks.setdefault(name, path)) is not path:
            raise RecipeError(
                f"suite must be a folder whose tasks have different names, got {short(first.name)} "
                f"and {short(path.name)}, which both get the name {name!r}. Rename one of them."
            )
    return tasks


def suite_recipes(
    suite: Suite,
    *,
    data: str | None = None,
    model: str | Sequence[str] | None = None,
    settings: Sequence[str] = (),
    n_seeds: int = 1,
    **changes: Any,
) -> list[tuple[str, Recipe]]:
    """Return the recipe of each study of a suite, with the name of its task.

    Args:
        suite: The suite.
        data: Place of the images of all tasks that have no path.
        model: As for :func:`override_recipe`.
        settings: As for :func:`override_recipe`, applied after those of the task.
        n_seeds: Studies per task, with successive seeds from that of the recipe on.
        **changes: As for :meth:`Recipe.replace`, applied last.

    Returns:
        All tasks with the first seed, then with the next one. A recipe has the name of its study.

    Raises:
        GLoRAError: If a recipe is invalid; the message names the task.

    Example:
        >>> made = suite_recipes(load_suite("vtab1k"), n_seeds=2)
        >>> len(made), made[0][0], made[-1][1].name
        (38, 'cifar', 'vtab1k-smallnorb_ele-seed1')
    """
    if not 1 <= n_seeds <= MAX_SEEDS:
        raise RecipeError(
            f"n_seeds must be from 1 to {MAX_SEEDS}, got {short(n_seeds)}. Correct `n_seeds`."
        )
    made = []
    for task in suite.tasks:
        try:
            recipe = override_recipe(suite.recipe, data=task.path, model=model)
            if task.path is None and data is not None:
                recipe = recipe.replace(task={"path": str(user_path(data, "`data`", RecipeError))})
            recipe = with_settings(recipe.replace(**task.set), settings).replace(**changes)
        except GLoRAError as error:
            raise type(error)(f"task {task.name}: {error}") from None
        made.append((task.name, recipe))
    return [
        (
            task,
            recipe.replace(
                name=f"{suite.name}-{task}-seed{recipe.seed + seed}", seed=recipe.seed + seed
            ),
        )
        for seed in range(n_seeds)
        for task, recipe in made
    ]
