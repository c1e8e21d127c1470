import itertools
import types

import optuna
import pytest

from glora_automl.errors import Stopped, StudyError
from glora_automl.pipeline import Publisher
from glora_automl.progress import Progress
from glora_automl.workers import Evaluation, Stages, Worker, run_trials


class Logged(Progress):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


@pytest.fixture
def run(storage, tmp_path):
    """The parts of a run that a publisher uses, with generations of three trials."""
    study = optuna.create_study(study_name="s", storage=storage)
    progress = Logged()
    with Worker(storage, heartbeat=1) as worker:
        search = types.SimpleNamespace(population_size=3)
        context = types.SimpleNamespace(
            recipe=types.SimpleNamespace(search=search), progress=progress
        )
        stages = Stages("s", storage, worker, tmp_path, progress, "key")
        yield types.SimpleNamespace(study=study, context=context, stages=stages, worker=worker)


def publisher_of(run, publish):
    return Publisher(types.SimpleNamespace(**{**run.__dict__, "publish": publish}))


def test_publisher_publishes_after_a_generation(run):
    published = []
    publisher = publisher_of(run, published.append)
    publisher.max_share = float("inf")
    for before, now in itertools.pairwise([0, 1, 2, 3, 4, 7, 9]):
        publisher.after_trials(before, now)
    assert published == [run.study] * 3
    publisher.publish()
    assert len(published) == 4
    publisher_of(run, None).publish()


def test_publisher_takes_a_small_share_of_the_time_before_the_end(run):
    published = []
    publisher = publisher_of(run, published.append)
    publisher.max_share = 1e-9
    for now in range(20):
        publisher.after_trials(now, now + 1)
    assert len(published) == 1
    publisher.publish()
    assert len(published) == 2


def test_publisher_error_is_logged_and_ends_nothing(run):
    def broken(study):
        raise StudyError("no\nlayers")

    publisher_of(run, broken).publish()
    assert run.context.progress.lines == ["Note and pictures were not refreshed: no layers"]
    assert run.stages.running() == []

    def stopped(study):
        raise Stopped

    with pytest.raises(Stopped):
        publisher_of(run, stopped).publish()


def test_publisher_one_worker_at_a_time_publishes(run, tmp_path):
    order = []
    with Worker(run.study._storage, heartbeat=1) as second:
        stages = Stages("s", run.study._storage, second, tmp_path / "b", Progress(), "key")
        other = types.SimpleNamespace(**{**run.__dict__, "stages": stages, "worker": second})

        def inner(study):
            order.append("first")
            publisher_of(other, lambda study: order.append("second")).publish()

        publisher_of(run, inner).publish()
        assert order == ["first"]
        publisher_of(other, lambda study: order.append("second")).publish()
        assert order == ["first", "second"]


def test_run_trials_calls_on_trials_of_the_worker_of_the_last_trial(run):
    counts = []

    def propose(trial):
        trial.suggest_float("x", 0, 1)
        return lambda: Evaluation((0.0,), {})

    def search(worker, target):
        run_trials(
            run.study,
            propose,
            worker=worker,
            target=lambda: target,
            progress=Progress(),
            on_trials=lambda before, now: counts.append((worker.name, before, now)),
        )

    search(run.worker, 3)
    assert counts == [(run.worker.name, n, n + 1) for n in range(3)]
    counts.clear()
    with Worker(run.study._storage, heartbeat=1) as second:
        search(second, 4)
    assert counts == [(second.name, 3, 4)]
