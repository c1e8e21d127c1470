import optuna
import pytest
from optuna.study import StudyDirection

from glora_automl.architecture import LayerShape
from glora_automl.errors import StudyError
from glora_automl.pipeline import Objective, trial_values
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.training import Score

SHAPES = {"fc1": LayerShape(8, 8), "fc2": LayerShape(8, 8)}
BUDGET = 100


@pytest.fixture
def space():
    return SearchSpace(load_search_space("lean"), SHAPES)


class Counts:
    """Scores an architecture by its parameters."""

    made = 0

    def __init__(self):
        type(self).made += 1

    def score(self, architecture):
        count = architecture.count(SHAPES)
        return Score(count / 1000, 1 - count / 1000, 7, custom=-float(count))


@pytest.fixture
def objective(space, monkeypatch):
    monkeypatch.setattr(Counts, "made", 0)

    def with_metric(metric="accuracy", **options):
        return Objective(space, BUDGET, Counts, metric, **options)

    return with_metric


def optimized(objective, n_trials=5, **options):
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(directions=objective.directions, sampler=sampler, **options)
    study.optimize(objective, n_trials=n_trials)
    return study


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("accuracy", "MAXIMIZE"), ("loss", "MINIMIZE"), ("custom", "MAXIMIZE")],
)
def test_objective_value_and_direction_follow_the_metric(objective, space, metric, direction):
    found = objective(metric)
    assert found.directions == [StudyDirection[direction]]
    for trial in optimized(found).trials:
        count = space.count(trial.params)
        expected = {"accuracy": count / 1000, "loss": 1 - count / 1000, "custom": -count}
        assert trial.value == expected[metric]


def test_objective_of_a_trial_with_attributes_of_another_study_sets_its_constraint(
    objective, space
):
    other = optimized(objective(), n_trials=40)
    above = max(other.trials, key=lambda trial: trial.constraints["trainable_params"])
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(above.params, user_attrs={**above.user_attrs, "trainable_params": 1})
    study.optimize(objective(), n_trials=1)
    assert study.trials[0].constraints == above.constraints
    assert study.trials[0].user_attrs["trainable_params"] == space.count(above.params)
    assert study.trials[0].constraints["trainable_params"] > 0


def test_objective_sets_constraint_and_attributes(objective, space):
    trials = optimized(objective(), n_trials=40).trials
    for trial in trials:
        count = space.count(trial.params)
        assert trial.constraints == {"trainable_params": count - BUDGET}
        assert trial.user_attrs["trainable_params"] == count
        assert trial.user_attrs["validation_accuracy"] == count / 1000
        assert trial.user_attrs["validation_loss"] == 1 - count / 1000
        assert trial.user_attrs["validation_images"] == 7
        assert trial.user_attrs["seconds"] >= 0
        assert trial.user_attrs["peak_mib"] > 0
    assert {t.constraints["trainable_params"] <= 0 for t in trials} == {True, False}


def test_objective_with_two_objectives_minimizes_the_parameters(objective, space):
    found = objective(multi_objective=True)
    assert found.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    for trial in optimized(found).trials:
        count = space.count(trial.params)
        assert trial.values == [count / 1000, count]


def test_objective_makes_one_scorer_at_the_first_evaluation(objective):
    found = objective()
    assert Counts.made == 0
    optimized(found)
    assert Counts.made == 1


def test_propose_suggests_every_dimension_and_scores_nothing(objective, space):
    study = optuna.create_study(direction="maximize")
    trial = study.ask()
    evaluate = objective().propose(trial)
    assert list(trial.params) == [dimension.name for dimension in space.dimensions]
    assert Counts.made == 0
    values, attributes, _ = evaluate()
    assert values == (space.count(trial.params) / 1000,)
    assert attributes["validation_images"] == 7


def test_propose_of_a_retried_trial_keeps_its_constraint(objective, recwarn):
    first = optimized(objective(), n_trials=1)
    (trial,) = first.trials
    again = optuna.create_study(direction="maximize")
    again.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.WAITING,
            user_attrs=trial.user_attrs,
            system_attrs={**trial.system_attrs, "fixed_params": trial.params},
        )
    )
    objective().propose(again.ask())
    assert again.trials[0].constraints == trial.constraints
    assert again.trials[0].user_attrs["trainable_params"] == trial.user_attrs["trainable_params"]
    assert not [w for w in recwarn if "already set" in str(w.message)]


@pytest.mark.parametrize("directions", [["minimize"], ["maximize", "minimize"]])
def test_objective_in_a_study_with_other_directions_raises_one_line(objective, directions):
    study = optuna.create_study(directions=directions)
    with pytest.raises(StudyError, match=r"directions maximize, got (maximize, )?minimize\.") as e:
        study.optimize(objective(), n_trials=1)
    assert "\n" not in str(e.value)
    assert Counts.made == 0


def test_trial_values_have_one_entry_per_objective():
    score = Score(0.5, 1.25, 10, custom=3.0)
    assert trial_values("accuracy", score) == (0.5,)
    assert trial_values("loss", score, 7) == (1.25, 7.0)
    assert trial_values("custom", score) == (3.0,)
