"""The lock of a journal."""

import os
import threading
import time

import pytest
from optuna.storages.journal import JournalFileSymlinkLock

from glora_automl.storages._journal_lock import LinkLock

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
