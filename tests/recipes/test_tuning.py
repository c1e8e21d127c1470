import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from glora_automl.errors import RecipeError
from glora_automl.recipes import Range, load_portfolio, nested


def tuned(recipe, **changes):
    return recipe.replace(tune={"n_trials": 3, **changes})


def test_recipe_without_trials_has_nothing_to_tune(tiny):
    assert tiny.replace(tune={"choices": {"training.lr": [0.1]}}).tuning_space() == {}


def test_recipe_without_trials_has_its_choices_checked(tiny):
    for choices in ({"training.rl": [0.1]}, {"training.lr": [-1.0]}):
        with pytest.raises(RecipeError, match=r"training\.(rl|lr)"):
            tiny.replace(tune={"choices": choices})
    # The recipe's own value matters to a tuning alone.
    assert tiny.replace(tune={"choices": {"training.lr": {"low": 0.5, "high": 0.6}}})


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"n_trials": 3}, r"tune\.n_trials must be 0 without choices and portfolio, got 3"),
        ({"n_trials": 3, "portfolio": 999}, r"tune\.portfolio must be at most 7, .* got 999"),
    ],
)
def test_tuning_of_nothing_is_refused(tiny, tune, message):
    with pytest.raises(RecipeError, match=message):
        tiny.replace(tune=tune)


@pytest.mark.parametrize(
    ("low", "high", "step", "last"), [(4, 17, 4, 16), (0.1, 2, 0.3, 1.9), (0.0, 1.0, 0.25, 1.0)]
)
def test_range_ends_at_its_last_step_without_a_warning(recwarn, low, high, step, last):
    distribution = Range(low=low, high=high, step=step).distribution()
    assert distribution.high == last
    assert not recwarn.list


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"low": 0, "high": 1, "log": True}, "low must be above 0 with log"),
        ({"low": 1, "high": 4, "log": True, "step": 1}, "step must be unset with log"),
        ({"low": 0, "high": 4, "step": 1.5}, "step must be an integer"),
        ({"low": 0, "high": 4, "step": 0}, "step must be at least"),
        ({"low": 4, "high": 4, "step": 0}, "step must be above 0"),
        ({"low": 0.0, "high": 1.0, "step": 1e-300}, "step must be at least 1e-09"),
        ({"low": 1, "hihg": 4}, "unknown key 'tune.choices.training.lr.hihg'. Did you"),
        ({"low": 1}, "key 'tune.choices.training.lr.high' is required"),
        ({"low": 1, "high": "a"}, "lr.high must be a number, got 'a'"),
        (3, "lr must be a list of values, or a table with low and high, got 3"),
    ],
)
def test_malformed_range_is_refused(tiny, table, message):
    with pytest.raises(RecipeError, match=message):
        tuned(tiny, choices={"training.lr": table})


def test_tuning_space_has_lists_and_ranges_as_distributions_of_optuna(tiny):
    choices = {
        "training.lr": {"low": 1e-3, "high": 1e-1, "log": True},
        "training.batch_size": {"low": 4, "high": 16, "step": 4},
        "training.mixup": [0.0, 0.4],
        "backbone.head_init": ["logistic"],
    }
    assert tuned(tiny, choices=choices).tuning_space() == {
        "training.lr": FloatDistribution(1e-3, 1e-1, log=True),
        "training.batch_size": IntDistribution(4, 16, step=4),
        "training.mixup": CategoricalDistribution((0.0, 0.4)),
        "backbone.head_init": CategoricalDistribution(("logistic", "random")),
    }


def test_tuning_proposals_are_the_recipe_itself_then_the_portfolio(tiny):
    recipe = tuned(tiny, portfolio=2, choices={"training.mixup": [0.0, 0.4]})
    own, *others = recipe.tuning_proposals()
    flat = recipe.identity()
    assert own == {key: flat[key] for key in own}
    assert others == [own | settings for settings in load_portfolio()[:2]]
    space = recipe.tuning_space()
    assert all(value in space[key].choices for p in (own, *others) for key, value in p.items())


def test_every_setting_of_the_portfolio_fits_a_recipe(tiny):
    recipe = tuned(tiny, portfolio=len(load_portfolio()))
    for settings in recipe.tuning_proposals():
        assert recipe.replace(**nested(settings)) is not None


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"training.rl": [0.1]}, "tune.choices must name settings, got 'training.rl'. Did you"),
        ({"budget": ["1%"]}, r"must be keys of \[training\]"),
        ({"training.lr": []}, "choices of training.lr must not be empty"),
        ({"training.lr": [-1.0]}, "training.lr must be a number above 0"),
        (
            {"training.lr": {"low": 1e-3, "high": -1.0}},
            "low must be at most high, got 0.001 and -1",
        ),
        ({"training.lr": {"low": -1.0, "high": 1.0}}, "training.lr must be a number above 0"),
        ({"training.lr": {"low": 1e-3, "high": 2e-3}}, "must hold training.lr = 0.01"),
        ({"training.mixup": {"low": 0, "high": 1}}, "mixup = 0.4, .* got integers 0 to 1. Change"),
        ({"training.mixup": {"low": 0.0, "high": 1.0, "step": 0.25}}, "in steps of 0.25"),
        ({"training.class_weight": ["none", "balanced"]}, "as the recipe has a list there"),
        ({"training.mixup": ["much"]}, "training.mixup must be a number from 0 to 100"),
    ],
)
def test_invalid_choices_are_refused(tiny, choices, message):
    tiny = tiny.replace(training={"mixup": 0.4, "class_weight": [1.0, 2.0, 1.0]})
    with pytest.raises(RecipeError, match=message):
        tuned(tiny, choices=choices)
