"""Positions of trials, with failed trials and their retries."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from glora_automl.workers._positions import Positions

COMPLETE, FAIL, RUNNING, WAITING = (
    TrialState.COMPLETE,
    TrialState.FAIL,
    TrialState.RUNNING,
    TrialState.WAITING,
)


def positions_of(*trials, target=4):
    """Return the positions of trials, each a state or a state and the trial that it retries."""
    study = optuna.create_study()
    for trial in trials:
        state, *failed = trial if isinstance(trial, tuple) else (trial,)
        study.add_trial(
            create_trial(
                state=state,
                value=1.0 if state == COMPLETE else None,
                system_attrs={"failed_trial": failed[0]} if failed else {},
            )
        )
    return Positions.read(study, target)


def numbers(trials):
    return [trial.number for trial in trials]


def test_positions_of_a_new_study_has_a_next_one():
    positions = positions_of()
    assert positions.next_position() == 0
    assert positions.has_next()
    assert positions.only_new()


def test_positions_retry_has_the_position_of_its_trial():
    positions = positions_of(FAIL, COMPLETE, (COMPLETE, 0), RUNNING)
    assert list(positions.positions) == [0, 1, 0, 2]
    assert positions.next_position() == 3
    assert numbers(positions.done()) == [1, 2]
    assert numbers(positions.running()) == [3]


def test_positions_has_next_is_false_at_the_target():
    assert not positions_of(*[RUNNING] * 4).has_next()
    assert not positions_of(*[RUNNING] * 4).only_new()


def test_positions_failed_returns_the_last_trial_of_failed_positions():
    positions = positions_of(FAIL, FAIL, (FAIL, 0), (COMPLETE, 1), FAIL, (RUNNING, 4))
    assert numbers(positions.failed()) == [2]


def test_positions_failed_ignores_positions_beyond_the_target():
    assert numbers(positions_of(FAIL, FAIL, target=1).failed()) == [0]


@pytest.mark.parametrize("trials", [(FAIL,), (FAIL, (WAITING, 0))])
def test_positions_only_new_is_false_before_a_retry(trials):
    positions = positions_of(*trials)
    assert positions.has_next()
    assert not positions.only_new()


def test_positions_queued_returns_the_queue():
    positions = positions_of(FAIL, (WAITING, 0), (COMPLETE, 0), FAIL, (WAITING, 3), WAITING)
    assert numbers(positions.queued()) == [1, 4, 5]
    assert numbers(positions.queued_retries()) == [1, 4]


def test_positions_is_needed_for_the_first_unfinished_trial_of_an_unfilled_position():
    positions = positions_of(FAIL, (RUNNING, 0), (RUNNING, 0), COMPLETE, (RUNNING, 3))
    assert [n for n in (1, 2, 4) if positions.is_needed(n)] == [1]


def test_positions_is_needed_only_below_the_target():
    assert positions_of(COMPLETE, RUNNING, target=2).is_needed(1)
    assert not positions_of(COMPLETE, RUNNING, target=1).is_needed(1)
