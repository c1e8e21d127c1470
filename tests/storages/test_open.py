import contextlib
import os
import sqlite3
import tempfile
import threading
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from optuna.storages import RDBStorage

from glora_automl.errors import Stopped, StorageError
from glora_automl.storages import default_url, open_storage, quiet_optuna, storage_errors
from tests.processes import CONTEXT
from tests.refusals import TEXTS, refusal
from tests.storages.creators import create_at_once, draw


def url_of(path):
    return f"sqlite:///{path}"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "studies.db"


@pytest.fixture
def opened():
    """A function that opens storages, whose connections are closed at the end."""
    storages = []

    def open_(*args, **kwargs):
        storages.append(open_storage(*args, **kwargs))
        return storages[-1]

    yield open_
    for storage in storages:
        storage.engine.dispose()


def error_message(url, **kwargs):
    """Return the message with which a storage is refused."""
    with pytest.raises(StorageError) as caught:
        open_storage(url, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert url in message
    assert message.startswith("`storage` must be the URL of a database")
    assert message.endswith("Choose another `storage`.")
    return message


def pragmas(connection):
    return tuple(
        connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        for name in ("journal_mode", "synchronous", "busy_timeout")
    )


def test_sqlite_connections_have_write_ahead_log_and_timeout(path, opened):
    storage = opened(url_of(path))
    found = []

    def look():
        with storage.engine.connect() as first, storage.engine.connect() as second:
            found.extend([pragmas(first), pragmas(second)])

    look()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    normal = 1
    assert found == [("wal", normal, 10_000)] * 4


def test_reopened_storage_has_trials(path, opened):
    study = optuna.create_study(study_name="a", storage=opened(url_of(path)))
    study.optimize(lambda trial: trial.suggest_categorical("x", ["b", "c"]) == "b", n_trials=3)
    again = optuna.load_study(study_name="a", storage=opened(url_of(path), create=False))
    assert [t.params for t in again.trials] == [t.params for t in study.trials]


def test_optuna_and_open_storage_read_each_other(path, opened):
    optuna.create_study(study_name="ours", storage=opened(url_of(path)))
    plain = RDBStorage(url_of(path))
    assert optuna.get_all_study_names(plain) == ["ours"]
    study = optuna.create_study(study_name="plain", storage=plain)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    plain.engine.dispose()
    found = optuna.load_study(study_name="plain", storage=opened(url_of(path)))
    assert len(found.trials) == 2


def test_open_storage_on_empty_file_creates_tables(path, opened):
    path.touch()
    optuna.create_study(study_name="a", storage=opened(url_of(path)))
    assert optuna.get_all_study_names(url_of(path)) == ["a"]


def test_storage_with_two_writers_keeps_all_trials(path, opened):
    url = url_of(path)
    optuna.create_study(study_name="a", storage=opened(url))
    failures = []

    def work(storage):
        try:
            study = optuna.load_study(study_name="a", storage=storage)
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=10)
        except Exception as error:  # raised by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(opened(url),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    numbers = [t.number for t in optuna.load_study(study_name="a", storage=opened(url)).trials]
    assert numbers == list(range(20))


def test_open_storage_on_text_file_raises_and_keeps_it(path):
    path.write_text("not a database, but long enough to be looked at as if it were one\n" * 20)
    before = path.read_bytes()
    assert "not a database" in error_message(url_of(path))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_open_storage_on_foreign_database_raises_and_keeps_it(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE wages (name TEXT, wage INTEGER)")
        connection.execute("INSERT INTO wages VALUES ('a', 1)")
    connection.close()
    before = path.read_bytes()
    assert "'wages'" in error_message(url_of(path))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_open_storage_without_create_raises(path, opened):
    assert "no such file" in error_message(url_of(path), create=False)
    assert list(path.parent.iterdir()) == []
    opened(url_of(path))
    opened(url_of(path), create=False)
    assert path.exists()


def test_open_storage_in_missing_folder_raises(tmp_path):
    assert "no folder" in error_message(url_of(tmp_path / "missing" / "studies.db"))
    assert list(tmp_path.iterdir()) == []


def test_open_storage_on_folder_raises(tmp_path):
    assert "unable to open" in error_message(url_of(tmp_path))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "studies.db",
        "sqlite:/studies.db",
        "sqlight:///studies.db",
        "nosuchdb://localhost/studies",
        "postgresql+nosuchdriver://localhost/studies",
        "postgresql://localhost:port/studies",
        "sqlite+nosuchdriver:///studies.db",
        "sqlite://me@localhost/studies.db",
    ],
)
def test_open_storage_with_malformed_url_raises(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error_message(url)
    assert list(tmp_path.iterdir()) == []


def test_open_storage_of_other_schema_version_raises(path, opened):
    opened(url_of(path)).engine.dispose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        connection.execute("UPDATE version_info SET schema_version = 99")
    connection.close()
    error_message(url_of(path))


as_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere"
)


@as_root
def test_open_storage_in_read_only_folder_raises(tmp_path):
    tmp_path.chmod(0o555)
    try:
        error_message(url_of(tmp_path / "studies.db"))
        assert list(tmp_path.iterdir()) == []
    finally:
        tmp_path.chmod(0o755)


@as_root
def test_open_storage_on_read_only_file_raises(path):
    path.touch()
    path.chmod(0o444)
    error_message(url_of(path))
    assert path.read_bytes() == b""


def test_default_url_is_in_runs_folder(tmp_path, opened):
    storage = opened(default_url(tmp_path))
    assert (tmp_path / "studies.db").exists()
    assert str(storage.engine.url) == default_url(tmp_path)


def test_storage_errors_of_database_raise_one_line(path, opened):
    storage = opened(url_of(path))
    study = optuna.create_study(storage=storage)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE trials")
    line = r"`storage` must stay.*no such table: trials.*Repeat the call to resume\."
    with pytest.raises(StorageError, match=line) as caught, storage_errors():
        study.ask()
    assert "\n" not in str(caught.value)
    query = sqlalchemy.text("SELECT * FROM nowhere")
    connection = storage.engine.connect()
    with connection, pytest.raises(StorageError, match="no such table: nowhere"), storage_errors():
        connection.execute(query)


def test_storage_errors_reraises_other_errors():
    with pytest.raises(KeyError), storage_errors():
        raise KeyError


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_open_storage_in_memory_raises(url):
    with pytest.raises(StorageError, match="name a file"):
        open_storage(url)


def test_open_storage_with_password_hides_it():
    with pytest.raises(StorageError) as caught:
        open_storage("sqlite+nothing://me:geheim@localhost/x")
    assert "geheim" not in str(caught.value)
    assert "***" in str(caught.value)


def test_quiet_optuna_of_overlapping_blocks_restores_the_level():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        first, second = quiet_optuna(), quiet_optuna()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING
        second.__exit__(None, None, None)
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(before)


def test_open_storage_beside_a_process_that_creates_tables_waits_for_none(path, opened):
    """Another program has created some of the tables, and may be suspended."""
    opened(url_of(path)).engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in ("version_info", "alembic_version", "trial_values"):
            connection.execute(f"DROP TABLE {table}")
    study = optuna.create_study(storage=opened(url_of(path)))
    study.optimize(draw, n_trials=1)
    assert len(study.trials) == 1


def test_open_storage_by_several_processes_at_once_creates_one_database(path):
    for attempt in range(3):
        url = url_of(path.with_name(f"{attempt}.db"))
        barrier, results = CONTEXT.Barrier(4), CONTEXT.Queue()
        arguments = (url, barrier, results)
        processes = [CONTEXT.Process(target=create_at_once, args=arguments) for _ in range(4)]
        for process in processes:
            process.start()
        assert [results.get(timeout=60) for _ in processes] == [""] * 4
        for process in processes:
            process.join()
        assert len(optuna.load_study(study_name="a", storage=url).trials) == 4
    assert not list(path.parent.glob(".*")), "no temporary file is left"


def test_open_storage_with_stop_stops_waiting_for_a_locked_database(path, monkeypatch):
    monkeypatch.setattr("glora_automl.storages._database._BUSY", 0.1)
    path.touch()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Stopped):
            open_storage(url_of(path), stop=lambda: True)
        with pytest.raises(StorageError, match="locked"):
            open_storage(url_of(path), patience=0.2)


def read_as_nobody(url, results):
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        storage = open_storage(url, create=False, write=False)
        results.put(len(optuna.load_study(study_name="a", storage=storage).trials))
    except Exception as error:
        results.put(repr(error))


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize("kind", ["sqlite", "open sqlite", "journal"])
def test_open_storage_to_read_in_read_only_folder_reads_trials(kind, opened):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to other users
        folder = Path(name) / "what? 100%"
        folder.mkdir()
        Path(name).chmod(0o755)
        url = f"{folder}/a.log" if kind == "journal" else url_of(folder / "a.db")
        storage = open_storage(url)
        study = optuna.create_study(study_name="a", storage=storage)
        study.optimize(draw, n_trials=3)
        if kind == "sqlite":
            storage.engine.dispose()
        before = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".db-shm"}
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        results = CONTEXT.Queue()
        process = CONTEXT.Process(target=read_as_nobody, args=(url, results))
        process.start()
        found = results.get(timeout=60)
        process.join()
        folder.chmod(0o755)
        assert found == 3
        assert before == {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".db-shm"}
        if kind == "open sqlite":
            storage.engine.dispose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sqlite:///file:a.db?uri=true&mode=ro", "no such file"),
        ("sqlite:///file:a.db?uri=true&mode=rw", "no such file"),
        ("sqlite:///file:a.db?uri=true&mode=memory", "a database in memory"),
        ("sqlite:///file::memory:?uri=true", "a database in memory"),
        ("sqlite:///a.db?uri=true&vfs=unix", "the path must begin with file:"),
        ("sqlite:///a.db?uri=perhaps", "not true/false"),
    ],
)
def test_open_storage_uri_of_sqlite_without_a_file_to_write_is_refused(
    tmp_path, monkeypatch, url, reason
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=reason):
        open_storage(url)
    assert list(tmp_path.iterdir()) == []


def test_open_storage_uri_of_sqlite_opens_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(
        study_name="a", storage=open_storage("sqlite:///file:a%20b.db?mode=rwc&uri=true")
    )
    study.optimize(draw, n_trials=2)
    assert len(optuna.load_study(study_name="a", storage="sqlite:///a b.db").trials) == 2


URLS = st.builds(
    "{}{}{}".format,
    st.sampled_from(
        ["", "sqlite:///", "sqlite://", "postgresql+psycopg://", "postgresql://", "mysql+pymysql://",
         "x://", "://", ":///"]
    ),
    st.sampled_from(
        ["", "me:gehe1m99@localhost:1/d", "me:gehe1m99@[::1]:1/d?x=", "me:gehe1m99@localhost:port/",
         "localhost:1/d?user=me&password=gehe1m99", "me:gehe@1m99@localhost:1/",
         "file:a?uri=true", "file:a?mode=rwc&uri=1&x=", "file::memory:?uri=true", "file:", "a?uri="]
    ),
    TEXTS,
)  # fmt: skip


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(url=URLS)
@example(url="me:gehe1m99@localhost:port/")  # a scheme is missing
@example(url="mysql+pymysql://me:gehe1m99@[::1]:1/d?x= ")  # the driver raises a TypeError
@example(url="sqlite:///file:a")  # a file of this name
@example(url="sqlite:///file:a?uri=true")
def test_open_storage_any_url_is_refused_in_one_line_without_its_password(
    tmp_path, monkeypatch, url
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("glora_automl._messages._SECRETS", set())  # of other examples
    message = refusal(open_storage, url, create=False, patience=0)
    assert message is not None
    assert "gehe1m99" not in message
    assert list(tmp_path.iterdir()) == []
