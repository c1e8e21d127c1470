"""Suites: the same recipe on many tasks, one study each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from glora_automl import _declarations
from glora_automl._declarations import Declaration, suggest
from glora_automl.errors import GLoRAError, RecipeError
from glora_automl.recipes._overrides import OWN, override_recipe, with_settings
from glora_automl.recipes._recipe import NAME, Recipe

__all__ = ["Suite", "SuiteTask", "list_suites", "load_suite", "suite_recipes"]


class SuiteTask(Declaration):
    """One task of a suite.

    Attributes:
        name: Names the task; letters, digits, ``.``, ``_`` and ``-``.
        group: Tasks of a group are averaged first; the mean is that of the groups.
        path: Where its images are in the folder of the suite's data, if not all have one place.
        set: What changes in the suite's recipe, as a table.
    """

    name: str = Field(pattern=NAME)
    group: str = ""
    path: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)


class Published(Declaration):
    """What others have reported on a suite's tasks, for a column beside what was found.

    Attributes:
        name: Of the method.
        source: Where the figures are from, and what they are of.
        accuracies: Test accuracies in %, by task.
    """

    name: str
    source: str
    accuracies: dict[str, float]

    @property
    def method(self) -> str:
        """The column's name."""
        return f"{self.name}, published"


class Suite(Declaration):
    """Tasks that are searched with one recipe.

    Attributes:
        name: Begins the names of the studies.
        description: One line for ``glora suites``.
        recipe: Name of a recipe, or path of its ``.toml`` file from the folder of the suite's.
        tasks: The tasks.
        published: What others have reported on them.
    """

    name: str = Field(pattern=NAME)
    description: str = ""
    recipe: str
    tasks: tuple[SuiteTask, ...] = Field(min_length=1)
    published: tuple[Published, ...] = ()

    @model_validator(mode="after")
    def _once(self) -> Suite:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"tasks must have names of their own, {twice!r} stands twice.")
        for entry in self.published:
            if strange := sorted(set(entry.accuracies) - set(names)):
                raise ValueError(
                    f"published accuracies must be of the suite's tasks, {entry.name} has "
                    f"{strange[0]!r}; {suggest(strange[0], names)}"
                )
        return self


def list_suites() -> list[str]:
    """Names of the suites that ship.

    Example:
        >>> list_suites()
        ['dg', 'fewshot', 'vtab1k']
    """
    return _declarations.names("suites")


def load_suite(name: str, *, data: str | None = None) -> Suite:
    """Read a shipped suite by name, a ``.toml`` file of the user's, or make one of a folder.

    A folder's tasks are the ``.npz`` files in it, and its folders, each of which holds the images
    of a task; they are searched with the recipe for the user's own images.

    Args:
        name: Name, file or folder.
        data: Folder that the paths of the tasks begin at; by default that of the file.

    Raises:
        RecipeError: If it is not found or misspelt, or the folder has no tasks.
    """
    place = Path(name).expanduser()
    if place.is_dir():
        table: dict[str, Any] = {"name": place.resolve().name, "recipe": OWN}
        table["tasks"] = [{"name": path.stem, "path": str(path)} for path in _tasks_in(place)]
        return _declarations.validate(Suite, table, f"suite {name}", RecipeError)
    stem, table = _declarations.read("suites", name, RecipeError)
    suite = _declarations.validate(Suite, {"name": stem, **table}, f"suite {stem}", RecipeError)
    begin = place.parent if data is None else Path(data).expanduser()
    tasks = [
        task if task.path is None else task.model_copy(update={"path": str(begin / task.path)})
        for task in suite.tasks
    ]
    recipe = suite.recipe
    if recipe.endswith(".toml"):
        recipe = str(place.parent / recipe)
    return suite.model_copy(update={"tasks": tuple(tasks), "recipe": recipe})


def _tasks_in(folder: Path) -> list[Path]:
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in entries if path.is_dir() or path.suffix == ".npz"]
    if not found:
        raise RecipeError(
            f"The folder {str(folder)!r} of a suite must hold .npz files or folders of images, a "
            "task each; it has none."
        )
    return found


def suite_recipes(
    suite: Suite,
    *,
    data: str | None = None,
    model: str | None = None,
    settings: Sequence[str] = (),
    seeds: int = 1,
    **changes: Any,
) -> list[tuple[str, Recipe]]:
    """The recipe of each study of a suite, after the name of its task.

    Args:
        suite: The suite.
        data: Where the images of all tasks without a path of their own are.
        model: As for :func:`override_recipe`.
        settings: As for :func:`override_recipe`; they come after those of the task.
        seeds: Studies a task, with the seeds from that of the recipe on.
        **changes: As for :meth:`Recipe.replace`, made at the end.

    Returns:
        All tasks with the first seed, then with the next one. The name of a recipe is that of its
        study.

    Raises:
        GLoRAError: If a recipe is wrong; the message names the task.

    Example:
        >>> made = suite_recipes(load_suite("vtab1k"), seeds=2)
        >>> len(made), made[0][0], made[-1][1].name
        (38, 'cifar', 'vtab1k-smallnorb_ele-seed1')
    """
    if seeds < 1:
        raise RecipeError(f"The seeds of a suite must be at least 1, got {seeds}.")
    made = []
    for task in suite.tasks:
        try:
            recipe = override_recipe(suite.recipe, data=task.path, model=model)
            if task.path is None and data is not None:
                recipe = recipe.replace(task={"path": str(Path(data).expanduser())})
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
        for seed in range(seeds)
        for task, recipe in made
    ]
