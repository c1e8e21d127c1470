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
def test_a_sampler_that_has_looked_before_says_what_a_fresh_one_says(steps, known):
    """Trials finish in any order, between one look and the next."""
    options = {"search_space": SPACE if known else None}
    old = sampler(**options)
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
        space = old.infer_relative_search_space(study, trial)
        fresh = sampler(**options)
        assert space == fresh.infer_relative_search_space(study, trial)
        proposal = old.sample_relative(study, trial, space)
        assert proposal == fresh.sample_relative(study, trial, space)
        study.tell(trial.number, state=TrialState.FAIL)
        with old._histories.read(study) as history:
            assert history.positions == trial_positions(study.trials)


def test_the_space_found_out_is_that_of_optuna():
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


def test_one_sampler_can_take_turns_on_studies_and_storages():
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


def test_the_successor_of_a_deleted_study_is_another_study(tmp_path):
    storage = optuna.storages.get_storage(f"sqlite:///{tmp_path / 'a.db'}")
    shared = sampler()
    for offset in (0, 3):  # SQLite gives the successor the same numbers
        study = optuna.create_study(storage=storage, study_name="a", sampler=shared)
        study.optimize(lambda t, i=offset: (objective(t) - i) ** 2, n_trials=15)
        standalone = optuna.create_study(sampler=sampler())
        standalone.optimize(lambda t, i=offset: (objective(t) - i) ** 2, n_trials=15)
        assert params(study) == params(standalone)
        optuna.delete_study(study_name="a", storage=storage)


def test_a_study_that_was_replaced_between_two_looks_is_noticed():
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


def test_threads_give_the_trials_that_they_would_give_alone():
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
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_go_on_as_the_original(copied):
    study = optuna.create_study(sampler=sampler(seed=None))
    study.optimize(objective, n_trials=12)
    trial = study.ask()._cached_frozen_trial
    copy_of_it = copied(study.sampler)
    space = copy_of_it.infer_relative_search_space(study, trial)
    assert space == study.sampler.infer_relative_search_space(study, trial) == SPACE
    proposal = study.sampler.sample_relative(study, trial, space)
    assert copy_of_it.sample_relative(study, trial, space) == proposal


def test_copies_carry_no_trials():
    made = sampler(search_space=SPACE)
    before = len(pickle.dumps(made))
    study = optuna.create_study(sampler=made)
    study.optimize(objective, n_trials=50)
    assert len(pickle.dumps(made)) == before


def test_a_storage_that_is_gone_is_forgotten():
    histories = Histories()
    study = optuna.create_study()
    with histories.read(study):
        pass
    assert len(histories._kept) == 1
    del study
    gc.collect()
    assert len(histories._kept) == 0


def test_parameters_drawn_one_by_one_do_not_read_the_study_each_time(monkeypatch):
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


def test_a_retry_of_a_trial_that_is_not_here_is_a_trial_of_its_own():
    study = optuna.create_study(sampler=sampler())
    for attribute in (900, -1, "x", None):
        study.add_trial(optuna.create_trial(value=0.0, system_attrs={"failed_trial": attribute}))
    assert trial_positions(study.trials) == [0, 1, 2, 3]
    study.optimize(objective, n_trials=3)
    assert len(study.trials) == 7
