"""Open a study for work on this machine: find or create it, and check it."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import optuna
import timm
import torch
from optuna.trial import TrialState

from glora_automl._messages import short
from glora_automl._version import __version__
from glora_automl.errors import RecipeError, StorageError, StudyError
from glora_automl.pipeline._context import Context, load_images, prepare_model
from glora_automl.pipeline._initial import (
    initial_presets,
    pack_proposals,
    unpack_proposals,
    warm_start_proposals,
)
from glora_automl.pipeline._ranking import choose_backbone
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._sampler import create_sampler
from glora_automl.pipeline._tuning import tuning_study_name
from glora_automl.pipeline._workspace import RESERVED, Workspace
from glora_automl.recipes import NAME, Recipe, with_data
from glora_automl.storages import (
    Artifacts,
    full_location,
    portable_location,
    quiet_optuna,
    storage_errors,
)
from glora_automl.study import (
    Settings,
    Stage,
    attempt_counts,
    create_study,
    get_attribute,
    get_setting,
    is_glora_study,
    load_study,
    read_recipe,
    refuse_foreign,
    set_attribute,
    study_key,
)
from glora_automl.workers import Positions, Stages, Worker

__all__ = ["check_searched", "find_study", "open_run"]


def find_study(name: str, workspace: Workspace | None = None) -> tuple[Workspace, Recipe]:
    """Return the workspace with its storage opened, and the recipe of an existing study.

    Args:
        name: Name of the study.
        workspace: The environment.

    Raises:
        StorageError: If the storage does not exist.
        StudyError: If the study does not exist or belongs to another program.
    """
    workspace = (workspace or Workspace()).with_open_storage(create=False)
    with storage_errors():
        recipe = read_recipe(load_study(workspace.opened_storage, name))
    if isinstance(workspace.data, str):
        recipe = with_data(recipe, workspace.data)
    return workspace, recipe


def check_searched(name: str, recipe: Recipe) -> None:
    """Check that a study has a search, and so trials and a supernet.

    Args:
        name: Name of the study.
        recipe: Its recipe.

    Raises:
        StudyError: If the recipe gives an architecture.
    """
    if recipe.architecture is not None:
        raise StudyError(
            f"The study {name!r} must have a search, but its recipe gives an architecture. Choose "
            "another `name`."
        )


@contextmanager
def open_run(
    recipe: Recipe,
    workspace: Workspace | None = None,
    *,
    name: str | None = None,
    warm_start: str | None = None,
    arrays: tuple[np.ndarray, ...] | None = None,
    n_trials: int | None = None,
    deadline: float | None = None,
) -> Iterator[Run]:
    """Work on the study of a recipe inside a block; the study is created if it does not exist.

    Args:
        recipe: The recipe.
        workspace: The environment.
        name: Name of the study; by default the recipe's.
        warm_start: Name of an earlier study, whose best architectures the search begins with.
        arrays: Images and labels of a task with ``source = "arrays"``; None takes those of the
            workspace.
        n_trials: Complete trials to reach, also fewer than the study was to have.
        deadline: See :class:`Run`.

    Raises:
        GLoRAError: If the input is invalid.
    """
    workspace = workspace or Workspace()
    if n_trials is not None:
        recipe = recipe.replace(search={"n_trials": n_trials})
    name = _checked_name(recipe.name if name is None else name)
    if arrays is None and isinstance(workspace.data, tuple):
        arrays = workspace.data
    recipe, task = load_images(recipe, workspace, arrays)
    # Wrong input leaves no file: one model is checked before the storage is opened.
    context = None if recipe.backbone.candidates else prepare_model(recipe, task, workspace, name)
    workspace = workspace.with_open_storage()
    storage, heartbeat = workspace.opened_storage, workspace.heartbeat
    with storage_errors(), quiet_optuna():
        refuse_foreign(storage, name)
        place = None
        if is_glora_study(storage, name):  # its heartbeat counts for all of its workers
            kept = load_study(storage, name)
            heartbeat = get_setting(kept, "heartbeat")
            place = full_location(get_setting(kept, "artifacts"), storage)
        artifacts = workspace.open_artifacts(place)
    with (
        storage_errors(),
        quiet_optuna(),
        Worker(
            storage, heartbeat=heartbeat, stop=workspace.stop, progress=workspace.progress
        ) as worker,
    ):
        ranking = None
        if context is None:
            chosen, ranking = choose_backbone(recipe, task, workspace, name, worker)
            context = prepare_model(chosen, task, workspace, name)
        # Read late: a worker with another device may have created the study meanwhile.
        known = read_recipe(load_study(storage, name)) if is_glora_study(storage, name) else None
        context = replace(context, stop=worker.wants_stop).with_precision(known)
        recorded = portable_location(artifacts.location, storage)
        settings = _settings(context, heartbeat, recorded)
        initial = initial_presets(context)
        if warm_start is not None:
            # Architectures of the earlier study come before presets.
            initial = (*warm_start_proposals(storage, warm_start, context), *initial)
            initial = initial[: context.recipe.search.population_size]
        packed = pack_proposals(context.space, initial)
        settings = replace(settings, warm_start=warm_start, initial=packed, ranking=ranking)
        stages = Stages(name, storage, worker, context.folder, context.progress, "", context.device)
        store = _Store(artifacts, workspace)
        is_chosen = n_trials is not None
        study, artifacts = _open_study(context, settings, stages, store, name, is_chosen)
        set_attribute(study, "data", context.data.to_json())
        stages.key = study_key(study)
        stages.counts = partial(attempt_counts, study)
        worker.heartbeat = get_setting(study, "heartbeat")
        first = unpack_proposals(context.space, get_setting(study, "initial"))
        study.sampler = create_sampler(context, first)
        run = Run(study, context, stages, artifacts, worker, workspace, deadline=deadline)
        stages.check = run.check_settings
        yield run


def _checked_name(name: str) -> str:
    """Refuse names that leave the runs folder or reach into its other folders."""
    if not re.fullmatch(NAME, name) or name in RESERVED:
        raise RecipeError(
            "name must be up to 100 letters, digits, '.', '_' and '-', begin with a letter or "
            f"digit, and be none of {', '.join(RESERVED)}, got {short(name)}. Choose another "
            "`name`."
        )
    return name


def _settings(context: Context, heartbeat: float, artifacts: str) -> Settings:
    n_trials = context.recipe.search.n_trials
    return Settings(
        recipe=context.recipe,
        budget=context.budget,
        target=min(n_trials, context.region.count(limit=n_trials)),
        digests={"data": context.task.digest(), "search space": context.space.digest},
        versions={
            "glora_automl": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "optuna": optuna.__version__,
        },
        heartbeat=heartbeat,
        artifacts=artifacts,
        layers=context.space.shapes,
    )


class _Store(NamedTuple):
    """The artifact store that a worker has opened for a study.

    Attributes:
        artifacts: The store.
        workspace: The environment, with its storage opened.
    """

    artifacts: Artifacts
    workspace: Workspace

    def of(self, study: optuna.Study) -> Artifacts:
        """Return the store of a study, which another worker may have created meanwhile.

        Raises:
            StorageError: If the opened store is neither the one that the study records nor a copy.
        """
        place = full_location(get_setting(study, "artifacts"), self.workspace.opened_storage)
        found = self.artifacts
        if self.workspace.artifacts is None and place != found.location:
            found = self.workspace.open_artifacts(place)
        if found.has_mark(study_key(study)):
            return found
        rule = f"`artifacts` must be the store of the study {study.study_name!r}"
        if place == found.location:  # of another machine or container
            raise StorageError(
                f"{rule}, got {short(place, 80)} of this machine, which has none of its files. "
                "Set `artifacts` to where this machine has that store."
            )
        raise StorageError(
            f"{rule}, {short(place)}, got {short(found.location)}. Leave out `artifacts`, or name "
            "the place to which that store was moved."
        )


def _open_study(
    context: Context,
    settings: Settings,
    stages: Stages,
    store: _Store,
    name: str,
    chosen: bool,
) -> tuple[optuna.Study, Artifacts]:
    """Create the study, or check that it has the same settings; return its store, too.

    Args:
        context: The recipe on this machine.
        settings: The settings.
        stages: The stages of the study.
        store: The artifact store.
        name: Name of the study.
        chosen: Whether the number of trials is chosen for this study.
    """
    storage = store.workspace.opened_storage

    def checked() -> tuple[optuna.Study, Artifacts]:
        study = load_study(storage, name)
        settings.check(study)
        artifacts = store.of(study)
        stages.key = study_key(study)
        return study, artifacts

    def create_or_change() -> tuple[optuna.Study, Artifacts]:
        """Called alone: another worker may have created the study, or may be about to change it."""
        if not is_glora_study(storage, name) or _is_blank(load_study(storage, name), stages):
            study = create_study(storage, name, settings, store.artifacts.mark)
            return study, store.artifacts
        study, artifacts = checked()
        stages.counts = partial(attempt_counts, study)
        settings.change_target(
            study,
            stages.study,
            lambda: _is_closed(stages),
            n_enqueued=_n_enqueued(study),
            chosen=chosen,
        )
        return study, artifacts

    if is_glora_study(storage, name):
        study = load_study(storage, name)
        has_target = not chosen or get_setting(study, "target") == settings.target
        if has_target and read_recipe(study) == context.recipe and not _n_enqueued(study):
            try:
                return checked()
            except StorageError:  # a wrong store, which a study without results leaves behind
                if not _is_blank(study, stages):
                    raise
    return stages.exclusively(Stage.SETTINGS, create_or_change)


def _is_closed(stages: Stages) -> bool:
    """Return whether the selection runs or is done."""
    running = {trial.user_attrs["stage"] for trial in stages.running()}
    return stages.is_done(Stage.SELECTION) or Stage.SELECTION in running


def _n_enqueued(study: optuna.Study) -> int:
    """Return the number of trials that were enqueued after a study was finished."""
    if get_attribute(study, "result") is None:
        return 0
    found = Positions.read(study, int(get_setting(study, "target")))
    return len(
        {
            found.positions[trial.number]
            for trial in found.trials
            if trial.state == TrialState.WAITING and found.positions[trial.number] >= found.target
        }
    )


def _is_blank(study: optuna.Study, stages: Stages) -> bool:
    """Return whether a study has no trial, no supernet and no worker."""
    key = study_key(study)
    trained = any(
        trial.state == TrialState.COMPLETE
        and trial.user_attrs["stage"] == Stage.SUPERNET
        and trial.user_attrs["key"] == key
        for trial in stages.study.get_trials(deepcopy=False)
    )
    busy = any(trial.user_attrs["stage"] != Stage.SETTINGS for trial in stages.running())
    return not (trained or busy or _is_tuned(study, key) or study.get_trials(deepcopy=False))


def _is_tuned(study: optuna.Study, key: str) -> bool:
    """Return whether the tuning of a study has a trial that runs or is done."""
    name = tuning_study_name(study.study_name, key)
    if name not in optuna.get_all_study_names(study._storage):
        return False
    states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    tuning = optuna.load_study(study_name=name, storage=study._storage)
    return bool(tuning.get_trials(deepcopy=False, states=states))
