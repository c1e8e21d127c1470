import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from glora_automl.commands import resume, search
from glora_automl.errors import StudyError
from glora_automl.pipeline import Workspace, prepare
from glora_automl.pipeline._forecast import stage_work
from glora_automl.progress import LineProgress
from glora_automl.report import result_table
from glora_automl.study import Stage, read_data, stage_costs, summarize
from tests.tasks.files import write_classes

CLASSES = {"ant": 12, "bee": 12, "cat": 12}
SHORT = {
    "training": {"epochs": 2, "batch_size": 8},
    "search": {"n_trials": 3},
    "selection": {"n_candidates": 1, "baselines": False},
}


@pytest.fixture
def small(tiny):
    """The tiny recipe, shorter, without pretraining."""
    backbone = {"pretraining": None, "kwargs": {"img_size": 16, "patch_size": 8}}
    return tiny.replace(**SHORT, backbone=backbone)


def results(result):
    trials = [(trial.params, trial.values) for trial in result.study.trials]
    return trials, [(row.name, row.validation, row.test, row.domains) for row in result.rows]


def test_search_folder_in_memory_and_streamed_is_the_same(small, tmp_path):
    write_classes(tmp_path / "zoo", CLASSES)
    task = {"source": "folder", "path": str(tmp_path / "zoo"), "n_labelled": 20}
    kept = search(small.replace(task=task), workspace=Workspace(runs=tmp_path / "a"))
    streamed = small.replace(task={**task, "memory": 0, "num_workers": 2})
    assert results(search(streamed, workspace=Workspace(runs=tmp_path / "b"))) == results(kept)
    assert kept.rows[0].test.n_images == 7


def test_resume_same_images_elsewhere_continues_and_others_raise(small, tmp_path):
    write_classes(tmp_path / "zoo", CLASSES)
    recipe = small.replace(task={"source": "folder", "path": str(tmp_path / "zoo"), "shots": 2})
    workspace = Workspace(runs=tmp_path / "runs")
    first = search(recipe, workspace=workspace)
    shutil.copytree(tmp_path / "zoo", tmp_path / "copy")
    moved = recipe.replace(task={"path": str(tmp_path / "copy"), "memory": "1MB"})
    assert results(search(moved, workspace=workspace)) == results(first)
    shutil.rmtree(tmp_path / "zoo")
    again = resume("tiny", workspace=replace(workspace, data=str(tmp_path / "copy")))
    assert results(again) == results(first)
    write_classes(tmp_path / "copy", CLASSES, first=30)
    with pytest.raises(StudyError, match=r"The data must have the digest .* study 'tiny'"):
        search(moved, workspace=workspace)


def test_search_domains_are_tested_with_the_test_set(small, tmp_path):
    write_classes(tmp_path / "many/photo", CLASSES)
    write_classes(tmp_path / "many/art", {"ant": 5, "cat": 4}, first=20)
    write_classes(tmp_path / "many/sketch", CLASSES, first=40)
    task = {"source": "domains", "path": str(tmp_path / "many"), "train": "photo", "shots": 3}
    workspace = Workspace(runs=tmp_path)
    result = search(small.replace(task=task), workspace=workspace)
    (row,) = result.rows
    assert {name: score.n_images for name, score in row.domains.items()} == {"art": 9, "sketch": 36}
    console = Console(file=io.StringIO(), width=120)
    console.print(result_table(result.rows, 100))
    assert "mean of 2 domains" in console.file.getvalue()
    (cost,) = [c for c in stage_costs(result.study) if c.stage == Stage.TEST]
    context = prepare(small.replace(task=task), workspace, "forecast")
    expected = stage_work(context.with_backbone(context.create_backbone()))[Stage.TEST]
    assert cost.n_evaluated == expected.n_evaluated == row.test.n_images + 9 + 36
    again = search(small.replace(task=task), workspace=workspace)
    assert results(again) == results(result)


def test_search_duplicates_in_the_test_set_are_logged(small, tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(24) % 3
    np.savez(tmp_path / "a.npz", x_train=images[:16], y_train=labels[:16], x_val=images[16:],
             y_val=labels[16:], x_test=images[:5], y_test=labels[:5])  # fmt: skip
    lines = []
    task = {"source": "npz", "path": str(tmp_path / "a.npz")}
    workspace = Workspace(runs=tmp_path, progress=LineProgress(lines.append))
    search(small.replace(task=task), workspace=workspace)
    (line,) = (line for line in lines if "accuracy is too high" in line)
    assert line.startswith("5 of 5 test images are copies of train images")


@pytest.fixture
def leaky(small, tmp_path):
    """A recipe on a folder whose test images are copies, with a class of one image."""
    folder = tmp_path / "zoo"
    write_classes(folder / "train", {"ant": 12, "bee [red]": 12, "cat": 1})
    write_classes(folder / "test", {"ant": 4, "bee [red]": 4})
    return small.replace(task={"source": "folder", "path": str(folder)})


def test_search_keeps_and_returns_copies_and_small_classes(leaky, tmp_path):
    result = search(leaky, workspace=Workspace(runs=tmp_path / "runs"))
    assert {overlap[:2] for overlap in result.data.overlaps} <= {
        ("train", "test"),
        ("validation", "test"),
    }
    assert sum(overlap.n_images for overlap in result.data.overlaps) == 8
    assert [(absent.split, absent.names) for absent in result.data.absent] == [
        ("validation", ("cat",)),
        ("test", ("cat",)),
    ]
    assert read_data(result.study) == result.data
    assert summarize(result.study)["data"]["notes"] == result.data.notes()
    again = resume("tiny", workspace=Workspace(runs=tmp_path / "runs"))
    assert again.data == result.data


def test_search_csv_gives_the_study_of_the_same_folder(small, tmp_path):
    write_classes(tmp_path / "zoo", CLASSES)
    lines = [
        f"zoo/{name}/{path.name},{name}"
        for name in CLASSES
        for path in sorted((tmp_path / "zoo" / name).iterdir())
    ]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["image,label", *lines]), encoding="utf-8")
    found = [
        search(small.replace(task={"source": source, "path": str(path)}),
               workspace=Workspace(runs=tmp_path / source))
        for source, path in (("folder", tmp_path / "zoo"), ("csv", table))
    ]  # fmt: skip
    assert results(found[0]) == results(found[1])
