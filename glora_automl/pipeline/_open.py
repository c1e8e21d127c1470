"""Joining a study: found or created, checked, and opened for work on this machine."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import timm
import torch
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from glora_automl._files import make_folder
from glora_automl._version import __version__
from glora_automl.errors import RecipeError
from glora_automl.pipeline._context import CACHE, Setup, prepare
from glora_automl.pipeline._initial import initial_presets
from glora_automl.pipeline._initial import warm_start as find_initial
from glora_automl.pipeline._objective import create_sampler
from glora_automl.pipeline._run import Publish, Run
from glora_automl.progress import Progress
from glora_automl.recipes import NAME, Recipe, with_data
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
from glora_automl.study import (
    Settings,
    create_study,
    get_setting,
    is_ours,
    load_study,
    read_recipe,
    refuse_foreign,
    study_key,
)
from glora_automl.workers import Stages, Worker

__all__ = ["find", "join"]

DOWNLOADS = "downloads"
"""Folder of downloaded artifacts in a runs folder; no study can have this name."""

_RESERVED = (CACHE, DOWNLOADS, "artifacts")


def find(
    name: str,
    *,
    storage: str | BaseStorage | None = None,
    data: str | None = None,
    runs: str | Path = "runs",
    patience: float = 300.0,
) -> tuple[BaseStorage, Recipe]:
    """The storage of a study that exists, and its recipe.

    Args:
        name: Name of the study.
        storage: See :func:`glora_automl.search`, as for all that follows.
        data: Where this machine finds the images, if not where the study says.
        runs: Folder for files of this machine.
        patience: Seconds to wait for a database.

    Raises:
        StorageError: If the storage is not there.
        StudyError: If the study is not there or not ours.
    """
    if not isinstance(storage, BaseStorage):
        storage = open_storage(storage or default_url(Path(runs)), create=False, patience=patience)
    with storage_errors():
        recipe = read_recipe(load_study(storage, name))
    return storage, recipe if data is None else with_data(recipe, data)


@contextmanager
def join(
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
) -> Iterator[Run]:
    """Work on the study of a recipe, which is created if it is not there, for a block.

    Args:
        recipe: What to do.
        name: See :func:`glora_automl.search`, as for all that follows.
        runs: Folder for files of this machine.
        storage: Where the study is.
        artifacts: Where its files are.
        device: What to compute on.
        warm_start: An earlier study.
        heartbeat: Seconds between signs of life.
        patience: Seconds to wait for a database.
        stop: Asked at safe points whether to stop.
        progress: Shows the stages.
        publish: Writes what people look at into the study.
        arrays: Images and labels.

    Raises:
        GLoRAError: If anything is wrong with the input.
    """
    progress = progress or Progress()
    name = _checked_name(name or recipe.name)
    runs = Path(runs)
    if not heartbeat >= 1:
        raise RecipeError(
            f"The heartbeat must be at least 1 second, as databases count, got {heartbeat}."
        )
    setup = prepare(recipe, runs=runs, name=name, device=device, progress=progress, arrays=arrays)
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
        settings = replace(settings, initial=initial_presets(setup))
        if warm_start is not None:
            # Of what both halves of a generation could hold, what an earlier study found is first.
            initial = (*find_initial(opened, warm_start, setup), *settings.initial)
            settings = replace(settings, warm_start=warm_start, initial=initial)
        stages = Stages(name, opened, worker, setup.folder, progress, settings.key, setup.device)
        study = _open_study(setup, settings, stages, opened, name)
        stages.key = study_key(study)
        worker.heartbeat = get_setting(study, "heartbeat")
        study.sampler = create_sampler(setup, get_setting(study, "initial"))
        yield Run(study, setup, stages, files, worker, publish)


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
    wanted = setup.recipe.search.n_trials
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
