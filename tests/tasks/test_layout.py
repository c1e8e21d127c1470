import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.errors import GLoRAError, TaskError
from glora_automl.tasks import FolderSettings, load_task
from glora_automl.tasks._layout import class_folders, find_layout, split_of
from tests.tasks.files import picture, write_classes

CLASSES = {"ant": 3, "bee": 3}


def splits(folder):
    return {split: path.name for split, path in find_layout(folder).splits.items()}


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Validation", "TEST"),
        ("training_set", "dev", "testing-data"),
        ("train2017", "VALID", "test_images"),
    ],
)
def test_find_layout_splits_in_any_spelling_are_found(tmp_path, train, val, test):
    for name in (train, val, test, ".hidden"):
        write_classes(tmp_path / name, CLASSES)
    assert splits(tmp_path) == {"train": train, "val": val, "test": test}


def test_find_layout_unlabelled_test_folder_is_left_out_and_said(tmp_path):
    write_classes(tmp_path / "train", CLASSES)
    for name in ("test", "test/images"):
        (tmp_path / name).mkdir(exist_ok=True)
        picture(1, 0).save(tmp_path / name / "1.png")
        layout = find_layout(tmp_path)
        assert list(layout.splits) == ["train"]
        (remark,) = layout.remarks
        assert "'test'" in remark


def test_find_layout_folder_around_all_is_entered(tmp_path):
    write_classes(tmp_path / "photos" / "photos (1)", CLASSES)
    layout = find_layout(tmp_path)
    assert layout.root == tmp_path / "photos/photos (1)"
    assert len(layout.remarks) == 1
    (tmp_path / "loose.png").write_bytes(b"")
    assert find_layout(tmp_path).root == tmp_path


def test_find_layout_class_named_train_is_a_class(tmp_path):
    write_classes(tmp_path, {"bus": 2, "car": 2, "train": 2})
    assert splits(tmp_path) == {"train": tmp_path.name}
    assert class_folders(tmp_path) == ["bus", "car", "train"]


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (("train", "test"), ["train/CLASS/image", "'test'"]),
        (("ant", "bee", "Test"), ["train/CLASS/image", "'Test'"]),
        (("train/ant", "val/ant", "validation/ant"), ["'val'", "'validation'", "one folder per"]),
    ],
)
def test_find_layout_unclear_layout_raises_the_expected_one(tmp_path, folders, words):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        picture(1, 0).save(tmp_path / folder / "1.png")
    with pytest.raises(TaskError) as caught:
        find_layout(tmp_path)
    assert len(str(caught.value)) <= 300
    for word in words:
        assert word in str(caught.value)


def test_class_folders_name_that_is_no_utf8_raises_one_line(tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(TaskError, match=r"UTF-8 text.*'caf\\udce9'") as caught:
        class_folders(tmp_path)
    assert str(caught.value).isprintable()


@given(st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_split_of_any_text_is_a_split_or_none(name):
    assert split_of(name) in ("train", "val", "test", None)


NAMES = st.sampled_from(
    ["ant", "bee", "train", "Train", "val", "TEST", "test1", ".git", "__MACOSX", "images", "a b"]
)
FILES = st.sampled_from(
    ["1.png", "2.PNG", "._1.png", "x.txt", "bad.jpg", "pipe.png", "loop", "gone.png", "3.gif"]
)


@given(st.sets(st.tuples(st.lists(NAMES, max_size=3), FILES).map(lambda p: (*p[0], p[1])),
               max_size=14))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_load_folder_any_tree_gives_a_task_or_a_short_error(tmp_path_factory, paths):
    root = tmp_path_factory.mktemp("tree")
    for number, (*folders, name) in enumerate(sorted(paths)):
        path = root.joinpath(*folders, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "pipe.png":
            os.mkfifo(path)
        elif name in ("loop", "gone.png"):
            path.symlink_to(root if name == "loop" else "nowhere")
        elif name in ("1.png", "2.PNG", "3.gif"):
            picture(1, number).save(path)
        else:
            path.write_bytes(b"no image")
    try:
        task = load_task(FolderSettings(source="folder", path=str(root), unreadable="skip"), 0)
    except GLoRAError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert len(str(error)) <= 300  # noqa: PT017
    else:
        assert len(task.train) >= 2
        assert not any("/." in task.train.source.name(i) for i in task.train.indices)
