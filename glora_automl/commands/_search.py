"""From a recipe to a tested adapter: by one worker or many, stopped and resumed anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from torch import nn

from glora_automl.pipeline import (
    Proposer,
    Publish,
    Publisher,
    Run,
    TargetRaised,
    Watch,
    baseline_architectures,
    baseline_stage,
    final_test,
    find,
    join,
    keep_winner,
    load_backbone,
    load_supernet,
    select,
    train_baseline,
    train_preset,
)
from glora_automl.progress import Progress
from glora_automl.recipes import Recipe
from glora_automl.study import Row, Selection, get_setting
from glora_automl.workers import Work, run_trials

__all__ = ["SearchResult", "resume", "search"]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a finished study found.

    Attributes:
        study: The Optuna study.
        selection: Which architecture was chosen and why.
        rows: The searched adapter and the controls, with validation and test scores.
        budget: The most trainable parameters, as a plain count.
        model: The winner as a plain timm model: merged, at the backbone's speed.
    """

    study: optuna.Study
    selection: Selection
    rows: tuple[Row, ...]
    budget: int
    model: nn.Module


def search(
    recipe: Recipe,
    *,
    name: str | None = None,
    runs: str | Path = "runs",
    storage: str | BaseStorage | None = None,
    artifacts: str | None = None,
    device: str = "auto",
    warm_start: str | None = None,
    heartbeat: float = 10.0,
    patience: float = 300.0,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
    publish: Publish | None = None,
    arrays: tuple[np.ndarray, np.ndarray] | None = None,
) -> SearchResult:
    """Run a recipe to its end, go on where an earlier run of it stopped, or join those who run it.

    Backbone, supernet training, search, selection, controls, one test; or, where the recipe gives
    an architecture, backbone, the training of that, one test. Everything is in the study
    and its artifacts; what is in ``runs`` only saves time. A run that was killed at any point goes
    on to the same trials and figures as one that was not, on this machine or on another.

    Args:
        recipe: What to do.
        name: Name of the study; by default the recipe's.
        runs: Folder for files of this machine, and for database and artifacts by default.
        storage: URL of a database, path of a journal file, or any Optuna storage; by default
            SQLite in ``runs``.
        artifacts: Folder or ``s3://bucket/prefix`` for supernet and winner, which other machines
            need; by default the study's, or in ``runs`` for a new one.
        device: ``auto``, or a device that torch knows.
        warm_start: Name of an earlier study in the same storage, of the same search space; the
            first generation begins with its best architectures.
        heartbeat: Seconds between signs of life of a worker. Who was silent for three of them
            counts as dead. A study keeps the one that it was created with.
        patience: Seconds to wait for a database that does not answer any more.
        stop: Asked at safe points whether to stop.
        progress: Shows the stages; nothing by default.
        publish: Called with the study after each generation and at the end, by one worker at a
            time, to write what people look at; :func:`glora_automl.report.publish` on the command
            line.
        arrays: Images and labels of a recipe with ``task.source = "arrays"``, uint8 of shape
            ``(n, height, width)`` or ``(n, height, width, channels)``, and ``(n,)``. The study
            keeps their digest alone.

    Raises:
        GLoRAError: If anything is wrong with the input; see :mod:`glora_automl.errors`.
        Stopped: If ``stop`` asked for it. What was done is kept.
    """
    with join(
        recipe,
        name=name,
        runs=runs,
        storage=storage,
        artifacts=artifacts,
        device=device,
        warm_start=warm_start,
        heartbeat=heartbeat,
        patience=patience,
        stop=stop,
        progress=progress,
        publish=publish,
        arrays=arrays,
    ) as run:
        return _work(run)


def resume(
    name: str,
    *,
    storage: str | BaseStorage | None = None,
    artifacts: str | None = None,
    data: str | None = None,
    trials: int | None = None,
    runs: str | Path = "runs",
    device: str = "auto",
    patience: float = 300.0,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
    publish: Publish | None = None,
) -> SearchResult:
    """Go on with a study, on any machine, with nothing but its storage and its artifacts.

    Args:
        name: Name of the study.
        storage: As for :func:`search`.
        artifacts: Where this machine finds the study's artifacts, if not where the study says.
        data: Where this machine finds the images, if not where the study says.
        trials: Complete trials to reach from now on, if not the study's.
        runs: As for :func:`search`.
        device: As for :func:`search`.
        patience: As for :func:`search`.
        stop: As for :func:`search`.
        progress: As for :func:`search`.
        publish: As for :func:`search`.

    Raises:
        GLoRAError: If anything is wrong with the input; see :mod:`glora_automl.errors`.
        Stopped: If ``stop`` asked for it. What was done is kept.
    """
    storage, recipe = find(name, storage=storage, data=data, runs=runs, patience=patience)
    if trials is not None:
        recipe = recipe.replace(search={"n_trials": trials})
    return search(
        recipe,
        name=name,
        runs=runs,
        storage=storage,
        artifacts=artifacts,
        device=device,
        stop=stop,
        progress=progress,
        publish=publish,
    )


def _work(run: Run) -> SearchResult:
    """Take part in everything that is left to do, and wait for what others do."""
    run = load_backbone(run)
    publisher = Publisher(run)
    parts: dict[str, tuple[str, ...]] = {}
    if run.setup.recipe.architecture is not None:
        outcomes = run.stages.run({"selection": partial(train_preset, run)})
    else:
        outcomes = _search(run, publisher)
        parts["selection"] = ("supernet", "search", "selection")
        if aside := outcomes["selection"].get("aside"):
            parts["aside"] = parts["selection"]
        if run.setup.recipe.selection.rounds:
            parts["selection"] += tuple(adapter for adapter in outcomes if adapter != "selection")
        if aside:
            outcomes = {"selection": outcomes["selection"], "aside": aside, **outcomes}
    run.record("selection", outcomes["selection"]["selection"])
    rows = run.stages.run({"test": partial(final_test, run, outcomes, parts)})["test"]["rows"]
    run.record("result", rows)
    publisher.publish()
    return SearchResult(
        run.study,
        Selection.from_json(outcomes["selection"]["selection"]),
        tuple(Row.from_json(row) for row in rows),
        run.setup.budget,
        keep_winner(run, "winner", outcomes["selection"]),
    )


def _search(run: Run, publisher: Publisher) -> dict[str, dict[str, Any]]:
    """Supernet, search, selection and controls; returns what the last two came to."""
    recipe = run.setup.recipe
    selection: dict[str, Work] = {"selection": partial(select, run)}
    baselines: dict[str, Work] = {}
    if recipe.selection.baselines:
        for label, architecture in baseline_architectures(run.setup).items():
            stage = baseline_stage(label)
            baselines[stage] = partial(train_baseline, run, stage, label, architecture)
    process_group, supernet = run.setup.process_group, None
    if process_group.from_main(lambda: run.stages.outcome("selection") is None):
        supernet = load_supernet(run)
    # Settings may change as long as there is no supernet; from here on they stay.
    run.check_settings()
    propose = None if supernet is None else Proposer(run, supernet)
    while True:
        if propose is not None and run.stages.outcome("selection") is None:
            run_trials(
                run.study,
                propose,
                worker=run.worker,
                target=lambda: int(get_setting(run.study, "target")),
                progress=run.setup.progress,
                watch=Watch(run.study, run.setup),
                on_trials=publisher.after_trials,
                independent=propose.independent,
            )
        if recipe.selection.rounds:  # the winner has to beat them, so they come first
            run.stages.run(baselines)
        try:
            return run.stages.run(selection | baselines)
        except TargetRaised:
            continue
