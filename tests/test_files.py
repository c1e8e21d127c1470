import errno
import os
from pathlib import Path

import pytest

from glora_automl._files import make_folder, remove_torn, write_atomic
from glora_automl.errors import StorageError


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_the_file_gets_what_was_written_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_atomic(path, lambda file: file.write_text("one", encoding="utf-8"))
    write_atomic(path, lambda file: file.write_text("two", encoding="utf-8"))
    assert path.read_text(encoding="utf-8") == "two"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")

    def write(file):
        file.write_text("half", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
        file.write_text("whole", encoding="utf-8")

    write_atomic(path, write)
    assert path.read_text(encoding="utf-8") == "whole"


@pytest.mark.parametrize("broken", [(os, "fsync"), (Path, "replace"), (Path, "write_text")])
def test_a_full_disk_is_a_storage_error_and_the_old_file_stays(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(*broken, no_space)
        with pytest.raises(StorageError, match=r"a\.txt.*No space left.*make room") as caught:
            write_atomic(path, lambda file: file.write_text("new", encoding="utf-8"))
    assert "\n" not in str(caught.value)
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_in_the_place_of_the_folder_is_a_storage_error(tmp_path):
    (tmp_path / "folder").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomic(tmp_path / "folder" / "a.txt", lambda file: file.write_text("x"))


def test_other_exceptions_of_the_writer_pass_and_leave_nothing(tmp_path):
    def write(file):
        file.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.txt", write)
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_killed_write_left_is_removed(tmp_path):
    for name in (".a.json.0123abcd.tmp", ".important.tmp", "b.tmp", "a.json"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    remove_torn(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".important.tmp", "b.tmp", "a.json"}


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StorageError, match="--runs"):
        make_folder(tmp_path / "file" / "folder")
