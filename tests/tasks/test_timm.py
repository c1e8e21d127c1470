import shutil
import sys
import tarfile

import pytest
import torch

from glora_automl.errors import TaskError
from glora_automl.tasks import InputFormat, TimmSettings, load_task
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


def test_load_timm_folder_is_read(zoo):
    task = load("", zoo, validation_split="validation")
    assert task.classes == ("ant", "bee")
    assert [len(part) for part in (task.train, task.validation, task.test)] == [16, 6, 4]
    few = load("", zoo, shots=2, test_split="validation")
    assert [len(part) for part in (few.train, few.validation, few.test)] == [4, 4, 6]
    assert few.train.prepare(TARGET, torch.device("cpu"))[0].shape == (4, 3, 20, 24)


def test_load_timm_tar_file_is_read_without_pickle(zoo, tmp_path):
    path = tmp_path / "zoo.tar"
    with tarfile.open(path, "w") as tar:
        for folder in sorted((zoo / "train").iterdir()):
            tar.add(folder, folder.name)
    shutil.rmtree(zoo)
    task = load("", path)
    assert task.classes == ("ant", "bee")
    assert [len(part) for part in (task.train, task.validation, task.test)] == [13, 3, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["zoo.tar"]
    folder = write_classes(tmp_path / "same/train", CLASSES).parent
    assert load("", folder).digest() == task.digest()


def test_load_timm_hugging_face_data_set_is_read(zoo, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs glora-automl[huggingface]")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    cache = tmp_path / "cache"
    task = load(f"hfds/{zoo}", cache, validation_split="validation")
    assert task.classes == ("ant", "bee")
    assert [len(part) for part in (task.train, task.validation, task.test)] == [16, 6, 4]
    folder = load("", zoo, validation_split="validation")
    assert sorted(task.train.labels.tolist()) == sorted(folder.train.labels.tolist())
    assert task.train.prepare(TARGET, torch.device("cpu"))[0].shape == (16, 3, 20, 24)


def test_load_timm_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    with pytest.raises(TaskError, match=r"glora-automl\[huggingface\]"):
        load("hfds/some/thing", tmp_path)


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [("", "nowhere", ["nowhere"]), ("torch/nothing", "nowhere", ["torch/nothing"])],
)
def test_load_timm_missing_data_set_raises_one_line(tmp_path, name, path, words):
    with pytest.raises(TaskError) as caught:
        load(name, tmp_path / path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_load_timm_stream_raises(monkeypatch, tmp_path):
    monkeypatch.setattr("glora_automl.tasks._timm.create_dataset", lambda *_, **__: iter([]))
    with pytest.raises(TaskError, match="by index"):
        load("wds/some", tmp_path)
