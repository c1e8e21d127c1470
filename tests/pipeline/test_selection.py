"""Which of the best is chosen."""

import optuna

from glora_automl.architecture import Architecture
from glora_automl.pipeline._selection import Candidate, apart, rank
from glora_automl.training import Score


def candidate(trial, accuracy, parameters, loss=1.0, scaled_loss=None):
    score = Score(accuracy, loss, 100, scaled_loss)
    return Candidate(score, parameters, trial, Architecture({}))


def numbers(candidates):
    return [c.trial for c in rank(candidates)]


def test_the_most_accurate_is_chosen_then_the_smaller_loss_then_the_smaller_one():
    found = [candidate(0, 0.3, 1), candidate(1, 0.6, 9), candidate(2, 0.6, 5, loss=2.0)]
    assert numbers(found) == [1, 2, 0]
    assert numbers([candidate(0, 0.6, 9), candidate(1, 0.6, 5)]) == [1, 0]


def test_the_equally_accurate_are_ordered_by_calibrated_loss_where_it_is_known():
    found = [
        candidate(0, 0.6, 5, loss=3.0, scaled_loss=0.5),
        candidate(1, 0.6, 5, loss=2.0, scaled_loss=0.6),
    ]
    assert numbers(found) == [0, 1]


def test_siblings_take_part_only_where_places_are_left():
    study = optuna.create_study()
    choices = optuna.distributions.CategoricalDistribution(["none", "vector"])
    for ones in ([], [0], [0, 1], [0, 1, 2], [5], [5, 6]):
        params = {f"x{i}": "vector" if i in ones else "none" for i in range(20)}
        study.add_trial(
            optuna.trial.create_trial(
                value=0.0, params=params, distributions=dict.fromkeys(params, choices)
            )
        )
    trials = study.trials

    def taken(places):
        return [trial.number for trial in apart(trials, places)]

    # Those that differ from all before them in two of the twenty choices.
    assert taken(2) == [0, 2]
    assert taken(3) == [0, 2, 5]
    assert taken(5) == [0, 2, 5, 1, 3]
    assert taken(9) == [0, 2, 5, 1, 3, 4]
