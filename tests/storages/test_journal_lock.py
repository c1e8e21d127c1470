"""The lock of a journal."""

import errno
import os
import threading
import time

import pytest
from optuna.storages.journal import JournalFileSymlinkLock

from glora_automl.storages._journal_lock import LinkLock

fcntl = pytest.importorskip("fcntl")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="symbolic links")


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.log").touch()
    return str(tmp_path / "a.log")


@pytest.mark.parametrize("kind", [LinkLock, JournalFileSymlinkLock])
def test_lock_excludes_other_processes_also_of_optuna(path, kind):
    holder, taken = kind(path), threading.Event()
    holder.acquire()

    def take():
        lock = LinkLock(path)
        lock.acquire()
        taken.set()
        lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(0.3)
    holder.release()
    assert taken.wait(10)
    thread.join()
    assert os.listdir(os.path.dirname(path)) == ["a.log"]


def test_lock_of_a_killed_process_is_taken_over_by_one_of_several(path):
    LinkLock(path).acquire()  # and never released
    inside, most, failures = [], [], []

    def take(number):
        lock = LinkLock(path, grace=0.3)
        try:
            lock.acquire()
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(number)
            lock.release()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=take, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert most == [1] * 5
    assert os.listdir(os.path.dirname(path)) == ["a.log"]


def test_lock_is_not_removed_between_the_look_and_the_removal_of_another(path):
    looking, go, taken = threading.Event(), threading.Event(), threading.Event()

    class Interrupted(LinkLock):
        removes = False

        def _remove(self, expected):
            self.removes = True
            super()._remove(expected)

        def _identity(self):
            found = super()._identity()
            if self.removes:
                looking.set()
                go.wait(10)
            return found

    def take():
        other.acquire()
        taken.set()
        other.release()

    LinkLock(path).acquire()  # and never released
    interrupted, other = Interrupted(path, grace=0.1), LinkLock(path, grace=0.1)
    threads = [threading.Thread(target=interrupted.acquire)]
    threads[0].start()
    assert looking.wait(10)
    threads.append(threading.Thread(target=take))
    threads[1].start()
    # Its link would be the one that is removed next.
    assert not taken.wait(0.5)
    go.set()
    assert taken.wait(10)
    for thread in threads:
        thread.join()


def test_lock_without_locks_of_the_kernel_is_taken_over(path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = LinkLock(path), LinkLock(path, grace=0.1)
    first.acquire()
    second.acquire()
    first.release()
    assert os.path.lexists(f"{path}.lock")
    second.release()
    assert os.listdir(os.path.dirname(path)) == ["a.log"]


def test_lock_that_was_taken_over_stays_with_the_new_holder(path):
    suspended, other, third = LinkLock(path), LinkLock(path, grace=0.1), LinkLock(path, grace=0.1)
    suspended.acquire()
    other.acquire()
    suspended.release()
    assert os.path.lexists(f"{path}.lock")
    other.release()
    third.acquire()
    third.release()
    assert not os.path.lexists(f"{path}.lock")


def test_lock_in_a_folder_that_does_not_exist_raises(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        LinkLock(str(tmp_path / "missing" / "a.log")).acquire()
