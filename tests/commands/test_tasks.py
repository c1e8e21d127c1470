"""Studies on images of all kinds, from the recipe to the result."""

import io
import shutil

import numpy as np
import pytest
from rich.console import Console

from glora_automl.commands import resume, search
from glora_automl.errors import StudyError
from glora_automl.progress import LineProgress
from glora_automl.report import result_table
from tests.tasks.files import write_classes

CLASSES = {"ant": 12, "bee": 12, "cat": 12}
SHORT = {
    "training": {"epochs": 2, "batch_size": 8},
    "search": {"n_trials": 3},
    "selection": {"n_candidates": 1, "finetune_epochs": 1, "baselines": False},
}


@pytest.fixture
def small(tiny):
    """The tiny recipe, shorter, with a backbone that is not pretrained."""
    backbone = {"pretraining": None, "kwargs": {"img_size": 16, "patch_size": 8}}
    return tiny.replace(**SHORT, backbone=backbone)


def figures(result):
    trials = [(trial.params, trial.values) for trial in result.study.trials]
    return trials, [(row.name, row.validation, row.test, row.domains) for row in result.rows]


def test_a_folder_gives_the_same_study_in_memory_and_streamed(small, tmp_path):
    write_classes(tmp_path / "zoo", CLASSES)
    task = {"source": "folder", "path": str(tmp_path / "zoo"), "n_labelled": 20}
    kept = search(small.replace(task=task), runs=tmp_path / "a")
    streamed = small.replace(task={**task, "memory": 0, "workers": 2})
    assert figures(search(streamed, runs=tmp_path / "b")) == figures(kept)
    assert kept.rows[0].test.n_images == 7


def test_a_study_goes_on_with_the_same_images_elsewhere_and_no_others(small, tmp_path):
    write_classes(tmp_path / "zoo", CLASSES)
    recipe = small.replace(task={"source": "folder", "path": str(tmp_path / "zoo"), "shots": 2})
    first = search(recipe, runs=tmp_path / "runs")
    shutil.copytree(tmp_path / "zoo", tmp_path / "copy")
    moved = recipe.replace(task={"path": str(tmp_path / "copy"), "memory": "1MB"})
    assert figures(search(moved, runs=tmp_path / "runs")) == figures(first)
    shutil.rmtree(tmp_path / "zoo")
    again = resume("tiny", runs=tmp_path / "runs", data=str(tmp_path / "copy"))
    assert figures(again) == figures(first)
    write_classes(tmp_path / "copy", CLASSES, first=30)
    with pytest.raises(StudyError, match="data of the study 'tiny' must have the digest"):
        search(moved, runs=tmp_path / "runs")


def test_other_domains_are_tested_once_with_the_test(small, tmp_path):
    write_classes(tmp_path / "many/photo", CLASSES)
    write_classes(tmp_path / "many/art", {"ant": 5, "cat": 4}, first=20)
    write_classes(tmp_path / "many/sketch", CLASSES, first=40)
    task = {"source": "domains", "path": str(tmp_path / "many"), "train": "photo", "shots": 3}
    result = search(small.replace(task=task), runs=tmp_path)
    (row,) = result.rows
    assert {name: score.n_images for name, score in row.domains.items()} == {"art": 9, "sketch": 36}
    console = Console(file=io.StringIO(), width=120)
    console.print(result_table(result.rows, 100))
    assert "mean of 2 domains" in console.file.getvalue()
    again = search(small.replace(task=task), runs=tmp_path)
    assert figures(again) == figures(result)


def test_images_that_are_in_both_splits_are_told(small, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(24) % 3
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images[:5],
             y_test=labels[:5])  # fmt: skip
    lines = []
    task = {"source": "npz", "path": str(tmp_path / "a.npz")}
    search(small.replace(task=task), runs=tmp_path, progress=LineProgress(lines.append))
    (told,) = (line for line in lines if "flattered" in line)
    assert told.startswith("5 images of the test set 'test'")
