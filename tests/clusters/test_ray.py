"""Workers as actors of a real Ray cluster on this machine."""

import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest
from optuna.storages import InMemoryStorage

from glora_automl import Workspace, resume
from glora_automl.clusters import search_on_ray
from glora_automl.clusters._ray import RayWorker, _check, _connect, _named, _start
from glora_automl.errors import GLoRAError, Stopped, StorageError
from glora_automl.progress import LineProgress
from glora_automl.study import summarize

ray = pytest.importorskip("ray", reason="needs ray")


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine with two CPUs."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def test_search_on_ray_runs_one_worker_per_cpus(cluster, tiny, tmp_path):
    lines = []
    progress = LineProgress(lines.append)
    workspace = Workspace(
        runs=tmp_path, heartbeat=1.0, device="cpu", log_format="text", progress=progress
    )
    result = search_on_ray(
        tiny.replace(search={"n_trials": 6}, selection={"n_candidates": 1}),
        cpus_per_worker=1,
        workspace=workspace,
    )
    assert lines[0] == "Ray: 2 workers, each with 1 CPUs."
    summary = summarize(result.study)
    assert summary["trials"]["complete"] == 6
    # Two processes took part, none of them this one.
    workers = {name.rsplit("-", 2)[1] for name in summary["workers"]}
    assert len(workers) == 2
    assert str(os.getpid()) not in workers
    assert len(list((tmp_path / "tiny/logs").iterdir())) >= 2
    assert (tmp_path / "tiny/winner.json").is_file()


def process_of(actor):
    return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))


@pytest.mark.slow
def test_ray_worker_that_is_killed_is_started_again(cluster, tiny, tmp_path):
    recipe = tiny.replace(
        training={"epochs": 60}, search={"n_trials": 4}, selection={"baselines": False}
    )
    fields = {"runs": str(tmp_path), "heartbeat": 1.0, "device": "cpu"}
    actor = ray.remote(RayWorker).options(
        max_concurrency=3, max_restarts=-1, max_task_retries=-1, num_cpus=1
    )
    worker = actor.remote(recipe.model_dump(mode="json"), None, fields)
    first, running = process_of(worker), worker.run.remote()
    while not (tmp_path / "tiny").is_dir():
        time.sleep(0.05)
    os.kill(first, signal.SIGKILL)
    assert ray.get(running, timeout=120) == "tiny"
    assert process_of(worker) != first
    result = resume("tiny", workspace=Workspace(runs=tmp_path))
    assert summarize(result.study)["trials"]["complete"] == 4
    ray.kill(worker)


def test_search_on_ray_that_is_stopped_stops_its_workers(cluster, tiny, tmp_path):
    begin = time.monotonic()
    workspace = Workspace(runs=tmp_path, stop=lambda: time.monotonic() - begin > 1, device="cpu")
    with pytest.raises(Stopped):
        search_on_ray(tiny.replace(training={"epochs": 5000}), workspace=workspace)


@pytest.mark.parametrize("stopped", [False, True])
def test_search_on_ray_ends_with_an_actor_that_has_no_place(
    cluster, tiny, tmp_path, monkeypatch, stopped
):
    @ray.remote(num_cpus=1)
    class Other:
        def ready(self):
            return True

    monkeypatch.setattr("glora_automl.clusters._ray.STOP_TIMEOUT", 3.0)
    other = Other.remote()
    assert ray.get(other.ready.remote())
    begin = time.monotonic()
    stop = (lambda: time.monotonic() - begin > 1) if stopped else None
    workspace = Workspace(runs=tmp_path, stop=stop, device="cpu")
    recipe = tiny.replace(
        training={"epochs": 5000 if stopped else 2, "warmup_epochs": 0},
        search={"n_trials": 3},
        selection={"baselines": False},
    )
    try:
        if stopped:
            with pytest.raises(Stopped):
                search_on_ray(recipe, cpus_per_worker=1, workspace=workspace)
        else:
            result = search_on_ray(recipe, cpus_per_worker=1, workspace=workspace)
            assert summarize(result.study)["trials"]["complete"] == 3
    finally:
        ray.kill(other)


def test_search_on_ray_with_wrong_input_raises_before_workers_start(cluster, tiny, tmp_path):
    with pytest.raises(GLoRAError, match="`cpus_per_worker` must be from 1"):
        search_on_ray(tiny, cpus_per_worker=0, workspace=Workspace(runs=tmp_path))
    with pytest.raises(GLoRAError, match="`n_workers` must be from 1"):
        search_on_ray(tiny, n_workers=0, workspace=Workspace(runs=tmp_path))
    with pytest.raises(StorageError, match="must be a URL or a path for workers of Ray"):
        search_on_ray(tiny, workspace=Workspace(runs=tmp_path, storage=InMemoryStorage()))


def test_search_on_ray_of_several_machines_refuses_a_sqlite_file(
    cluster, tiny, tmp_path, monkeypatch
):
    nodes = [*ray.nodes(), {"NodeManagerHostname": "head", "Alive": True}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    for storage in (None, f"sqlite:///{tmp_path}/a.db"):
        with pytest.raises(StorageError, match=r"that 'head' reaches, too, got the SQLite file"):
            search_on_ray(tiny, workspace=Workspace(runs=tmp_path, storage=storage))
    assert not list(tmp_path.rglob("*.db"))


def test_named_workspace_has_absolute_paths(tmp_path, monkeypatch):
    """The processes of Ray have working folders of their own."""
    monkeypatch.chdir(tmp_path)
    for storage, expected in (
        ("a.log", f"{tmp_path}/a.log"),
        ("sqlite:///a.db", f"sqlite:///{tmp_path}/a.db"),
        ("sqlite:///a.db?timeout=5", f"sqlite:///{tmp_path}/a.db?timeout=5"),
        ("sqlite:////x/a.db", "sqlite:////x/a.db"),
        ("sqlite://", "sqlite://"),
        ("postgresql://localhost:port/a", "postgresql://localhost:port/a"),
        ("postgresql+psycopg://me:secret@db/a", "postgresql+psycopg://me:secret@db/a"),
    ):
        found = _named(Workspace(storage=storage, artifacts="files", data="images"))
        assert found.storage == expected
        assert found.artifacts == str(tmp_path / "files")
        assert found.data == str(tmp_path / "images")
    assert _named(Workspace(artifacts="s3://bucket/a")).artifacts == "s3://bucket/a"


class FakeRay:
    """A Ray that keeps what actors ask for."""

    def __init__(self, **resources):
        self.resources, self.asked = resources, []

    def cluster_resources(self):
        return self.resources

    def remote(self, kind):
        return self

    def options(self, *, max_concurrency, max_restarts, max_task_retries, **needs):
        self.needs = needs
        return SimpleNamespace(remote=lambda *arguments: self.asked.append(needs))


GPU, CPUS = {"num_gpus": 1, "num_cpus": 1}, {"num_cpus": 2}


@pytest.mark.parametrize(
    ("resources", "device", "n_workers", "asked", "waits"),
    [
        ({"CPU": 2.0}, "auto", None, [CPUS], None),
        ({"CPU": 8.0, "GPU": 2.0}, "auto", None, [GPU] * 2, None),
        ({"CPU": 8.0, "GPU": 2.0}, "cpu", None, [CPUS] * 4, None),
        ({"CPU": 8.0, "GPU": 2.0}, "auto", 4, [GPU] * 4, 2),
        ({"CPU": 2.0}, "cuda", 4, [GPU] * 4, 0),
        ({"CPU": 2.0}, "cuda", None, [GPU], 0),
        ({"CPU": 1.0}, "auto", None, [{"num_cpus": 1}], None),
        ({"CPU": 1.0}, "auto", 3, [CPUS] * 3, 0),
    ],
)
def test_workers_ask_for_gpus_that_the_autoscaler_adds(
    tiny, tmp_path, resources, device, n_workers, asked, waits
):
    fake, lines = FakeRay(**resources), []
    workspace = Workspace(runs=tmp_path, device=device, progress=LineProgress(lines.append))
    _start(fake, tiny, None, n_workers, 2, workspace)
    assert fake.asked == asked
    assert lines[1:] == (
        []
        if waits is None
        else [f"Ray has a place for {waits} of them now. The others wait for its autoscaler."]
    )


def test_connect_keeps_the_handler_of_sigterm(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    _connect(ray, None)
    assert signal.getsignal(signal.SIGTERM) == before


def test_connect_leaves_a_handler_that_python_does_not_know(monkeypatch):
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # one of C
    _connect(ray, None)


@pytest.mark.parametrize("address", ["", "no cluster", "http://a", "ray://"])
def test_search_on_ray_with_wrong_address_raises(tiny, tmp_path, monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(GLoRAError, match="`workers` must be ray, or the address"):
        search_on_ray(tiny, address, workspace=Workspace(runs=tmp_path))


def test_error_of_a_worker_is_raised_as_it_was(cluster):
    @ray.remote
    def fail():
        raise StorageError("The database is full.")

    with pytest.raises(StorageError, match=r"^The database is full\.$"):
        _check(ray, fail.remote())


def test_search_on_ray_without_ray_names_the_extra(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GLoRAError, match=r'pip install "glora-automl\[ray\]"'):
        search_on_ray(tiny, workspace=Workspace(runs=tmp_path))
