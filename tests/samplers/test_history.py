import copy
import gc
import pickle
import threading

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.search_space import intersection_search_space
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from glora_automl.samplers import EvolutionSampler, trial_positions
from glora_automl.samplers._history import Histories

NAMES = tuple(f"x{i}" for i in range(5))
SPACE = {name: CategoricalDistribution(range(4)) for name in NAMES}


def sampler(**options):
    return EvolutionSampler(**{"population_size": 5, "n_parents": 2, "seed": 0, **options})


def objective(trial):
    return sum(trial.suggest_categorical(name, SPACE[name].choices) for name in NAMES)


def params(study):
    return [trial.params for trial in study.trials]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "tell", "prune", "fail", "queue"]),
            st.integers(0, 9),
            st.integers(-3, 3),
        ),
        max_size=40,
    ),
    st.booleans(),
)
def test_sampler_with_history_equals_new_sampler(steps, known):
    """Trials finish in any order between two updates."""
    options = {"search_space": SPACE if known else None}
    used = sampler(**options)
    study = optuna.create_study(sampler=sampler(**options))
    running = []
    for step, which, value in steps:
        if step == "queue":
            study.enqueue_trial({"x0": which % 4})
        elif step == "ask" or not running:
            running.append(study.ask(SPACE))
        else:
            trial = running.pop(which % len(running))
            states = {"prune": TrialState.PRUNED, "fail": TrialState.FAIL}
            if step == "tell":
                study.tell(trial, value)
            else:
                study.tell(trial, state=states[step])
        trial = study.ask()._cached_frozen_trial
        space = used.infer_relative_search_space(study, trial)
        new = sampler(**options)
        assert space == new.infer_relative_search_space(study, trial)
        proposal = used.sample_relative(study, trial, space)
        assert proposal == new.sample_relative(study, trial, space)
        study.tell(trial.number, state=TrialState.FAIL)
        with used._histories.read(study) as history:
            assert history.positions == trial_positions(study.trials)


def test_history_space_equals_intersection_search_space():
    study = optuna.create_study()
    histories = Histories()
    spaces = [SPACE, {**SPACE, "y": CategoricalDistribution("ab")}, dict(list(SPACE.items())[1:])]
    for space in spaces:
        for state in (TrialState.PRUNED, TrialState.COMPLETE):
            values = {name: dist.choices[0] for name, dist in space.items()}
            value = 0.0 if state == TrialState.COMPLETE else None
            study.add_trial(
                optuna.create_trial(state=state, value=value, params=values, distributions=space)
            )
            with histories.read(study) as history:
                assert history.space() == intersection_search_space(study.trials)


def test_sampler_shared_by_studies_keeps_them_apart():
    storages = [InMemoryStorage(), InMemoryStorage()]
    shared = sampler()
    studies = [
        optuna.create_study(storage=storage, sampler=shared, study_name=name)
        for storage in storages
        for name in "abc"
    ]
    for size in (3, 7, 12):
        for index, study in enumerate(studies):
            study.optimize(lambda t, i=index: (objective(t) - i) ** 2, n_trials=size)
    for index, study in enumerate(studies):
        standalone = optuna.create_study(sampler=sampler())
        standalone.optimize(lambda t, i=index: (objective(t) - i) ** 2, n_trials=22)
        assert params(study) == params(standalone)


def test_sampler_after_deleted_study_starts_anew(tmp_path):
    storage = optuna.storages.get_storage(f"sqlite:///{tmp_path / 'a.db'}")
    shared = sampler()
    for offset in (0, 3):  # SQLite reuses the ids
        study = optuna.create_study(storage=storage, study_name="a", sampler=shared)
        study.optimize(lambda t, i=offset: (objective(t) - i) ** 2, n_trials=15)
        standalone = optuna.create_study(sampler=sampler())
        standalone.optimize(lambda t, i=offset: (objective(t) - i) ** 2, n_trials=15)
        assert params(study) == params(standalone)
        optuna.delete_study(study_name="a", storage=storage)


def test_history_of_replaced_study_is_cleared():
    histories = Histories()
    study = optuna.create_study()
    trials = study._storage._studies[study._study_id].trials
    for value in range(3):
        study.add_trial(optuna.create_trial(value=value))
    with histories.read(study) as history:
        before = [scored.losses for scored in history.derive(9, "all", list)]
    trials.clear()
    for value in range(5, 9):
        study.add_trial(optuna.create_trial(value=value))
    with histories.read(study) as history:
        after = [scored.losses for scored in history.derive(9, "all", list)]
    assert before == [(0,), (1,), (2,)]
    assert after == [(5,), (6,), (7,), (8,)]


def test_sampler_shared_by_threads_keeps_studies_apart():
    shared = sampler(search_space=SPACE)
    studies = [optuna.create_study(sampler=shared) for _ in range(6)]
    threads = [threading.Thread(target=s.optimize, args=(objective, 40)) for s in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    standalone = optuna.create_study(sampler=sampler(search_space=SPACE))
    standalone.optimize(objective, n_trials=40)
    assert [params(study) for study in studies] == [params(standalone)] * 6


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda sampler: pickle.loads(pickle.dumps(sampler)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copied_sampler_equals_original(copied):
    study = optuna.create_study(sampler=sampler(seed=None))
    study.optimize(objective, n_trials=12)
    trial = study.ask()._cached_frozen_trial
    other = copied(study.sampler)
    space = other.infer_relative_search_space(study, trial)
    assert space == study.sampler.infer_relative_search_space(study, trial) == SPACE
    proposal = study.sampler.sample_relative(study, trial, space)
    assert other.sample_relative(study, trial, space) == proposal


def test_pickled_sampler_has_no_trials():
    used = sampler(search_space=SPACE)
    before = len(pickle.dumps(used))
    study = optuna.create_study(sampler=used)
    study.optimize(objective, n_trials=50)
    assert len(pickle.dumps(used)) == before


def test_histories_of_deleted_storage_are_dropped():
    histories = Histories()
    study = optuna.create_study()
    with histories.read(study):
        pass
    assert len(histories._by_storage) == 1
    del study
    gc.collect()
    assert len(histories._by_storage) == 0


def test_independent_sampling_reads_study_once(monkeypatch):
    study = optuna.create_study(sampler=sampler())
    reads = []
    original = InMemoryStorage.get_all_trials
    monkeypatch.setattr(
        InMemoryStorage,
        "get_all_trials",
        lambda self, *a, **k: reads.append(k.get("states")) or original(self, *a, **k),
    )
    study.optimize(objective, n_trials=1)
    assert reads.count(None) <= 4


def test_trial_positions_of_unknown_retry_are_new():
    study = optuna.create_study(sampler=sampler())
    for attribute in (900, -1, "x", None):
        study.add_trial(optuna.create_trial(value=0.0, system_attrs={"failed_trial": attribute}))
    assert trial_positions(study.trials) == [0, 1, 2, 3]
    study.optimize(objective, n_trials=3)
    assert len(study.trials) == 7
