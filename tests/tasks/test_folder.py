import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from glora_automl.errors import TaskError
from glora_automl.progress import LineProgress
from glora_automl.tasks import FolderSettings, InputFormat, load_task
from glora_automl.tasks._images import NormalizedImages
from glora_automl.tasks._reading import StreamedImages
from tests.tasks.files import picture, write_classes

CPU = torch.device("cpu")
TARGET = InputFormat((3, 20, 24), (0.25, 0.5, 0.75), (0.5, 1.0, 2.0))
CLASSES = {"ant": 10, "bee": 20, "cat": 30}


def load(folder, seed=0, progress=None, **changes):
    settings = FolderSettings(source="folder", path=str(folder), **changes)
    return load_task(settings, seed, progress)


def names(part):
    return [part.source.name(i) for i in part.indices]


@pytest.fixture
def flat(tmp_path):
    return write_classes(tmp_path / "zoo", CLASSES)


@pytest.fixture
def split(tmp_path):
    folder = tmp_path / "zoo"
    write_classes(folder / "train", CLASSES)
    write_classes(folder / "validation", dict.fromkeys(CLASSES, 5), first=40)
    write_classes(folder / "test", dict.fromkeys(CLASSES, 6), first=50)
    return folder


def test_load_folder_without_splits_draws_stratified_sets(flat):
    task = load(flat)
    assert task.name == "zoo"
    assert task.classes == ("ant", "bee", "cat")
    parts = (task.train, task.validation, task.test)
    assert [len(part) for part in parts] == [38, 10, 12]
    assert len({name for part in parts for name in names(part)}) == 60
    assert torch.bincount(task.test.labels).tolist() == [2, 4, 6]
    for part in parts:
        for name, label in zip(names(part), part.labels.tolist(), strict=True):
            assert task.classes[label] in name


def test_load_folder_with_splits_uses_them(split):
    task = load(split)
    assert [len(part) for part in (task.train, task.validation, task.test)] == [60, 15, 18]
    assert all("/validation/" in name for name in names(task.validation))
    few = load(split, n_labelled=20)
    assert [len(part) for part in (few.train, few.validation, few.test)] == [16, 4, 18]
    assert all("/train/" in name for name in names(few.validation))


def test_load_folder_unused_validation_split_becomes_the_test_split(split):
    shutil.rmtree(split / "test")
    task = load(split, shots=2)
    assert (len(task.train), len(task.validation), len(task.test)) == (6, 6, 15)
    assert len(load(split).test) == 12


def test_prepare_files_are_normalised(flat):
    task = load(flat)
    x, y = task.train.prepare(TARGET, CPU)
    assert y.tolist() == task.train.labels.tolist()
    assert x.shape == (38, 3, 20, 24)
    for image, name in list(zip(x, names(task.train), strict=True))[:5]:
        raw = torch.from_numpy(np.asarray(Image.open(name)).copy()).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (TARGET.mean, TARGET.std))
        torch.testing.assert_close(image, (raw - mean) / std)


def test_prepare_beyond_memory_streams_the_same_images(flat):
    kept, _ = load(flat).train.prepare(TARGET, CPU)
    streamed, _ = load(flat, memory="10kB", num_workers=3).train.prepare(TARGET, CPU)
    assert isinstance(kept, torch.Tensor)
    assert not isinstance(streamed, torch.Tensor)
    assert (len(streamed), streamed.device) == (38, CPU)
    for index in (slice(0, 7), slice(30, 99), slice(None), torch.tensor([5, 0, 5])):
        assert torch.equal(streamed[index], kept[index])
    assert streamed[torch.arange(0)].shape == (0, 3, 20, 24)


def test_prepare_memory_is_shared_by_all_sets_and_released(flat):
    task = load(flat, memory=40 * 3 * 20 * 24)
    kept, _ = task.train.prepare(TARGET, CPU)
    assert isinstance(kept, NormalizedImages)  # it does not fit as float32
    assert isinstance(task.test.prepare(TARGET, CPU)[0], StreamedImages)
    del kept
    again, _ = task.test.prepare(TARGET, CPU)
    assert not isinstance(again, StreamedImages)
    assert torch.equal(again[:], load(flat).test.prepare(TARGET, CPU)[0][:])


def test_digest_moved_folder_is_the_same(flat, tmp_path):
    before = load(flat).digest()
    shutil.move(flat, tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere"
    assert load(moved).digest() == before
    path = next((moved / "bee").iterdir())
    picture(8, 100).save(path)
    assert load(moved).digest() != before


def test_overlaps_copies_in_given_splits_are_counted(split):
    assert load(split).overlaps() == {}
    for i in (50, 51):
        for suffix in (".png", ".jpg"):
            source = split / "test" / "bee" / f"{i:03}{suffix}"
            if source.exists():
                # Another format has other bytes and the same pixels.
                Image.open(source).save(split / "train" / "bee" / f"again-{i}.bmp")
    shutil.copy(split / "validation/ant/040.png", split / "test/ant/a.png")
    assert load(split).overlaps() == {("train", "test"): 2, ("validation", "test"): 1}


def test_load_folder_seed_alone_determines_the_sets(flat):
    assert load(flat, n_labelled=20).digest() == load(flat, n_labelled=20).digest()
    assert load(flat, n_labelled=20, seed=1).digest() != load(flat, n_labelled=20).digest()


def test_load_folder_hidden_folders_and_other_files_are_ignored(flat):
    (flat / ".cache").mkdir()
    (flat / "readme.txt").write_text("hello")
    (flat / "ant" / "notes.txt").write_text("hello")
    assert load(flat).classes == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["", "old"], "'ant' with images in itself and in 'old'"),
        (["old", "new"], "'ant' with images in 'new' and other folders"),
        (["images/new", "images/old"], "'ant' with images in 'images/new' and other folders"),
    ],
)
def test_load_folder_class_with_images_in_several_folders_raises(tmp_path, folders, words):
    zoo = write_classes(tmp_path / "zoo", {"bee": 5})
    for folder in folders:
        write_classes(zoo / "ant", {folder: 5})
    with pytest.raises(TaskError, match=words) as caught:
        load(zoo)
    assert len(str(caught.value)) <= 300


def test_load_folder_class_with_images_in_one_inner_folder_is_read(tmp_path):
    zoo = write_classes(tmp_path / "zoo", {"bee": 5, "ant/images": 5})
    (zoo / "ant" / "boxes.txt").write_text("0 0 1 1")
    assert torch.bincount(load(zoo).train.labels).tolist() == [3, 3]


@pytest.fixture
def damaged(flat):
    for name in ("000.png", "001.jpg", "002.png", "003.jpg"):
        path = flat / "cat" / name
        path.write_bytes(path.read_bytes()[:-100])
    (flat / "cat" / "004.png").write_bytes(b"")
    return flat


def test_load_folder_unreadable_images_raise_their_names(damaged):
    with pytest.raises(TaskError) as caught:
        load(damaged)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("5 of 60", "cat/000.png (", "truncated", ", ...", "`task.unreadable = skip`"):
        assert word in message


def test_load_folder_unreadable_skip_logs_and_skips_them(damaged):
    lines = []
    task = load(damaged, unreadable="skip", progress=LineProgress(lines.append))
    assert sum(map(len, (task.train, task.validation, task.test))) == 55
    (line,) = (line for line in lines if "unreadable" in line)
    assert "5 of 60" in line
    assert "truncated" in line
    assert "Skipped" in line
    task.test.prepare(TARGET, CPU)


@pytest.mark.parametrize("memory", ["2GB", 0])
def test_prepare_deleted_file_raises_its_name(flat, memory):
    task = load(flat, memory=memory)
    shutil.rmtree(flat / "bee")
    with pytest.raises(TaskError, match=r"zoo/bee/.*must stay readable.*No such file"):
        task.train.prepare(TARGET, CPU)[0][:]


def test_load_folder_wrong_folder_or_settings_raise_one_line(tmp_path, flat):
    one = write_classes(tmp_path / "one", {"ant": 5})
    empty = tmp_path / "empty"
    empty.mkdir()
    hollow = write_classes(tmp_path / "hollow", CLASSES)
    (hollow / "dog").mkdir()
    extra = tmp_path / "extra"
    write_classes(extra / "train", CLASSES)
    write_classes(extra / "test", {"dog": 3})
    for folder, changes, words in (
        (tmp_path / "nowhere", {}, ["nowhere", "must be a folder", "a recipe's file is relative"]),
        (empty, {}, ["one folder of images per class", "without folders"]),
        (one, {}, ["two classes", "'ant'"]),
        (hollow, {}, ["must hold images", "got 'dog' without images", ".png"]),
        (extra, {}, ["one of the 3 train classes", "'dog'"]),
        (flat, {"shots": 7}, ["11 images per class", "got 8 of class 'ant'"]),
        (flat, {"n_labelled": 50}, ["at most 48"]),
    ):
        with pytest.raises(TaskError) as caught:
            load(folder, **changes)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message


@pytest.mark.parametrize(
    "changes", [{"memory": "much"}, {"memory": -1}, {"num_workers": 0}, {"crop_mode": "zoom"},
                {"unreadable": "ignore"}]
)  # fmt: skip
def test_reading_settings_out_of_range_raise(flat, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        load(flat, **changes)
