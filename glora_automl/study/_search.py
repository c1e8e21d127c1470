"""From a recipe to a tested adapter: by one worker or many, stopped and resumed anywhere."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import timm
import torch
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from torch import nn

from glora_automl._files import file_lock, make_folder, remove_torn
from glora_automl._version import __version__
from glora_automl.errors import RecipeError
from glora_automl.progress import Progress
from glora_automl.storages import (
    Artifacts,
    PatientStorage,
    default_artifacts,
    default_url,
    open_artifacts,
    open_storage,
    quiet_optuna,
    storage_errors,
)
from glora_automl.study._arm import control_architectures, load_arm, train_control
from glora_automl.study._ledger import stage_seconds
from glora_automl.study._proposals import Proposer, create_sampler
from glora_automl.study._proposals import warm_start as find_initial
from glora_automl.study._publisher import Publisher
from glora_automl.study._recipe import NAME, Recipe
from glora_automl.study._result import Row, Selection
from glora_automl.study._run import Publish, Run
from glora_automl.study._selection import TargetRaised, select
from glora_automl.study._setup import CACHE, Setup, prepare
from glora_automl.study._stages import Claim, Stages
from glora_automl.study._study import (
    Settings,
    create_study,
    get_setting,
    is_ours,
    load_study,
    read_recipe,
    refuse_foreign,
    study_key,
)
from glora_automl.study._trials import run_trials
from glora_automl.study._weights import load_backbone, load_supernet
from glora_automl.study._worker import Worker
from glora_automl.supernet import evaluate, save_checkpoint

__all__ = ["SearchResult", "resume", "search"]

DOWNLOADS = "downloads"
"""Folder of downloaded artifacts in a runs folder; no study can have this name."""

_RESERVED = (CACHE, DOWNLOADS, "artifacts")


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a finished study found.

    Attributes:
        study: The Optuna study.
        selection: Which architecture was chosen and why.
        rows: The searched adapter and the controls, with validation and test scores.
        model: The winner as a plain timm model: merged, at the backbone's speed.
    """

    study: optuna.Study
    selection: Selection
    rows: tuple[Row, ...]
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
) -> SearchResult:
    """Run a recipe to its end, go on where an earlier run of it stopped, or join those who run it.

    Backbone, supernet training, search, selection, controls, one test. Everything is in the study
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

    Raises:
        GLoRAError: If anything is wrong with the input; see :mod:`glora_automl.errors`.
        Stopped: If ``stop`` asked for it. What was done is kept.
    """
    progress = progress or Progress()
    name = _checked_name(name or recipe.name)
    runs = Path(runs)
    if not heartbeat >= 1:
        raise RecipeError(
            f"The heartbeat must be at least 1 second, as databases count, got {heartbeat}."
        )
    setup = prepare(recipe, runs=runs, name=name, device=device, progress=progress)
    if storage is None:
        make_folder(runs)
    opened = (
        storage
        if isinstance(storage, BaseStorage)
        else open_storage(storage or default_url(runs), patience=patience)
    )
    if isinstance(opened, PatientStorage):
        opened.stop = stop
    with storage_errors(), quiet_optuna():
        refuse_foreign(opened, name)
        if is_ours(opened, name):  # before anybody is judged by it, or anything is written
            heartbeat = get_setting(load_study(opened, name), "heartbeat")
        files = _open_artifacts(opened, name, artifacts, runs)
    with (
        storage_errors(),
        quiet_optuna(),
        Worker(opened, heartbeat=heartbeat, stop=stop, progress=progress) as worker,
    ):
        setup = replace(setup, stop=worker.wants_stop)
        settings = _settings(setup, heartbeat, files.location)
        if warm_start is not None:
            initial = find_initial(opened, warm_start, setup)
            settings = replace(settings, warm_start=warm_start, initial=initial)
        stages = Stages(name, opened, worker, setup.folder, progress, settings.key, setup.device)
        study = _open_study(setup, settings, stages, opened, name)
        worker.heartbeat = get_setting(study, "heartbeat")
        study.sampler = create_sampler(setup, get_setting(study, "initial"))
        return _work(Run(study, setup, stages, files, worker, publish))


def resume(
    name: str,
    *,
    storage: str | BaseStorage | None = None,
    artifacts: str | None = None,
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
    if not isinstance(storage, BaseStorage):
        storage = open_storage(storage or default_url(Path(runs)), create=False, patience=patience)
    with storage_errors():
        recipe = read_recipe(load_study(storage, name))
    if trials is not None:
        recipe = recipe.replace(search={"trials": trials})
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


def _checked_name(name: str) -> str:
    """Refuse names that would reach out of the runs folder, or into its other folders."""
    if not re.fullmatch(NAME, name) or name in _RESERVED:
        raise RecipeError(
            f"The name of a study must be letters, digits, '.', '_' and '-', begin with a letter "
            f"or digit and be none of {', '.join(_RESERVED)}, got {name!r}; choose another with "
            "--name."
        )
    return name


def _open_artifacts(storage: BaseStorage, name: str, location: str | None, runs: Path) -> Artifacts:
    """The artifact store that was asked for, or the study's, or that of the runs folder."""
    known = is_ours(storage, name)
    if location is None and known:
        location = str(get_setting(load_study(storage, name), "artifacts"))
    return open_artifacts(
        location or default_artifacts(runs), cache=runs / DOWNLOADS, create=not known
    )


def _settings(setup: Setup, heartbeat: float, artifacts: str) -> Settings:
    wanted = setup.recipe.search.trials
    return Settings(
        recipe=setup.recipe,
        budget=setup.budget,
        target=min(wanted, setup.region.count(limit=wanted)),
        digests={"data": setup.task.digest(), "search space": setup.space.digest},
        versions={
            "glora_automl": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "optuna": optuna.__version__,
        },
        heartbeat=heartbeat,
        artifacts=artifacts,
        layers=setup.space.shapes,
    )


def _open_study(
    setup: Setup, settings: Settings, stages: Stages, storage: BaseStorage, name: str
) -> optuna.Study:
    """Create the study or check that it is this one."""

    def as_it_is() -> optuna.Study:
        study = load_study(storage, name)
        settings.check(study)
        return study

    def create_or_change() -> optuna.Study:
        """Alone: others may have created it, or may be about to change it."""
        if not is_ours(storage, name) or _is_blank(load_study(storage, name), stages):
            return create_study(storage, name, settings)
        study = as_it_is()
        settings.raise_target(
            study,
            lambda: (
                stages.outcome("selection") is not None
                or any(trial.user_attrs["stage"] == "selection" for trial in stages.running())
            ),
        )
        return study

    if is_ours(storage, name):
        study = load_study(storage, name)
        if read_recipe(study) == setup.recipe:
            return as_it_is()
    return stages.exclusively("settings", create_or_change)


def _is_blank(study: optuna.Study, stages: Stages) -> bool:
    """Whether nothing hangs on a study's settings: no trial, no supernet, nobody at work."""
    key = study_key(study)
    trained = any(
        trial.state == TrialState.COMPLETE
        and trial.user_attrs["stage"] == "supernet"
        and trial.user_attrs["key"] == key
        for trial in stages.study.get_trials(deepcopy=False)
    )
    busy = any(trial.user_attrs["stage"] != "settings" for trial in stages.running())
    return not (trained or busy or study.get_trials(deepcopy=False))


def _work(run: Run) -> SearchResult:
    """Take part in everything that is left to do, and wait for what others do."""
    recipe = run.setup.recipe
    run = load_backbone(run)
    works: dict[str, Callable[[Claim], dict[str, Any]]] = {"selection": partial(select, run)}
    if recipe.selection.controls:
        for label, architecture in control_architectures(run.setup).items():
            stage = f"control-{label.replace(' ', '-').replace('=', '')}"
            works[stage] = partial(train_control, run, stage, label, architecture)
    ranks, supernet = run.setup.ranks, None
    if ranks.from_main(lambda: run.stages.outcome("selection") is None):
        supernet = load_supernet(run)
    # Settings may change as long as there is no supernet; from here on they stay.
    run.check_settings()
    propose = None if supernet is None else Proposer(run, supernet)
    publisher = Publisher(run)
    while True:
        if propose is not None and run.stages.outcome("selection") is None:
            run_trials(
                run.study,
                propose,
                worker=run.worker,
                target=lambda: int(get_setting(run.study, "target")),
                progress=run.setup.progress,
                on_trials=publisher.after_trials,
            )
        try:
            arms = run.stages.run(works)
            break
        except TargetRaised:
            continue
    run.record("selection", arms["selection"]["selection"])
    rows = run.stages.run({"test": partial(_test, run, arms)})["test"]["rows"]
    run.record("result", rows)
    publisher.publish()
    return SearchResult(
        run.study,
        Selection.from_json(arms["selection"]["selection"]),
        tuple(Row.from_json(row) for row in rows),
        _winner(run, arms["selection"]),
    )


def _test(run: Run, arms: Mapping[str, dict[str, Any]], claim: Claim) -> dict[str, Any]:
    """Look at the test images, once for a study, with all arms at once."""
    spent = stage_seconds(run.study, run.stages.study)
    whole = round(sum(spent[stage] for stage in ("supernet", "search", "selection")), 2)
    models = {stage: load_arm(run, outcome) for stage, outcome in arms.items()}
    images, labels = run.setup.test()
    rows = []
    for stage, model in models.items():
        row = Row.from_json(arms[stage]["row"])
        if stage == "selection":
            row = replace(row, seconds=whole)
        if model is not None:
            row = replace(row, test=evaluate(model, images, labels))
        rows.append(row.to_json())
    return {"rows": rows}


def _winner(run: Run, outcome: dict[str, Any]) -> nn.Module:
    """The winner's model; its adapter is also put into the study's folder on this machine."""
    with _alone(run.setup.folder, "winner"):
        save_checkpoint(
            run.setup.folder / "winner.json",
            run.download(outcome),
            {"architecture": outcome["architecture"]},
        )
    model = load_arm(run, outcome)
    assert model is not None
    return model


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Write files of a name while no other process of this machine does."""
    make_folder(folder)
    with file_lock(folder / f".{name}.lock"):
        remove_torn(folder, f"{name}*")
        yield
