import os
import sqlite3
import threading

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage

from glora_automl.errors import StorageError
from glora_automl.storages import default_url, open_storage, storage_errors


def url_of(path):
    return f"sqlite:///{path}"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "studies.db"


@pytest.fixture
def opened():
    """Opens storages and closes their connections at the end."""
    storages = []

    def open_(*args, **kwargs):
        storages.append(open_storage(*args, **kwargs))
        return storages[-1]

    yield open_
    for storage in storages:
        storage.engine.dispose()


def refused(url, **kwargs):
    """The one line with which the storage is refused."""
    with pytest.raises(StorageError) as caught:
        open_storage(url, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert url in message
    return message


def pragmas(connection):
    return tuple(
        connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        for name in ("journal_mode", "synchronous", "busy_timeout")
    )


def test_every_connection_has_a_write_ahead_log_and_patience(path, opened):
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
    assert found == [("wal", normal, 60_000)] * 4


def test_what_is_written_is_there_when_it_is_opened_again(path, opened):
    study = optuna.create_study(study_name="a", storage=opened(url_of(path)))
    study.optimize(lambda trial: trial.suggest_categorical("x", ["b", "c"]) == "b", n_trials=3)
    again = optuna.load_study(study_name="a", storage=opened(url_of(path), create=False))
    assert [t.params for t in again.trials] == [t.params for t in study.trials]


def test_stock_optuna_opens_the_same_file_and_the_other_way_round(path, opened):
    optuna.create_study(study_name="ours", storage=opened(url_of(path)))
    stock = RDBStorage(url_of(path))
    assert optuna.get_all_study_names(stock) == ["ours"]
    study = optuna.create_study(study_name="stock", storage=stock)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    stock.engine.dispose()
    found = optuna.load_study(study_name="stock", storage=opened(url_of(path)))
    assert len(found.trials) == 2


def test_an_empty_file_becomes_a_storage(path, opened):
    path.touch()
    optuna.create_study(study_name="a", storage=opened(url_of(path)))
    assert optuna.get_all_study_names(url_of(path)) == ["a"]


def test_two_writers_wait_for_each_other(path, opened):
    url = url_of(path)
    optuna.create_study(study_name="a", storage=opened(url))
    failures = []

    def work(storage):
        try:
            study = optuna.load_study(study_name="a", storage=storage)
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=10)
        except Exception as error:  # told by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(opened(url),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    numbers = [t.number for t in optuna.load_study(study_name="a", storage=opened(url)).trials]
    assert numbers == list(range(20))


def test_a_text_file_is_refused_and_left_alone(path):
    path.write_text("not a database, but long enough to be looked at as if it were one\n" * 20)
    before = path.read_bytes()
    assert "not a database" in refused(url_of(path))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_database_of_something_else_is_refused_and_left_alone(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE wages (name TEXT, wage INTEGER)")
        connection.execute("INSERT INTO wages VALUES ('a', 1)")
    connection.close()
    before = path.read_bytes()
    assert "'wages'" in refused(url_of(path))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_file_is_not_created_unless_it_may_be(path, opened):
    assert "no such file" in refused(url_of(path), create=False)
    assert list(path.parent.iterdir()) == []
    opened(url_of(path))
    opened(url_of(path), create=False)
    assert path.exists()


def test_a_missing_folder_is_refused_and_not_made(tmp_path):
    assert "no folder" in refused(url_of(tmp_path / "missing" / "studies.db"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    assert "unable to open" in refused(url_of(tmp_path))


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
    ],
)
def test_a_misspelt_url_is_refused_and_makes_no_file(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "must be the URL of a database" in refused(url)
    assert list(tmp_path.iterdir()) == []


def test_a_storage_of_another_optuna_is_refused(path, opened):
    opened(url_of(path)).engine.dispose()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
        connection.execute("UPDATE version_info SET schema_version = 99")
    connection.close()
    refused(url_of(path))


as_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere"
)


@as_root
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        refused(url_of(tmp_path / "studies.db"))
        assert list(tmp_path.iterdir()) == []
    finally:
        tmp_path.chmod(0o755)


@as_root
def test_a_read_only_file_is_refused(path):
    path.touch()
    path.chmod(0o444)
    refused(url_of(path))
    assert path.read_bytes() == b""


def test_the_default_is_a_file_in_the_runs_folder(tmp_path, opened):
    storage = opened(default_url(tmp_path))
    assert (tmp_path / "studies.db").exists()
    assert str(storage.engine.url) == default_url(tmp_path)


def test_what_a_database_raises_in_the_middle_of_work_becomes_one_line(path, opened):
    storage = opened(url_of(path))
    study = optuna.create_study(storage=storage)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE trials")
    line = r"no such table: trials.*run the same command"
    with pytest.raises(StorageError, match=line) as caught, storage_errors():
        study.ask()
    assert "\n" not in str(caught.value)
    query = sqlalchemy.text("SELECT * FROM nowhere")
    connection = storage.engine.connect()
    with connection, pytest.raises(StorageError, match="no such table: nowhere"), storage_errors():
        connection.execute(query)


def test_other_errors_pass_through():
    with pytest.raises(KeyError), storage_errors():
        raise KeyError


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url):
    with pytest.raises(StorageError, match="name a file"):
        open_storage(url)


def test_a_password_is_never_shown():
    with pytest.raises(StorageError) as caught:
        open_storage("sqlite+nothing://me:geheim@localhost/x")
    assert "geheim" not in str(caught.value)
    assert "***" in str(caught.value)
