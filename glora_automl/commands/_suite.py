"""Running a suite, and the table of its studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.storages import BaseStorage

from glora_automl._files import make_folder
from glora_automl.commands._search import search
from glora_automl.errors import GLoRAError
from glora_automl.pipeline import Publish
from glora_automl.progress import Progress
from glora_automl.recipes import Recipe, Suite, suite_recipes
from glora_automl.storages import default_url, open_storage, quiet_optuna, storage_errors
from glora_automl.study import (
    CONTROLS_ASIDE,
    Row,
    get_attribute,
    is_ours,
    load_study,
    read_recipe,
    summarize,
)

__all__ = ["SuiteResult", "run_suite", "suite_result"]


@dataclass(frozen=True)
class SuiteResult:
    """Test accuracies of a suite, as far as its studies are finished.

    Attributes:
        suite: The suite.
        seeds: How many studies a task has.
        rows: For each task the result rows of its finished studies.
    """

    suite: Suite
    seeds: int
    rows: Mapping[str, tuple[tuple[Row, ...], ...]]

    def methods(self) -> list[str]:
        """The adapters that were tested in all studies alike, in the order of their tables.

        What others have published comes after them.
        """
        found = {
            method_name(row): None
            for studies in self.rows.values()
            for rows in studies
            for row in rows
            if row.name != CONTROLS_ASIDE
        }
        return [*found, *(entry.method for entry in self.suite.published)]

    def accuracies(self, task: str, method: str, domain: str | None = None) -> list[float]:
        """Test accuracies, one for each study that has one, or the one that was published.

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
        """Names of the domains that a task was tested on."""
        rows = [row for rows in self.rows.get(task, ()) for row in rows]
        return list(dict.fromkeys(name for row in rows for name in row.domains))

    def groups(self) -> dict[str, list[str]]:
        """Names of the tasks of each group, in order."""
        groups: dict[str, list[str]] = {}
        for task in self.suite.tasks:
            groups.setdefault(task.group, []).append(task.name)
        return groups

    def group_mean(self, group: str, method: str) -> float | None:
        """Mean over the tasks of a group; None as long as one has no figure."""
        means = [self.accuracies(task, method) for task in self.groups()[group]]
        return fmean(map(fmean, means)) if all(means) else None

    def mean(self, method: str) -> float | None:
        """Mean over the groups; None as long as a task has no figure."""
        means = [self.group_mean(group, method) for group in self.groups()]
        known = [mean for mean in means if mean is not None]
        return fmean(known) if len(known) == len(means) else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "suite": self.suite.model_dump(mode="json"),
            "seeds": self.seeds,
            "rows": {
                task: [[row.to_json() for row in rows] for rows in studies]
                for task, studies in self.rows.items()
            },
            "means": {
                method: {
                    **{group: self.group_mean(group, method) for group in self.groups() if group},
                    "mean": self.mean(method),
                }
                for method in self.methods()
            },
        }


def method_name(row: Row) -> str:
    """The name of an arm; LoRA's rank is what fits a task's model and budget.

    Example:
        >>> method_name(Row("LoRA r=2")), method_name(Row("linear probe"))
        ('LoRA', 'linear probe')
    """
    return row.name.partition(" r=")[0]


def run_suite(
    suite: Suite,
    *,
    data: str | None = None,
    model: str | None = None,
    settings: Sequence[str] = (),
    seeds: int = 1,
    changes: Mapping[str, Any] | None = None,
    runs: str | Path = "runs",
    storage: str | BaseStorage | None = None,
    artifacts: str | None = None,
    device: str = "auto",
    patience: float = 300.0,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
    publish: Publish | None = None,
) -> SuiteResult:
    """Bring all studies of a suite to their end; go on where an earlier run stopped.

    Any number of workers may do so at the same time: each first takes studies that nobody is at,
    then helps with the others.

    Args:
        suite: The suite.
        data: As for :func:`suite_recipes`.
        model: As for :func:`suite_recipes`.
        settings: As for :func:`suite_recipes`.
        seeds: As for :func:`suite_recipes`.
        changes: As for :func:`suite_recipes`.
        runs: As for :func:`glora_automl.search`.
        storage: As for :func:`glora_automl.search`.
        artifacts: As for :func:`glora_automl.search`.
        device: As for :func:`glora_automl.search`.
        patience: As for :func:`glora_automl.search`.
        stop: As for :func:`glora_automl.search`.
        progress: As for :func:`glora_automl.search`.
        publish: As for :func:`glora_automl.search`.

    Raises:
        GLoRAError: If anything is wrong with the input.
        Stopped: If ``stop`` asked for it.
    """
    progress = progress or Progress()
    wanted = suite_recipes(
        suite, data=data, model=model, settings=settings, seeds=seeds, **(changes or {})
    )
    if not isinstance(storage, BaseStorage):
        if storage is None:
            make_folder(Path(runs))
        storage = open_storage(storage or default_url(Path(runs)), patience=patience)
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
        progress.log(f"Study {recipe.name}: {len(wanted) - len(waiting)} of {len(wanted)}")
        try:
            search(
                recipe,
                runs=runs,
                storage=storage,
                artifacts=artifacts,
                device=device,
                stop=stop,
                progress=progress,
                publish=publish,
            )
        except GLoRAError as error:
            raise type(error)(f"task {task}: {error}") from None
    return suite_result(suite, wanted, seeds, storage)


def suite_result(
    suite: Suite, recipes: Sequence[tuple[str, Recipe]], seeds: int, storage: BaseStorage
) -> SuiteResult:
    """What the finished studies of a suite have found."""
    rows: dict[str, list[tuple[Row, ...]]] = {}
    for task, recipe in recipes:
        found = _rows(storage, recipe.name)
        rows.setdefault(task, []).extend([] if found is None else [found])
    return SuiteResult(suite, seeds, {task: tuple(studies) for task, studies in rows.items()})


def _rows(storage: BaseStorage, name: str) -> tuple[Row, ...] | None:
    """The result of a study, if it is finished."""
    with storage_errors(), quiet_optuna():
        if not is_ours(storage, name):
            return None
        study = optuna.load_study(study_name=name, storage=storage)
        result = get_attribute(study, "result")
        return None if result is None else tuple(Row.from_json(row) for row in result)


def _is_finished(storage: BaseStorage, recipe: Recipe) -> bool:
    """Whether the study of exactly this recipe is finished; of another one, search tells."""
    if _rows(storage, recipe.name) is None:
        return False
    with storage_errors(), quiet_optuna():
        kept = read_recipe(load_study(storage, recipe.name))
    return kept.identity() == recipe.identity()


def _is_busy(storage: BaseStorage, name: str) -> bool:
    """Whether somebody seems to be at work on a study that is not finished."""
    with storage_errors(), quiet_optuna():
        if not is_ours(storage, name):
            return False
        summary = summarize(optuna.load_study(study_name=name, storage=storage))
    at_work = any(worker["at"] is not None for worker in summary["workers"].values())
    return at_work and summary["result"] is None
