"""Verb ``suite``: one recipe on many tasks, and the table of their studies."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import optuna
from optuna.storages import BaseStorage

from glora_automl.commands._search import check_timeout, search
from glora_automl.errors import GLoRAError
from glora_automl.pipeline import Workspace
from glora_automl.recipes import Recipe, Suite, suite_recipes
from glora_automl.storages import quiet_optuna, storage_errors
from glora_automl.study import (
    DataSummary,
    Row,
    get_attribute,
    is_glora_study,
    load_study,
    read_data,
    read_recipe,
    summarize,
)

__all__ = ["SuiteResult", "run_suite", "suite_result"]


@dataclass(frozen=True)
class SuiteResult:
    """Test accuracies of the finished studies of a suite.

    Attributes:
        suite: The suite.
        n_seeds: Studies per task.
        rows: Result rows of the finished studies by task.
        notes: What limits the meaning of a task's figures, where anything does.
        majorities: Accuracies of the largest training class by task, one per finished study.
    """

    suite: Suite
    n_seeds: int
    rows: Mapping[str, tuple[tuple[Row, ...], ...]]
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    majorities: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def methods(self) -> list[str]:
        """Return the tested methods in the order of their tables, then the published ones."""
        found = {
            method_name(row): None
            for studies in self.rows.values()
            for rows in studies
            for row in rows
        }
        return [*found, *(entry.method for entry in self.suite.published)]

    def accuracies(self, task: str, method: str, domain: str | None = None) -> list[float]:
        """Return test accuracies, one per study, or the published one.

        Args:
            task: Name of a task.
            method: One of :meth:`methods`.
            domain: Name of a domain. By default a task with domains has their mean.
        """
        for entry in self.suite.published:
            if entry.method == method:
                known = task in entry.accuracies and domain is None
                return [entry.accuracies[task] / 100] if known else []
        found = []
        for rows in self.rows.get(task, ()):
            for row in rows:
                if method_name(row) != method or row.test is None:
                    continue
                if domain is not None:
                    found.append(row.domains[domain].accuracy)
                else:
                    mean = row.domain_mean
                    found.append(row.test.accuracy if mean is None else mean)
        return found

    def domains(self, task: str) -> list[str]:
        """Return the names of a task's domains."""
        rows = [row for rows in self.rows.get(task, ()) for row in rows]
        return list(dict.fromkeys(name for row in rows for name in row.domains))

    def groups(self) -> dict[str, list[str]]:
        """Return the tasks of each group, in order."""
        groups: dict[str, list[str]] = {}
        for task in self.suite.tasks:
            groups.setdefault(task.group, []).append(task.name)
        return groups

    def group_mean(self, group: str, method: str) -> float | None:
        """Return the mean over the tasks of a group; None if a task has no figure yet."""
        means = [self.accuracies(task, method) for task in self.groups()[group]]
        return fmean(map(fmean, means)) if all(means) else None

    def mean(self, method: str) -> float | None:
        """Return the mean over the groups; None if a task has no figure yet."""
        means = [self.group_mean(group, method) for group in self.groups()]
        known = [mean for mean in means if mean is not None]
        return fmean(known) if len(known) == len(means) else None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "suite": self.suite.model_dump(mode="json"),
            "n_seeds": self.n_seeds,
            "rows": {
                task: [[row.to_json() for row in rows] for rows in studies]
                for task, studies in self.rows.items()
            },
            "notes": {task: list(notes) for task, notes in self.notes.items()},
            "majorities": {task: list(found) for task, found in self.majorities.items()},
            "means": {
                method: {
                    **{group: self.group_mean(group, method) for group in self.groups() if group},
                    "mean": self.mean(method),
                }
                for method in self.methods()
            },
        }


def method_name(row: Row) -> str:
    """Return the method of a row; the rank of LoRA depends on task, model and budget.

    Example:
        >>> method_name(Row("LoRA r=2")), method_name(Row("linear probe"))
        ('LoRA', 'linear probe')
    """
    return row.name.partition(" r=")[0]


def run_suite(
    suite: Suite,
    *,
    model: str | Sequence[str] | None = None,
    settings: Sequence[str] = (),
    n_seeds: int = 1,
    changes: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    workspace: Workspace | None = None,
) -> SuiteResult:
    """Finish all studies of a suite, or continue where an earlier run stopped.

    Any number of workers may run a suite: each first takes free studies, then helps with others.

    Args:
        suite: The suite.
        model: As for :func:`suite_recipes`.
        settings: As for :func:`suite_recipes`.
        n_seeds: As for :func:`suite_recipes`.
        changes: As for :func:`suite_recipes`.
        timeout: Seconds from now, which the studies that are not finished share: each one gets an
            equal part of what is left when it begins, as :func:`search` takes it.
        workspace: The environment; ``data`` is the place of the suite's images.

    Raises:
        GLoRAError: If the input is invalid.
        Stopped: If the workspace asked to stop.
    """
    check_timeout(timeout)
    deadline = None if timeout is None else time.monotonic() + timeout
    workspace = workspace or Workspace()
    wanted = suite_recipes(
        suite,
        data=workspace.data if isinstance(workspace.data, str) else None,
        model=model,
        settings=settings,
        n_seeds=n_seeds,
        **(changes or {}),
    )
    workspace = workspace.with_open_storage()
    storage = workspace.opened_storage
    waiting, busy = list(wanted), set[str]()
    while waiting:
        free = [study for study in waiting if study[1].name not in busy]
        task, recipe = (free or waiting)[0]
        if free and _is_busy(storage, recipe.name):
            busy.add(recipe.name)
            continue
        waiting.remove((task, recipe))
        if _is_finished(storage, recipe):
            continue
        number = len(wanted) - len(waiting)
        workspace.progress.log(f"Study {recipe.name}: {number} of {len(wanted)}")
        part = None
        if deadline is not None:
            n_left = 1 + sum(not _is_finished(storage, recipe) for _, recipe in waiting)
            part = max(1e-3, (deadline - time.monotonic()) / n_left)
        try:
            search(recipe, timeout=part, workspace=workspace)
        except GLoRAError as error:
            raise type(error)(f"task {task}: {error}") from None
    return suite_result(suite, wanted, n_seeds, storage)


def suite_result(
    suite: Suite, recipes: Sequence[tuple[str, Recipe]], n_seeds: int, storage: BaseStorage
) -> SuiteResult:
    """Return the results of a suite's finished studies."""
    rows: dict[str, list[tuple[Row, ...]]] = {}
    notes: dict[str, tuple[str, ...]] = {}
    majorities: dict[str, list[float]] = {}
    for task, recipe in recipes:
        found = _rows(storage, recipe.name)
        rows.setdefault(task, []).extend([] if found is None else [found])
        data = DataSummary() if found is None else _data(storage, recipe.name)
        if limits := data.notes():
            notes[task] = tuple(dict.fromkeys((*notes.get(task, ()), *limits)))
        if data.majority is not None:
            majorities.setdefault(task, []).append(data.majority.accuracy)
    studies = {task: tuple(found) for task, found in rows.items()}
    accuracies = {task: tuple(found) for task, found in majorities.items()}
    return SuiteResult(suite, n_seeds, studies, notes, accuracies)


def _rows(storage: BaseStorage, name: str) -> tuple[Row, ...] | None:
    """Return the result of a study, if it is finished."""
    with storage_errors(), quiet_optuna():
        if not is_glora_study(storage, name):
            return None
        study = optuna.load_study(study_name=name, storage=storage)
        result = get_attribute(study, "result")
        return None if result is None else tuple(Row.from_json(row) for row in result)


def _data(storage: BaseStorage, name: str) -> DataSummary:
    """Return what a study keeps about its images."""
    with storage_errors(), quiet_optuna():
        return read_data(load_study(storage, name))


def _is_finished(storage: BaseStorage, recipe: Recipe) -> bool:
    """Return whether the study of exactly this recipe is finished."""
    if _rows(storage, recipe.name) is None:
        return False
    with storage_errors(), quiet_optuna():
        kept = read_recipe(load_study(storage, recipe.name))
    if recipe.training.precision == "auto":  # the study keeps what its first worker's device suits
        recipe = recipe.replace(training={"precision": kept.training.precision})
    return kept.identity() == recipe.identity()


def _is_busy(storage: BaseStorage, name: str) -> bool:
    """Return whether a worker works on a study that is not finished."""
    with storage_errors(), quiet_optuna():
        if not is_glora_study(storage, name):
            return False
        summary = summarize(optuna.load_study(study_name=name, storage=storage))
    at_work = any(worker["at"] is not None for worker in summary["workers"].values())
    return at_work and summary["result"] is None
