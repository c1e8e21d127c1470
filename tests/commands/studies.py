"""Studies in a workspace, and their artifacts in a folder."""

import shutil
from pathlib import Path

import optuna

from glora_automl.pipeline import Workspace
from glora_automl.storages import full_location
from glora_automl.study import get_attribute, get_setting

N_TRAIN, N_VALIDATION, N_TEST = 24, 60, 458
"""Images of the tiny recipe."""

N_LABELLED = N_TRAIN + N_VALIDATION


def trained_images(recipe, ratio=1.0, n_images=N_TRAIN):
    """Return the images of a training's steps.

    On other images it has whole epochs with about as many steps as on the training images.
    """
    return n_images * round(recipe.epochs(ratio) * N_TRAIN / n_images)


def subnet_images(recipe, n_candidates=1):
    """Return the images of a subnet: supernet, candidates from inherited weights, refit."""
    selection = recipe.selection
    found = trained_images(recipe, recipe.supernet.epochs_ratio)
    found += n_candidates * trained_images(recipe, selection.epochs_ratio)
    if selection.refit:
        found += trained_images(recipe, selection.refit_epochs_ratio, N_LABELLED)
    return found


def baseline_images(recipe):
    """Return the images of a stand-alone adapter: validated, then trained again on all labels."""
    again = trained_images(recipe, 1.0, N_LABELLED) if recipe.selection.refit else 0
    return trained_images(recipe) + again


def load(workspace, name="tiny"):
    """Return an Optuna study of a workspace with the default storage."""
    return optuna.load_study(study_name=name, storage=f"sqlite:///{workspace.runs}/studies.db")


def copy_runs(runs, folder):
    """Return a workspace with a copy of the studies of a runs folder."""
    shutil.copytree(runs, folder / "runs")
    return Workspace(runs=folder / "runs")


def artifact_path(study, what):
    """Return the file of the study's ``supernet`` or ``backbone``."""
    folder = full_location(get_setting(study, "artifacts"), study._storage)
    return Path(folder) / get_attribute(study, what)["artifact"]["id"]
