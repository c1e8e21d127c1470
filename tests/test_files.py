import errno
import hashlib
import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest

from glora_automl._files import (
    Timeout,
    check_output,
    file_digest,
    file_lock,
    make_folder,
    read_file,
    remove_torn,
    user_path,
    write_atomic,
)
from glora_automl.errors import ReportError, Stopped, StorageError


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
    for name in (".a.json.0123abcd.glora.tmp", ".important.tmp", "b.tmp", "a.json"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    remove_torn(tmp_path, "*")
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


def test_write_atomic_file_has_the_permissions_of_the_umask(tmp_path):
    def write(file):  # as safetensors does
        file.unlink()
        file.touch(mode=0o600)

    for umask in (0o022, 0o077):
        old = os.umask(umask)
        try:
            write_atomic(tmp_path / "a.txt", write)
        finally:
            os.umask(old)
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_write_atomic_no_regular_file_raises_and_stays(tmp_path, kind):
    path = tmp_path / "a.txt" if kind != "device" else Path("/dev/full")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(StorageError, match="no regular file"):
        write_atomic(path, lambda file: file.write_text("new", encoding="utf-8"))
    assert path.lstat().st_ino == before.st_ino
    assert path.lstat().st_mode == before.st_mode


def test_write_atomic_removes_old_temporary_files_of_killed_processes(tmp_path):
    old, new = (tmp_path / f".b.json.{digits}.glora.tmp" for digits in ("00000000", "11111111"))
    for path in (old, new):
        path.write_text("half", encoding="utf-8")
    os.utime(old, (0, 0))
    export = tmp_path / ".out.22222222.glora.tmp"
    (export / "new").mkdir(parents=True)
    (export / "new/model").write_text("half", encoding="utf-8")
    os.utime(export, (0, 0))  # its file is new: another process is writing it
    foreign = tmp_path / ".other.tmp"
    foreign.write_text("x", encoding="utf-8")
    os.utime(foreign, (0, 0))
    write_atomic(tmp_path / "a.txt", lambda file: file.write_text("new", encoding="utf-8"))
    assert sorted(tmp_path.iterdir()) == sorted([new, export, foreign, tmp_path / "a.txt"])
    for path in (export / "new/model", export / "new", export):
        os.utime(path, (0, 0))
    make_folder(tmp_path)
    assert not export.exists()


@pytest.mark.parametrize("content", [b"", b"notes", b"x" * 5000 + b"mark"])
def test_check_output_foreign_file_raises(tmp_path, content):
    path = tmp_path / "a.html"
    path.write_bytes(content)
    with pytest.raises(ReportError, match=r"`out` must be a new file.*another `out`"):
        check_output(path, "out", ReportError, b"mark")
    assert path.read_bytes() == content


def test_file_digest_is_the_sha256_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    expected = hashlib.sha256(b"abc" * 100_000).hexdigest()
    assert file_digest(tmp_path / "a") == expected


def test_check_output_new_or_own_file_passes(tmp_path):
    check_output(tmp_path / "a.html", "out", ReportError, b"mark")
    (tmp_path / "a.html").write_bytes(b"<mark>")
    check_output(tmp_path / "a.html", "out", ReportError, b"mark")


@pytest.mark.parametrize("path", [Path("/dev/null"), Path("/"), Path("/dev/full")])
def test_check_output_device_or_folder_raises(path):
    with pytest.raises(ReportError, match="must be a new file"):
        check_output(path, "out", ReportError, b"")


def test_check_output_link_raises(tmp_path):
    (tmp_path / "a.html").symlink_to("/etc/hostname")
    with pytest.raises(ReportError, match="must be a new file"):
        check_output(tmp_path / "a.html", "out", ReportError, b"")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a\0b",
        "~a\0b",
        "~nosuchuser/a",
        "x" * 10_000,
        "/".join(["ab"] * 2000),
        "\ud800",
        3,
        None,
    ],
)
def test_user_path_that_no_file_can_have_raises_one_line(value):
    with pytest.raises(StorageError, match=r"^`runs` must be a path, got ") as caught:
        user_path(value, "`runs`", StorageError)
    assert len(str(caught.value)) <= 300
    assert str(caught.value).isprintable()


def read_as_nobody(path, results):
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        user_path(path, "`runs`", StorageError)
        results.put("")
    except Exception as error:
        results.put(repr(error))


@pytest.mark.skipif(os.name == "nt", reason="permissions and links of POSIX")
def test_user_path_that_cannot_be_looked_up_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(StorageError, match="symbolic links"):
        user_path(tmp_path / "loop" / "a", "`runs`", StorageError)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to other users
        folder = Path(name) / "closed"
        folder.mkdir(mode=0)
        Path(name).chmod(0o755)
        results = context.Queue()
        process = context.Process(target=read_as_nobody, args=(folder / "a", results))
        process.start()
        message = results.get(timeout=60)
        process.join()
    assert "StorageError" in message
    assert "Permission denied" in message


def test_file_lock_of_another_logs_whom_it_waits_for_and_stops(tmp_path):
    path, lines, asked = tmp_path / "a.lock", [], []

    def stop():
        asked.append(1)
        return len(asked) > 2

    with file_lock(path):
        with pytest.raises(Stopped), file_lock(path, stop=stop, log=lines.append, holder="busy"):
            pass
        with pytest.raises(Timeout), file_lock(path, wait=False):
            pass
    assert lines == [f"Waiting for another process, busy ({str(path)!r})."]
    with file_lock(path, log=lines.append):
        assert len(lines) == 1
