"""Database servers: MariaDB and PostgreSQL."""

import socket
import threading

import optuna
import pytest
import sqlalchemy
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from glora_automl.commands import search
from glora_automl.pipeline import Workspace
from glora_automl.storages import _database, open_storage
from tests.processes import CONTEXT
from tests.refusals import refusal
from tests.storages.creators import create_at_once, draw
from tests.storages.servers import mariadb, postgresql


@pytest.fixture(scope="module", params=["mariadb", "postgresql"])
def server(request, tmp_path_factory):
    """URL of a database of a real server."""
    if request.param == "mariadb":
        with mariadb() as url:
            yield url
    else:
        with postgresql(tmp_path_factory.mktemp("server")) as url:
            yield url


@pytest.fixture
def url(server):
    """URL of an empty database of a real server."""
    engine = sqlalchemy.create_engine(server)
    metadata = sqlalchemy.MetaData()
    metadata.reflect(engine)
    metadata.drop_all(engine)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return server


@pytest.fixture
def storage(url):
    opened = open_storage(url)
    yield opened
    opened.engine.dispose()


WHOLE_SECONDS = {
    "test_create_new_trial",
    "test_create_new_trial_with_template_trial",
    "test_get_trial",
    "test_get_all_trials",
}
"""Tests of Optuna that compare microseconds, which MariaDB does not keep."""


# On PostgreSQL, test_fast.py has this suite.
@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
class TestOptunaSuite(StorageTestCase):
    @pytest.fixture(autouse=True)
    def _skip_microseconds(self, request):
        if request.function.__name__ in WHOLE_SECONDS:
            pytest.skip("MariaDB keeps whole seconds")


def test_search_on_a_server_finishes_and_is_found_again(tiny, url, tmp_path):
    recipe = tiny.replace(search={"n_trials": 8}, selection={"baselines": False})
    workspace = Workspace(runs=tmp_path, storage=url, device="cpu")
    result = search(recipe, workspace=workspace)
    assert [t.state for t in result.study.trials] == [TrialState.COMPLETE] * 8
    expected = search(recipe, workspace=Workspace(runs=tmp_path / "sqlite", device="cpu"))
    assert [t.params for t in result.study.trials] == [t.params for t in expected.study.trials]
    assert search(recipe, workspace=workspace).selection == result.selection


def test_open_storage_by_several_processes_at_once_creates_one_database(url):
    barrier, results = CONTEXT.Barrier(4), CONTEXT.Queue()
    arguments = (url, barrier, results)
    processes = [CONTEXT.Process(target=create_at_once, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=120) for _ in processes] == [""] * 4
    for process in processes:
        process.join()
    assert len(optuna.load_study(study_name="a", storage=url).trials) == 4


class Suspended(_database.RDBStorage):
    """Optuna's storage in a process that was suspended while it created tables."""

    suspended = False

    def __init__(self, url, engine_kwargs):
        if not Suspended.suspended:
            Suspended.suspended = True
            engine = sqlalchemy.create_engine(url, **engine_kwargs)
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE studies (study_id INTEGER)")
                connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        super().__init__(url, engine_kwargs)


def test_open_storage_whose_transaction_was_ended_meanwhile_creates_the_tables(url, monkeypatch):
    if url.startswith("mysql"):
        pytest.skip("MariaDB creates each table at once")
    monkeypatch.setattr(_database, "_storage_class", lambda: Suspended)
    storage = open_storage(url)
    assert Suspended.suspended
    optuna.create_study(storage=storage).optimize(draw, n_trials=1)
    storage.engine.dispose()


def test_get_trials_after_study_was_deleted_and_begun_again_reads_the_new_trials(storage, url):
    optuna.create_study(study_name="a", storage=storage).optimize(draw, n_trials=3)
    other = open_storage(url)
    optuna.delete_study(study_name="a", storage=other)
    begun = optuna.create_study(study_name="a", storage=other)
    begun.optimize(draw, n_trials=2)
    again = optuna.load_study(study_name="a", storage=storage)
    assert again.trials == begun.trials
    again.optimize(draw, n_trials=1)
    assert len(begun.trials) == 3
    other.engine.dispose()


def test_worker_that_is_suspended_in_a_transaction_does_not_block_others(url, monkeypatch):
    shorter = {
        name: tuple(s.replace("20s", "1s").replace("30s", "2s") for s in statements)
        for name, statements in _database._STATEMENTS.items()
    }
    shorter = {
        name: tuple(s.replace("timeout = 20", "timeout = 1") for s in statements)
        for name, statements in shorter.items()
    }
    monkeypatch.setattr(_database, "_STATEMENTS", shorter)
    monkeypatch.setattr(_database, "_IDLE", "SET SESSION idle_transaction_timeout = 2")
    suspended, storage = open_storage(url), open_storage(url)
    study = optuna.create_study(study_name="a", storage=storage)
    connection = suspended.engine.connect()
    row = f"SELECT * FROM studies WHERE study_id = {study._study_id} FOR UPDATE"
    connection.exec_driver_sql(row)  # as Optuna does to create a trial
    study.optimize(draw, n_trials=1)
    assert len(study.trials) == 1
    with pytest.raises(sqlalchemy.exc.DBAPIError):
        connection.exec_driver_sql("SELECT 1")
    connection.invalidate()
    connection.close()
    assert optuna.load_study(study_name="a", storage=suspended).trials == study.trials
    for opened in (suspended, storage):
        opened.engine.dispose()


def test_open_storage_before_the_server_runs_waits_for_it(tmp_path, caplog):
    """A scheduler starts workers and database in any order."""
    psycopg = pytest.importorskip("psycopg", reason="needs psycopg")
    with postgresql(tmp_path) as url:
        target = sqlalchemy.make_url(url)
        with psycopg.connect(target.set(drivername="postgresql").render_as_string(False)) as probe:
            path = f"{probe.info.host}/.s.PGSQL.{probe.info.port}"
        late = target.set(query={"host": str(tmp_path / "late")})
        late = late.set(port=None, host=None)
        (tmp_path / "late").mkdir()
        link = tmp_path / "late/.s.PGSQL.5432"
        threading.Timer(1.5, lambda: link.symlink_to(path)).start()
        storage = open_storage(late.render_as_string(False), patience=60)
        assert link.exists()
        storage.engine.dispose()
    (line,) = [r.getMessage() for r in caplog.records if "does not answer" in r.getMessage()]
    assert line.endswith("Retrying for 60 s.")


@pytest.mark.parametrize(
    ("text", "temporary"),
    [
        ("connection to server at 127.0.0.1, port 1 failed: Connection refused", True),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", True),
        ("FATAL:  the database system is starting up", True),
        ("FATAL:  sorry, too many clients already", True),
        (
            "(2003, \"Can't connect to MySQL server on 'db' ([Errno 111] Connection refused)\")",
            True,
        ),
        ('FATAL:  password authentication failed for user "me"', False),
        ('FATAL:  database "glora" does not exist', False),
        ("(1045, \"Access denied for user 'me'@'db' (using password: YES)\")", False),
    ],
)
def test_open_storage_waits_only_for_what_waiting_cures(monkeypatch, text, temporary):
    attempts = []

    def refuse(*arguments):
        attempts.append(1)
        raise sqlalchemy.exc.OperationalError(None, None, RuntimeError(text))

    monkeypatch.setattr(_database, "_refuse_foreign", refuse)
    refusal(open_storage, "postgresql+psycopg://me@db/glora", patience=0.1)
    assert (len(attempts) > 1) == temporary


def test_open_storage_server_that_never_answers_is_one_line(monkeypatch):
    pytest.importorskip("pymysql", reason="needs PyMySQL")
    monkeypatch.setattr(_database, "_READ_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mysql+pymysql://me@127.0.0.1:{silent.getsockname()[1]}/studies"
        message = refusal(open_storage, url, patience=0)
    assert "timed out" in message
