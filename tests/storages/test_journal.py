"""Journal files: incomplete lines and other files."""

import contextlib
import json
import multiprocessing

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.testing.pytest_storages import StorageTestCase

from glora_automl.errors import StorageError
from glora_automl.storages import open_storage, storage_errors


class TestOptunaSuite(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path):
        return open_storage(str(tmp_path / "studies.log"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "studies.log"


def fill(storage, trials=3):
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
    return study


def test_optuna_reads_journal(path):
    study = fill(open_storage(str(path)))
    plain = JournalStorage(JournalFileBackend(str(path)))
    assert optuna.load_study(study_name="s", storage=plain).trials == study.trials


@pytest.mark.parametrize(
    "incomplete", [b'{"op_code":5,"wor', b"{", b'{"op_code":4}' + b" " * 70_000]
)
def test_open_journal_with_incomplete_line_removes_it_and_warns(path, incomplete, caplog):
    trials = fill(open_storage(str(path))).trials
    whole = path.read_bytes()
    path.write_bytes(whole + incomplete)
    study = fill(open_storage(str(path)), trials=0)
    assert study.trials == trials
    assert path.read_bytes().startswith(whole)
    assert f"{len(incomplete)} bytes" in caplog.text
    assert not path.with_suffix(".log.lock").exists()


def test_append_after_incomplete_line_removes_it(path, caplog):
    study = fill(open_storage(str(path)))
    with path.open("ab") as file:
        file.write(b'{"op_code":5')  # an interrupted write
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    for line in path.read_text(encoding="utf-8").splitlines():
        json.loads(line)
    fresh = optuna.load_study(study_name="s", storage=open_storage(str(path)))
    assert len(fresh.trials) == 5
    assert "12 bytes" in caplog.text


def test_open_journal_for_reading_keeps_incomplete_line(path):
    fill(open_storage(str(path)))
    with path.open("ab") as file:
        file.write(b'{"op_code":5')
    before = path.read_bytes()
    study = optuna.load_study(study_name="s", storage=open_storage(str(path), write=False))
    assert len(study.trials) == 3
    assert path.read_bytes() == before


def test_open_journal_with_only_incomplete_line_is_empty(path):
    path.write_bytes(b'{"op_co')
    assert optuna.get_all_study_names(open_storage(str(path))) == []
    assert path.read_bytes() == b""


def add(path, count):
    fill(open_storage(path), count)


def test_journal_with_several_processes_keeps_all_trials(path):
    fill(open_storage(str(path)), 0)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add, args=(str(path), 10)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    study = optuna.load_study(study_name="s", storage=open_storage(str(path)))
    assert [trial.number for trial in study.trials] == list(range(30))


@pytest.mark.parametrize(
    "text",
    ["hello\n", '{"a": 1}\n', "[1, 2]\n", "12\n", "without a newline", "x" * 100_000, "a\nb"],
    ids=lambda text: text[:8].strip(),
)
@pytest.mark.parametrize("write", [True, False])
def test_open_journal_on_other_file_raises_and_keeps_it(path, text, write):
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StorageError, match="not a journal"):
        open_storage(str(path), write=write)
    assert path.read_text(encoding="utf-8") == text


def test_open_journal_without_create_raises(path, tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        open_storage(str(path), create=False)
    with pytest.raises(StorageError, match="no folder"):
        open_storage(str(tmp_path / "nowhere/studies.log"))
    with pytest.raises(StorageError, match=r"\.log or \.journal"):
        open_storage(str(tmp_path / "studies.txt"))
    assert list(tmp_path.iterdir()) == []


def test_append_to_full_disk_raises_one_line_and_keeps_whole_lines(path, monkeypatch):
    study = fill(open_storage(str(path)))
    whole = path.read_bytes()

    def full(descriptor):
        with path.open("rb+") as file:  # a part of the written line fits
            file.truncate(len(whole) + 10)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("glora_automl.storages._journal.os.fsync", full)
        with pytest.raises(StorageError, match="No space left on device"), storage_errors():
            study.ask()
    assert not path.with_suffix(".log.lock").exists()
    study = fill(open_storage(str(path)), 1)
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert path.read_bytes().startswith(whole)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def test_open_journal_with_any_lost_or_altered_line_raises_one_line(path):
    fill(open_storage(str(path)))
    whole = lines_of(path)
    altered = [[*whole[:i], *whole[i + 1 :]] for i in range(len(whole) - 1)]
    altered += [[*whole[:i], b"\x00\xff\n", *whole[i + 1 :]] for i in range(1, len(whole))]
    altered += [[*whole[:i], b"3\n", *whole[i + 1 :]] for i in range(1, len(whole))]
    altered.append([*whole[:2], whole[3], whole[2], *whole[4:]])
    for lines in altered:
        path.write_bytes(b"".join(lines))
        with pytest.raises(StorageError, match="a line is lost or altered") as caught:
            open_storage(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    ["{}", '{"op_code":4}', '{"op_code":99,"worker_id":"w"}', '{"op_code":[],"worker_id":0}'],
)
def test_open_journal_with_a_last_line_of_another_program_raises_one_line(path, line):
    fill(open_storage(str(path)))
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(StorageError, match="no operation of Optuna") as caught:
        open_storage(str(path))
    assert "\n" not in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=60))
def test_open_journal_with_any_line_opens_or_raises_storage_error(tmp_path_factory, line):
    path = tmp_path_factory.mktemp("journal") / "a.log"
    fill(open_storage(str(path)), 1)
    with path.open("ab") as file:
        file.write(line + b"\n")
    with contextlib.suppress(StorageError):
        open_storage(str(path))


def test_open_journal_with_lines_of_optuna_reads_all(path):
    fill(JournalStorage(JournalFileBackend(str(path))))
    fill(open_storage(str(path)))
    fill(JournalStorage(JournalFileBackend(str(path))))
    assert len(fill(open_storage(str(path))).trials) == 12


@pytest.mark.parametrize("n_more", [0, 1, 20])
def test_journal_replaced_by_an_older_backup_raises_and_is_not_written(path, n_more):
    study = fill(open_storage(str(path)))
    backup = path.read_bytes()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=4)
    path.write_bytes(backup)
    fill(open_storage(str(path)), n_more)
    before = path.read_bytes()
    for call in (study.ask, study.get_trials):
        with pytest.raises(StorageError, match=r"shorter|altered"), storage_errors():
            call()
    assert path.read_bytes() == before
    assert len(fill(open_storage(str(path)), 0).trials) == 3 + n_more


def test_append_by_a_worker_that_was_suspended_with_the_lock_keeps_all_lines(path, monkeypatch):
    """Others take its lock over after 10 seconds."""
    study = fill(open_storage(str(path)))
    other = fill(open_storage(str(path)), 0)
    backend = study._storage._backend
    truncate = backend._truncate

    def truncate_and_sleep(file):
        line = truncate(file)
        monkeypatch.undo()
        backend.lock.release()
        other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        backend.lock.acquire()
        return line

    monkeypatch.setattr(backend, "_truncate", truncate_and_sleep)
    study.set_user_attr("late", 1)
    fresh = fill(open_storage(str(path)), 0)
    assert len(fresh.trials) == 5
    assert fresh.user_attrs == study.user_attrs == {"late": 1}
