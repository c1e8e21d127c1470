import os
import pickle
import sys
import tarfile

import pytest
import torch

from glora_automl.errors import TaskError
from glora_automl.tasks import FolderSettings, InputFormat, TimmSettings, load_task
from tests.tasks.files import write_classes

TARGET = InputFormat((3, 20, 24), (0.5,) * 3, (0.5,) * 3)
CLASSES = {"ant": 10, "bee": 10}


def load(name, path, seed=0, **changes):
    settings = TimmSettings(source="timm", name=name, path=path and str(path), **changes)
    return load_task(settings, seed)


@pytest.fixture
def zoo(tmp_path):
    write_classes(tmp_path / "zoo/train", CLASSES)
    write_classes(tmp_path / "zoo/validation", dict.fromkeys(CLASSES, 3), first=10)
    return tmp_path / "zoo"


@pytest.fixture
def tar(zoo, tmp_path):
    path = tmp_path / "zoo.tar"
    with tarfile.open(path, "w") as tar:
        for folder in sorted((zoo / "train").iterdir()):
            tar.add(folder, folder.name)
    return path


def test_load_timm_tar_file_is_read_without_pickle(tar, zoo, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    (tmp_path / "_zoo_tarinfos.pickle").write_bytes(pickle.dumps(Bomb()))
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p.is_file()}
    task = load("", tar)
    assert task.classes == ("ant", "bee")
    assert [len(part) for part in (task.train, task.validation, task.test)] == [13, 3, 4]
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p.is_file()} == before
    folder = FolderSettings(source="folder", path=str(zoo / "train"))
    assert load_task(folder, 0).digest() == task.digest()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"cache_tarinfo": True},
        {"cache_tarinfo": False},
        {"class_map": "classes.pkl"},
        {"trust_remote_code": True},
        {"additional_features": ["a"]},
        {"target_key": 1},
        {"k" * 10_000: "v" * 10_000},
    ],
)
def test_timm_settings_kwargs_that_run_code_or_read_pickles_raise(kwargs):
    with pytest.raises(ValueError, match="texts input_key and target_key"):
        TimmSettings(source="timm", name="", path="a.tar", kwargs=kwargs)


def test_load_timm_hugging_face_data_set_is_read(zoo, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs glora-automl[huggingface]")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    cache = tmp_path / "cache"
    task = load(f"hfds/{zoo}", cache, validation_split="validation")
    assert task.classes == ("ant", "bee")
    assert [len(part) for part in (task.train, task.validation, task.test)] == [16, 6, 4]
    assert task.train.prepare(TARGET, torch.device("cpu"))[0].shape == (16, 3, 20, 24)


def test_load_timm_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    with pytest.raises(TaskError, match=r"glora-automl\[huggingface\]"):
        load("hfds/some/thing", tmp_path)


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("", "nowhere", ["nowhere", ".tar file"]),
        ("", "zoo", ["zoo", "`task.source = folder`"]),
        ("", "pipe.tar", ["pipe.tar", ".tar file"]),
        ("", "damaged.tar", ["damaged.tar", "timm can read"]),
        ("torch/cifar10", "nowhere", ["torch/cifar10", "`task.source = torchvision`"]),
        ("wds/some", "nowhere", ["wds/some", "hfds/"]),
        ("x" * 10_000, "x" * 10_000, ["hfds/"]),
    ],
)
def test_load_timm_other_data_raise_one_line(zoo, tmp_path, name, path, words):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "damaged.tar").write_bytes(b"x" * 600)
    with pytest.raises(TaskError) as caught:
        load(name, tmp_path / path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 300
    for word in words:
        assert word in message


@pytest.mark.parametrize("key", ["validation_split", "test_split"])
def test_load_timm_tar_file_has_no_splits(tar, key):
    with pytest.raises(TaskError, match=r"must be left out for a \.tar file"):
        load("", tar, **{key: "validation"})
