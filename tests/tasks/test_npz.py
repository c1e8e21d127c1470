import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.errors import GLoRAError, TaskError
from glora_automl.tasks import InputFormat, NpzSettings, load_npz, load_task
from tests.tasks.files import picture


def images(count, seed=0, channels=3):
    shape = (count, 6, 5, channels) if channels else (count, 6, 5)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def arrays(**changes):
    """Three classes with 20 train, 5 validation and 10 test images each."""
    found = {
        "x_train": images(60, 1),
        "y_train": np.arange(60) % 3,
        "x_val": images(15, 2),
        "y_val": np.arange(15) % 3,
        "x_test": images(30, 3),
        "y_test": np.arange(30) % 3,
        "class_names": np.array(["ant", "bee", "cat"]),
    }
    found |= changes
    return {key: value for key, value in found.items() if value is not None}


@pytest.fixture
def load(tmp_path):
    """Write a file of arrays and load it as a task."""

    def load(content, seed=0, **changes):
        path = tmp_path / "mine.npz"
        np.savez(path, **content)
        return load_task(NpzSettings(source="npz", path=str(path), **changes), seed)

    return load


def test_load_npz_all_splits_are_used_as_they_are(load):
    content = arrays()
    task = load(content)
    assert task.name == "mine"
    assert task.classes == ("ant", "bee", "cat")
    for part, split in ((task.train, "train"), (task.validation, "val"), (task.test, "test")):
        pixels = torch.from_numpy(content[f"x_{split}"]).permute(0, 3, 1, 2)
        assert torch.equal(part.images, pixels)
        assert part.images.is_contiguous()
        assert part.labels.tolist() == content[f"y_{split}"].tolist()


def test_load_npz_grey_images_have_one_channel(load):
    grey = {f"x_{split}": images(n, channels=0) for split, n in
            (("train", 60), ("val", 15), ("test", 30))}  # fmt: skip
    assert load(arrays(**grey)).train.images.shape == (60, 1, 6, 5)


def members(part, content, split):
    """Positions of a set's images in a split."""
    known = {image.tobytes(): i for i, image in enumerate(content[f"x_{split}"])}
    assert len(known) == len(content[f"x_{split}"])
    return {known[np.ascontiguousarray(i.permute(1, 2, 0).numpy()).tobytes()] for i in part.images}


def test_load_npz_n_labelled_draws_from_the_training_split_alone(load):
    content = arrays()
    task = load(content, n_labelled=30, validation_size=0.2)
    train, validation = (
        members(task.train, content, "train"),
        members(task.validation, content, "train"),
    )
    assert (len(train), len(validation), len(task.test)) == (24, 6, 30)
    assert not train & validation
    assert torch.bincount(task.train.labels).tolist() == [8, 8, 8]
    assert load(content, n_labelled=30, validation_size=6).digest() == task.digest()
    assert load(content, seed=1, n_labelled=30, validation_size=6).digest() != task.digest()


def test_load_npz_shots_are_train_images_per_class(load):
    task = load(arrays(), shots=2)
    assert torch.bincount(task.train.labels).tolist() == [2, 2, 2]
    assert torch.bincount(task.validation.labels).tolist() == [2, 2, 2]


def test_load_npz_without_test_split_draws_test_images_from_the_training_split(load):
    content = arrays(x_test=None, y_test=None, x_val=None, y_val=None)
    task = load(content)
    parts = [members(part, content, "train") for part in (task.train, task.validation, task.test)]
    assert [len(part) for part in parts] == [38, 10, 12]
    assert len(set.union(*parts)) == 60
    few = load(content, n_labelled=10)
    assert few.test.digest() == task.test.digest()


def test_load_npz_label_selects_other_labels(load):
    height = {"height_train": np.repeat([90, 0, 45], 20), "height_val": np.repeat([0, 45, 90], 5),
              "height_test": np.repeat([45, 0], 15)}  # fmt: skip
    task = load(arrays(**height), label="height")
    assert task.classes == ("0", "45", "90")
    assert task.train.labels.tolist() == np.repeat([2, 0, 1], 20).tolist()
    named = arrays(**{k: v // 45 for k, v in height.items()}, height_names=np.array(list("abc")))
    assert load(named, label="height").classes == ("a", "b", "c")


def test_load_npz_only_draws_all_images_from_one_split(load):
    content = arrays(y_test=np.arange(30) % 3 + 3, y_val=None, x_val=None, class_names=None)
    with pytest.raises(TaskError, match=r"y_test.*3 others, such as 3"):
        load(content)
    task = load(content, only="test", shots=2)
    assert task.classes == ("3", "4", "5")
    parts = [members(part, content, "test") for part in (task.train, task.validation, task.test)]
    assert [len(part) for part in parts] == [6, 6, 6]
    assert load(content, only="train", shots=2).classes == ("0", "1", "2")
    with pytest.raises(TaskError, match=r"task\.only.*'x_val'"):
        load(content, only="val")


def test_load_npz_string_labels_and_unused_names_give_the_used_classes(load):
    texts = {f"y_{s}": np.array(["b", "a", "c"])[np.arange(n) % 3] for s, n in
             (("train", 60), ("val", 15), ("test", 30))}  # fmt: skip
    assert load(arrays(**texts, class_names=None)).classes == ("a", "b", "c")
    assert load(arrays(class_names=np.array(list("abcd")))).classes == ("a", "b", "c")


def test_load_npz_global_random_state_does_not_matter(load):
    np.random.seed(1)  # noqa: NPY002
    first = load(arrays(), n_labelled=20).digest()
    np.random.seed(2)  # noqa: NPY002
    assert load(arrays(), n_labelled=20).digest() == first


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"x_train": None}, {}, ["'x_train'", "Did you mean"]),
        ({"y_train": None}, {}, ["'y_train'"]),
        ({}, {"label": "height"}, ["'height_train'"]),
        ({"y_test": None}, {}, ["test images", "'y_test'"]),
        ({"x_train": images(60) / 255}, {}, ["x_train in ", "must be uint8", "float64"]),
        ({"x_train": images(60)[0]}, {"label": "y"}, ["one label per image"]),
        ({"x_train": images(60)[..., None]}, {}, ["(60, 6, 5, 3, 1)"]),
        ({"y_train": np.zeros(60, int)}, {}, ["two classes", "got 1"]),
        ({"y_train": np.arange(59)}, {}, ["(59,)", "60 images"]),
        ({"y_train": np.arange(60) % 3 / 1}, {}, ["integers or strings", "float64"]),
        ({"y_train": np.arange(60) % 4}, {}, ["from 0 to 2", "class_names", "got 3"]),
        ({"y_test": np.arange(30) % 3 - 1}, {}, ["y_test", "from 0 to 2", "got -1"]),
        ({"y_train": np.arange(60) % 2}, {}, ["y_val", "1 others", "such as 2"]),
        ({"x_train": np.array([{}, 1])}, {}, ["plain arrays", "x_train.npy' holds Python objects"]),
        ({}, {"n_labelled": 4, "validation_size": 2}, ["of each class", "2 of 4", "at most 1"]),
        ({}, {"n_labelled": 61}, ["at most 60", "got 61"]),
        ({}, {"shots": 17}, ["21 images per class", "got 20 of class 'ant'"]),
        ({}, {"shots": 3, "validation_size": 52}, ["at most 51", "got 52"]),
        ({}, {"validation_size": 60}, ["task.validation_size", "60"]),
        ({"x_test": None}, {"test_size": 60}, ["task.test_size", "60"]),
    ],
)
def test_load_npz_wrong_arrays_or_settings_raise_one_line(load, changes, settings, words):
    with pytest.raises(TaskError) as caught:
        load(arrays(**changes), **settings)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"no zip"])
def test_load_npz_other_file_raises(tmp_path, content):
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(
        TaskError, match=r"must be an \.npz file of plain arrays, got .*damaged\.npz"
    ):
        load_npz(NpzSettings(source="npz", path=str(path)), 0)


def test_load_npz_truncated_file_raises(tmp_path):
    path = tmp_path / "damaged.npz"
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(TaskError, match="plain arrays"):
        load_npz(NpzSettings(source="npz", path=str(path)), 0)


@pytest.mark.parametrize("name", ["nowhere.npz", ""])
def test_load_npz_missing_file_raises_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        TaskError, match=r"must be a readable \.npz file.*a recipe's file is relative"
    ):
        load_npz(NpzSettings(source="npz", path=name or "."), 0)


def test_load_npz_npy_file_raises(tmp_path):
    path = tmp_path / "one.npy"
    np.save(path, images(3))
    with pytest.raises(TaskError, match="it is no zip file"):
        load_npz(NpzSettings(source="npz", path=str(path)), 0)


def packed(count, first=0, kind="jpeg"):
    """Concatenated files of pictures of three digits, and their offsets."""
    files = []
    for i in range(count):
        buffer = io.BytesIO()
        picture(i % 3, first + i // 3).save(buffer, kind)
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    return np.frombuffer(b"".join(files), dtype=np.uint8), offsets


def packed_arrays(**changes):
    content = arrays(x_train=None, x_val=None, x_test=None)
    for split, count, first in (("train", 60, 0), ("val", 15, 30), ("test", 30, 50)):
        content[f"jpeg_{split}"], content[f"off_{split}"] = packed(count, first)
    content |= changes
    return {key: value for key, value in content.items() if value is not None}


def test_load_npz_packed_image_files_are_decoded(load):
    content = packed_arrays()
    task = load(content)
    assert [len(part) for part in (task.train, task.validation, task.test)] == [60, 15, 30]
    target = InputFormat((3, 20, 24), (0.0,) * 3, (1.0,) * 3)
    x, y = task.train.prepare(target, torch.device("cpu"))
    assert y.tolist() == content["y_train"].tolist()
    buffer = io.BytesIO()
    picture(1, 2).save(buffer, "jpeg")
    from PIL import Image

    expected = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1) / 255
    assert torch.equal(x[7], expected)
    few = load(content, n_labelled=12, crop_mode="center", memory=0)
    assert (len(few.train), len(few.test)) == (10, 30)


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"off_train": None}, {}, ["off_train", "(n + 1,)"]),
        ({"off_train": np.array([5, 3, 9])}, {}, ["off_train", "ascending"]),
        ({"off_train": np.array([0, 10**9])}, {}, ["within"]),
        ({"off_train": np.arange(61)}, {}, ["60 of 60", "mine.npz:train[0]"]),
        ({"y_train": np.arange(59) % 3}, {}, ["(59,)", "60 images"]),
        ({"domain_train": np.arange(60) % 2, "domain_val": np.arange(15) % 2,
          "domain_test": np.arange(30) % 2}, {"domain": "0"},
         ["task.domain", "x_train", "image files"]),
    ],
)  # fmt: skip
def test_load_npz_wrong_packed_files_raise_one_line(load, changes, settings, words):
    with pytest.raises(TaskError) as caught:
        load(packed_arrays(**changes), **settings)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_load_npz_crop_mode_for_arrays_raises(load):
    with pytest.raises(TaskError, match=r"task\.crop_mode.*'center'"):
        load(arrays(), crop_mode="center")


def test_load_npz_torn_file_names_the_fault(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.arange(4) % 2)
    whole = (tmp_path / "a.npz").read_bytes()
    for part in (whole[10:], whole[:-30]):
        (tmp_path / "torn.npz").write_bytes(part)
        settings = NpzSettings(source="npz", path=str(tmp_path / "torn.npz"))
        with pytest.raises(TaskError, match=r"it is altered or ends early|no zip file"):
            load_task(settings, 0)


def npy(shape, dtype="|u1", data=b"", header=None):
    """Return the bytes of an array whose header declares ``shape``."""
    text = header or f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"
    encoded = text.encode("latin1", "replace")
    return b"\x93NUMPY\x01\x00" + len(encoded).to_bytes(2, "little") + encoded + data


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return NpzSettings(source="npz", path=str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy((10**12,)), "altered or ends early"),
        (npy((10**6, 10**6, 3)), "altered or ends early"),
        (npy((-4, -4)), "altered or ends early"),
        (npy((4,), "|O"), "holds Python objects"),
        (npy(f"({'9' * 5000},)"), "is no array"),
        (npy(None, header="(" * 5000), "is no array"),
        (npy(None, header="-" * 60_000 + "1"), "is no array"),
        (npy((4,), "no type"), "is no array"),
        (b"", "is no array"),
        (b"plain text", "is no array"),
        (b"\x93NUMPY\x09\x00", "is no array"),
    ],
)
def test_load_npz_member_that_is_no_array_raises_in_little_memory(tmp_path, content, reason):
    settings = write_zip(tmp_path / "a.npz", {"x_train.npy": content, "y_train": b"x"})
    tracemalloc.start()
    with pytest.raises(TaskError, match=reason) as caught:
        load_npz(settings, 0)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert len(str(caught.value)) <= 300


def test_load_npz_arrays_beyond_the_memory_raise(tmp_path, monkeypatch):
    settings = write_zip(tmp_path / "a.npz", {"x_train.npy": npy((10**7,), data=bytes(10**7))})
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    monkeypatch.setattr(os, "sysconf", lambda name: 1000)
    with pytest.raises(TaskError, match="bytes of memory"):
        load_npz(settings, 0)


@pytest.mark.parametrize("path", ["pipe.npz", "/dev/zero", ".", "x" * 5000, "a\0b.npz"])
def test_load_npz_of_no_regular_file_raises_without_waiting(tmp_path, path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(TaskError, match=r"must be a readable \.npz file") as caught:
        load_npz(NpzSettings(source="npz", path=os.path.join(tmp_path, path)), 0)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": np.array(3)}, "class_names"),
        ({"class_names": np.zeros((3, 2), "U1")}, "class_names"),
        ({"class_names": np.array([0.5, 1.5, 2.5])}, "class_names"),
        ({"class_names": np.array(["a", "b", "c" * 300])}, "UTF-8 text"),
        ({"class_names": np.array(["a", "b", "\ud800"])}, "UTF-8 text"),
        ({"class_names": np.frombuffer(b"\xff" * 12, "U1")}, "no characters"),
    ],
)
def test_load_npz_names_that_are_no_text_raise(load, changes, words):
    with pytest.raises(TaskError, match=words):
        load(arrays(**changes))


def test_load_npz_bytes_as_labels_are_text(load):
    labels = {f"y_{split}": np.array([b"ant", b"bee", "käfer".encode()])[np.arange(n) % 3]
              for split, n in (("train", 60), ("val", 15), ("test", 30))}  # fmt: skip
    assert load(arrays(**labels, class_names=None)).classes == ("ant", "bee", "käfer")


MEMBERS = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda shape, dtype, extra: npy(
            shape, dtype, bytes(min(2000, max(0, int(np.prod(shape)))) + extra)
        ),
        st.lists(st.integers(-1, 6), max_size=5).map(tuple),
        st.sampled_from(["|u1", "<i8", "<f4", "<U2", "|S3", "|O", "<M8[s]", "|V4"]),
        st.integers(-3, 3).map(abs),
    ),
    st.sampled_from([npy((12, 2, 2), data=bytes(range(48))), npy((12,), data=bytes([0, 1] * 6))]),
)
KEYS = st.sampled_from(
    ["x_train", "y_train", "x_test", "y_test", "jpeg_train", "off_train", "class_names", "z"]
)


@given(st.dictionaries(KEYS.map("{}.npy".format), MEMBERS, max_size=6), st.integers(0, 30),
       st.binary(max_size=4))  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_load_npz_any_members_give_a_task_or_a_short_error(tmp_path_factory, members, place, noise):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    settings = write_zip(path, members)
    data = path.read_bytes()
    path.write_bytes(data[:-place] + noise + data[len(data) - place :] if noise else data)
    try:
        task = load_npz(settings, 0)
    except GLoRAError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert len(str(error)) <= 300  # noqa: PT017
    else:
        assert len(task.train) >= 2
