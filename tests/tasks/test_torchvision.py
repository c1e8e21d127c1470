import json

import pytest
import torch
from PIL import Image

from glora_automl.errors import TaskError
from glora_automl.tasks import InputFormat, TorchvisionSettings, load_task
from glora_automl.tasks._encoded import FileImages, RowImages
from tests.tasks.files import picture, write_classes

TARGET = InputFormat((3, 20, 24), (0.5,) * 3, (0.5,) * 3)
CLASSES = {"ant": 12, "bee": 12}


def load(folder, name, seed=0, **changes):
    settings = TorchvisionSettings(source="torchvision", name=name, path=str(folder), **changes)
    return load_task(settings, seed)


@pytest.fixture
def food(tmp_path):
    """Food101: two splits of files."""
    write_classes(tmp_path / "food-101/images", CLASSES, suffixes=(".jpg",))
    meta = tmp_path / "food-101/meta"
    meta.mkdir()
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        listed = {name: [f"{name}/{i:03}" for i in numbers] for name in CLASSES}
        (meta / f"{split}.json").write_text(json.dumps(listed))
    return tmp_path


@pytest.fixture
def aircraft(tmp_path):
    """FGVCAircraft: three splits of files."""
    data = tmp_path / "fgvc-aircraft-2013b/data"
    (data / "images").mkdir(parents=True)
    (data / "variants.txt").write_text("ant\nbee\n")
    for split, numbers in (("train", range(6)), ("val", range(6, 9)), ("test", range(9, 12))):
        lines = []
        for digit, name in enumerate(CLASSES):
            for i in numbers:
                picture(digit, i).save(data / f"images/{name}{i}.jpg")
                lines.append(f"{name}{i} {name}")
        (data / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def pets(tmp_path):
    """OxfordIIITPet: torchvision decodes its images itself."""
    folder = tmp_path / "oxford-iiit-pet"
    for name in ("images", "annotations/trimaps"):
        (folder / name).mkdir(parents=True)
    for split, numbers in (("trainval", range(6)), ("test", range(6, 9))):
        lines = []
        for digit, name in enumerate(CLASSES):
            for i in numbers:
                picture(digit, i).save(folder / f"images/{name}_{i}.jpg")
                lines.append(f"{name}_{i} {digit + 1} 1 1")
        (folder / f"annotations/{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_load_torchvision_data_set_of_files_is_read_as_files(food):
    task = load(food, "Food101", shots=3)
    assert task.classes == ("ant", "bee")
    assert isinstance(task.train.source, FileImages)
    assert [len(part) for part in (task.train, task.validation, task.test)] == [6, 6, 8]
    assert task.train.prepare(TARGET, torch.device("cpu"))[0].shape == (6, 3, 20, 24)


def test_load_torchvision_validation_split_is_used(aircraft):
    task = load(aircraft, "FGVCAircraft")
    assert [len(part) for part in (task.train, task.validation, task.test)] == [12, 6, 6]
    other = load(aircraft, "FGVCAircraft", n_labelled=8)
    assert [len(part) for part in (other.train, other.validation, other.test)] == [6, 2, 6]


def test_load_torchvision_data_set_without_splits_is_split(tmp_path):
    write_classes(tmp_path / "eurosat/2750", CLASSES, suffixes=(".jpg",))
    task = load(tmp_path, "EuroSAT")
    assert [len(part) for part in (task.train, task.validation, task.test)] == [15, 4, 5]


def test_load_torchvision_decoded_images_are_used(pets):
    task = load(pets, "OxfordIIITPet", shots=2)
    assert isinstance(task.train.source, RowImages)
    assert [len(part) for part in (task.train, task.validation, task.test)] == [4, 4, 6]
    assert task.overlaps() == {}
    x, _ = task.test.prepare(TARGET, torch.device("cpu"))
    first = Image.open(pets / "oxford-iiit-pet/images/ant_6.jpg")
    pixels = ((x[0] * 0.5 + 0.5) * 255).round().byte().permute(1, 2, 0)
    assert pixels.numpy().tobytes() == first.tobytes()
    assert task.digest() == load(pets, "OxfordIIITPet", shots=2).digest()


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("Food102", {}, ["'Food102'", "Did you mean 'Food101'?"]),
        ("Food101", {}, ["Food101", "not found", "`task.download = true`"]),
        ("CIFAR10", {}, ["CIFAR10", "`task.download = true`"]),
        ("Food101", {"kwargs": {"colour": 1}}, ["colour"]),
        ("FakeData", {}, ["FakeData", "root"]),
        ("ImageFolder", {}, ["ImageFolder", "`task.source = folder`"]),
        ("LSUN", {}, ["LSUN"]),
    ],
)
def test_load_torchvision_wrong_settings_raise_one_line(tmp_path, name, changes, words):
    with pytest.raises(TaskError) as caught:
        load(tmp_path, name, **changes)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_load_torchvision_data_set_without_classes_raises(tmp_path):
    folder = tmp_path / "VOCdevkit/VOC2012"
    for name in ("ImageSets/Segmentation", "JPEGImages", "SegmentationClass"):
        (folder / name).mkdir(parents=True)
    picture(1, 0).save(folder / "JPEGImages/a.jpg")
    picture(1, 0).save(folder / "SegmentationClass/a.png")
    for split in ("train", "trainval", "val"):
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("a\n")
    with pytest.raises(
        TaskError, match=r"torchvision can read, got VOCSegmentation|one class per image"
    ):
        load(tmp_path, "VOCSegmentation")
