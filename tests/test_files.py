import errno
import os
from pathlib import Path

import pytest

from glora_automl._files import make_folder, read_file, remove_torn, write_atomic
from glora_automl.errors import StorageError


def disk_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_write_atomic_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_atomic(path, lambda file: file.write_text("one", encoding="utf-8"))
    write_atomic(path, lambda file: file.write_text("two", encoding="utf-8"))
    assert path.read_text(encoding="utf-8") == "two"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_write_atomic_keeps_the_old_file_until_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")

    def write(file):
        file.write_text("half", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
        file.write_text("whole", encoding="utf-8")

    write_atomic(path, write)
    assert path.read_text(encoding="utf-8") == "whole"


@pytest.mark.parametrize("broken", [(os, "fsync"), (Path, "replace"), (Path, "write_text")])
def test_write_atomic_full_disk_raises_and_keeps_the_old_file(tmp_path, monkeypatch, broken):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(*broken, disk_full)
        with pytest.raises(StorageError, match=r"a\.txt.*No space left.*Free disk") as caught:
            write_atomic(path, lambda file: file.write_text("new", encoding="utf-8"))
    assert "\n" not in str(caught.value)
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_write_atomic_file_instead_of_the_folder_raises(tmp_path):
    (tmp_path / "folder").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="must be writable"):
        write_atomic(tmp_path / "folder" / "a.txt", lambda file: file.write_text("x"))


def test_write_atomic_other_exception_propagates_and_leaves_no_file(tmp_path):
    def write(file):
        file.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.txt", write)
    assert list(tmp_path.iterdir()) == []


def test_remove_torn_removes_only_temporary_files(tmp_path):
    for name in (".a.json.0123abcd.tmp", ".important.tmp", "b.tmp", "a.json"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    remove_torn(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".important.tmp", "b.tmp", "a.json"}


def test_make_folder_below_a_file_raises_with_the_argument(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(StorageError, match=r"`runs` must be writable.* Choose another `runs`\."):
        make_folder(tmp_path / "file" / "folder")
    with pytest.raises(StorageError, match="Choose another `artifacts`"):
        make_folder(tmp_path / "file" / "folder", "artifacts")


def test_read_file_returns_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"some")
    assert read_file(tmp_path / "a") == b"some"
    assert read_file(str(tmp_path / "a"), 4) == b"some"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pipe", "no regular file"),
        ("/dev/zero", "no regular file"),
        (".", "Is a directory"),
        ("missing", "No such file"),
        ("four", "larger than 3 bytes"),
        ("a\0b", "null"),
        ("a\ud800", "surrogates"),
        ("x" * 10_000, "too long"),
    ],
)
def test_read_file_of_anything_but_a_small_file_raises_without_waiting(tmp_path, name, reason):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "four").write_bytes(b"four")
    with pytest.raises(OSError, match=reason):
        read_file(tmp_path / name if name[0] != "/" else name, 3)
