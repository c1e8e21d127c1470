"""From a recipe to a tested adapter, through a study that can be interrupted anywhere."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import timm
import torch
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage
from torch import nn

from glora_automl._files import make_folder, remove_torn
from glora_automl._version import __version__
from glora_automl.errors import RecipeError, StorageError, StudyError
from glora_automl.progress import Progress
from glora_automl.samplers import EvolutionSampler
from glora_automl.storages import default_url, open_storage, storage_errors
from glora_automl.study._arm import control_architectures, train_control
from glora_automl.study._recipe import NAME, Recipe
from glora_automl.study._result import Row, Selection
from glora_automl.study._selection import load_winner, select
from glora_automl.study._setup import CACHE, Setup, prepare
from glora_automl.study._study import (
    create_or_load_study,
    get_attribute,
    requeue_interrupted,
    set_attribute,
)
from glora_automl.study._trials import run_trials
from glora_automl.supernet import Supernet, tensor_digest, train

__all__ = ["SearchResult", "search"]


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
    storage: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> SearchResult:
    """Run a recipe to its end, or go on where an earlier run of it stopped.

    Backbone, supernet training, search, selection, controls, one test. Checkpoints are in
    ``runs/<name>/``; everything else is in the study. A run that was killed at any point goes on
    to the same trials and figures as one that was not.

    Args:
        recipe: What to do.
        name: Name of the study; by default the recipe's.
        runs: Folder for the database, checkpoints and pretrained backbones.
        storage: URL of the database; by default SQLite in ``runs``.
        device: ``auto``, or a device that torch knows.
        progress: Shows the stages; nothing by default.

    Raises:
        GLoRAError: If anything is wrong with the input; see :mod:`glora_automl.errors`.
    """
    progress = progress or Progress()
    name = _checked_name(name or recipe.name)
    runs = Path(runs)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    setup = prepare(recipe, runs=runs, name=name, device=device, progress=progress)
    opened = _open(storage, runs)
    with _only_worker(setup.folder, name), storage_errors():
        study = _open_study(setup, opened, name)
        if get_attribute(study, "result") is not None:
            return _finished(study, setup)
        if queued := requeue_interrupted(study):
            progress.say(f"Going on: {queued} interrupted trial(s) queued again.")
        supernet = _train_supernet(study, setup)
        with _timed(study, "search"):
            run_trials(study, setup, supernet, opened)
        with _timed(study, "selection"):
            selection, winner = select(study, setup, supernet)
        set_attribute(study, "selection", selection.to_json())
        spent = get_attribute(study, "seconds")
        whole = round(sum(spent[stage] for stage in ("supernet", "search", "selection")), 2)
        arms = [winner._replace(row=replace(winner.row, seconds=whole))]
        if recipe.selection.controls:
            with _timed(study, "controls"):
                controls = control_architectures(setup).items()
                arms += [train_control(setup, label, arch) for label, arch in controls]
        with _timed(study, "test"):
            images, labels = setup.test()
            rows = tuple(arm.tested(images, labels) for arm in arms)
        set_attribute(study, "result", [row.to_json() for row in rows])
    return SearchResult(study, selection, rows, supernet.model)


def _checked_name(name: str) -> str:
    """Refuse names that would reach out of the runs folder, or into its cache."""
    if not re.fullmatch(NAME, name) or name == CACHE:
        raise RecipeError(
            f"The name of a study must be letters, digits, '.', '_' and '-', begin with a letter "
            f"or digit and not be {CACHE!r}, got {name!r}; choose another with --name."
        )
    return name


def _finished(study: optuna.Study, setup: Setup) -> SearchResult:
    """What a finished study found: read, not done over."""
    selection = Selection.from_json(get_attribute(study, "selection"))
    rows = tuple(Row.from_json(row) for row in get_attribute(study, "result"))
    return SearchResult(study, selection, rows, load_winner(setup, selection))


@contextmanager
def _only_worker(folder: Path, name: str) -> Iterator[None]:
    """Hold the folder: the kernel lets go of it when a worker dies, however it dies."""
    make_folder(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise StudyError(
            f"The study {name!r} must have one worker in a folder, but another process is "
            f"running it in {str(folder)!r}; wait for it or stop it."
        ) from None
    except OSError as error:
        raise StorageError(
            f"The folder {str(folder)!r} must be writable: {error.strerror}; choose another with "
            "--runs."
        ) from None
    try:
        remove_torn(folder)
        yield
    finally:
        lock.release()


def _open(url: str | None, runs: Path) -> BaseStorage:
    """The storage of a URL, or the runs folder's own, for which the folder is made."""
    if url is None:
        make_folder(runs)
    return open_storage(url or default_url(runs))


def _open_study(setup: Setup, storage: BaseStorage, name: str) -> optuna.Study:
    recipe = setup.recipe
    sampler = EvolutionSampler(
        population=recipe.search.population,
        top=recipe.search.top,
        mutation_share=recipe.search.mutation_share,
        mutation_probability=recipe.search.mutation_probability,
        search_space=setup.space.distributions(),
        region=setup.region,
        seed=recipe.seed,
    )
    return create_or_load_study(
        storage,
        name,
        recipe,
        budget=setup.budget,
        digests={"data": setup.task.digest(), "search space": setup.space.digest},
        versions={
            "glora_automl": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "optuna": optuna.__version__,
        },
        sampler=sampler,
    )


def _train_supernet(study: optuna.Study, setup: Setup) -> Supernet:
    recipe = setup.recipe
    with _timed(study, "backbone"):
        backbone = setup.backbone()
        _same_digest(study, "backbone", setup.identity["backbone"])
    supernet = Supernet(backbone, setup.space.layer_choices(), seed=recipe.seed)
    budgeted = recipe.training.paths == "budget"
    draw = setup.region.draw if budgeted else setup.region.draw_uniform

    def next_path(rng: np.random.Generator) -> None:
        supernet.activate(setup.space.architecture(draw(rng)))

    epochs = recipe.training.epochs
    with setup.progress.epochs("Train supernet", epochs) as on_epoch:
        result = train(
            supernet.model,
            supernet.trainable(),
            *setup.fit,
            recipe.training,
            seed=recipe.seed,
            stage="supernet",
            before_step=next_path,
            identity=setup.identity,
            checkpoint=setup.folder / "supernet.json",
            on_epoch=on_epoch,
        )
    _set_seconds(study, "supernet", result.seconds)
    _same_digest(study, "supernet", tensor_digest(supernet.state_dict()))
    return supernet


def _same_digest(study: optuna.Study, what: str, digest: str) -> None:
    """Note a digest at the first time and insist on it later: trials are of these weights."""
    digests: dict[str, Any] = get_attribute(study, "digests")
    if digests.setdefault(what, digest) != digest:
        raise StudyError(
            f"The {what} of the study {study.study_name!r} must have the digest "
            f"{digests[what][:16]}..., here it is {digest[:16]}...; its trials were scored with "
            "other weights. Restore the checkpoints, or start another study with --name."
        )
    set_attribute(study, "digests", digests)


@contextmanager
def _timed(study: optuna.Study, stage: str) -> Iterator[None]:
    """Add to the seconds that the study has spent in a stage, however the stage ends."""
    begin = time.monotonic()
    try:
        yield
    finally:
        earlier = (get_attribute(study, "seconds") or {}).get(stage, 0.0)
        _set_seconds(study, stage, earlier + time.monotonic() - begin)


def _set_seconds(study: optuna.Study, stage: str, seconds: float) -> None:
    kept: dict[str, float] = get_attribute(study, "seconds") or {}
    set_attribute(study, "seconds", {**kept, stage: round(seconds, 2)})
