from collections import Counter

import pytest
import torch

from glora_automl.errors import RecipeError, TaskError
from glora_automl.recipes import load_recipe
from glora_automl.tasks import VTAB, InputFormat, VtabSettings, load_task
from tests.tasks.files import picture

TARGET = InputFormat((3, 20, 24), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def root(tmp_path):
    """Three lists of images of ``kitti``, a task of four classes."""
    folder = tmp_path / "kitti"
    for split, name, count in (("train", "train800", 8), ("val", "val200", 4), ("test", "test", 6)):
        (folder / f"images/{split}").mkdir(parents=True)
        lines = []
        for i in range(count):
            path = f"images/{split}/{i:04} x.jpg"  # names may have blanks
            picture(i % 4, i).save(folder / path)
            lines.append(f"{path} {i % 4}")
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def load(root, **changes):
    return load_task(VtabSettings(source="vtab", name="kitti", path=str(root), **changes), 0)


def test_vtab_has_19_tasks_in_three_groups():
    groups = Counter(task.group for task in VTAB.values())
    assert groups == {"natural": 7, "specialized": 4, "structured": 8}


def test_load_vtab_lists_hold_the_sets(root):
    task = load(root)
    assert task.name == "kitti"
    assert len(task.classes) == 4
    assert [len(part) for part in (task.train, task.validation, task.test)] == [8, 4, 6]
    assert task.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert task.train.source.name(1).endswith("kitti/images/train/0001 x.jpg")
    assert load(root).digest() == task.digest()


@pytest.mark.parametrize(
    ("normalization", "mean"),
    [("imagenet", (0.485, 0.456, 0.406)), ("none", (0,) * 3), ("backbone", (0.5,) * 3)],
)
def test_load_vtab_normalization_replaces_the_backbones(root, normalization, mean):
    task = load(root, normalization=normalization)
    target = task.format(TARGET)
    assert target.mean == mean
    assert target.size == TARGET.size
    x, _ = task.train.prepare(target, torch.device("cpu"))
    raw, _ = task.train.prepare(
        InputFormat(TARGET.size, (0.0,) * 3, (1.0,) * 3), torch.device("cpu")
    )
    std = torch.tensor(target.std)[:, None, None]
    torch.testing.assert_close(x, (raw - torch.tensor(mean)[:, None, None]) / std)


def test_load_vtab_wrong_lists_raise_one_line(root, tmp_path):
    for name, text, words in (
        ("test.txt", "a.jpg 4", ["Line 1", "test.txt", "from 0 to 3", "'a.jpg 4'"]),
        ("test.txt", "images/test/0000 x.jpg 0\na.jpg", ["Line 2", "'a.jpg'"]),
        ("test.txt", "a.jpg 0", ["1 of 13", "a.jpg", "No such file"]),
        ("test.txt", f"a.jpg {'9' * 5000}", ["Line 1", "from 0 to 3"]),
        ("val200.txt", "", ["'val'", "must hold readable images"]),
        ("train800.txt", None, ["train800.txt", "NOAH"]),
    ):
        path = root / "kitti" / name
        before = path.read_text()
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(TaskError) as caught:
            load(root)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message
        path.write_text(before)


def test_vtab_settings_unknown_name_raises(root):
    with pytest.raises(
        RecipeError, match=r"task\.name.* must be one of the 19 VTAB tasks.*'caltech101'"
    ):
        load_recipe("vtab1k").replace(task={"name": "caltech1001"})


def test_load_vtab_list_that_is_a_device_raises(root):
    (root / "kitti/test.txt").unlink()
    (root / "kitti/test.txt").symlink_to("/dev/zero")
    with pytest.raises(TaskError, match=r"test\.txt.*no regular file"):
        load(root)
