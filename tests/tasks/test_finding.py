import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.errors import TaskError
from glora_automl.tasks._finding import PassedOver, find_images, is_hidden
from tests.tasks.files import picture


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "B.JFIF", "c.gif", "more/d.jpg"):
        (folder / name).write_bytes(b"any")
    return folder


def names(folder, counts=None):
    return [os.path.relpath(path, folder) for path in find_images(folder, counts)]


def test_find_images_suffixes_in_any_case_are_images(folder):
    assert names(folder) == ["B.JFIF", "a.png", "c.gif", "more/d.jpg"]


def test_find_images_other_files_are_counted(folder):
    before = names(folder)
    for name in ("._a.png", ".hidden.jpg", "Thumbs.db", "list", "x.heic"):
        (folder / name).write_bytes(b"any")
    for name in (".git", "__MACOSX", "@eaDir"):
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(b"any")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to("nowhere.png")
    counts = PassedOver()
    assert names(folder, counts) == before
    assert (counts.hidden, counts.special, counts.suffixes.total()) == (2, 3, 3)
    for part in ("2 hidden files", "3 other files (", "1 .db", "3 pipes, devices or broken links"):
        assert part in str(counts)


def test_find_images_links_in_circles_are_followed_once(folder):
    before = names(folder)
    for number in range(3):
        (folder / f"up{number}").symlink_to(folder.parent)
        (folder / f"same{number}").symlink_to(folder)
        (folder / "more" / f"up{number}").symlink_to(folder)
    assert names(folder) == before
    (folder.parent / "elsewhere").mkdir()
    picture(1, 0).save(folder.parent / "elsewhere/e.png")
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    assert names(folder) == [*before[:3], "link/e.png", before[3]]


def test_find_images_missing_folder_raises_one_line(tmp_path):
    with pytest.raises(TaskError, match="must be readable"):
        find_images(tmp_path / ("x" * 5000))


@given(st.text(st.characters(blacklist_characters="/\0", codec="utf-8"), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_passed_over_any_suffix_is_one_short_line(name):
    counts = PassedOver()
    counts.suffixes[repr(os.path.splitext(name)[1][:12])[1:-1]] = 3
    assert str(counts).isprintable()
    assert len(str(counts)) < 200
    assert isinstance(is_hidden(name), bool)
