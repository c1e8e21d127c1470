import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from glora_automl.errors import RecipeError
from glora_automl.recipes import load_portfolio, nested


def tuned(recipe, **changes):
    return recipe.replace(tune={"n_trials": 3, **changes})


def test_recipe_without_trials_has_nothing_to_tune(tiny):
    assert tiny.replace(tune={"choices": {"training.lr": [0.1]}}).tuning_space() == {}


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
        ({"training.lr": {"low": 1e-3, "high": -1.0}}, "low must be at most high, got 0.001 and -1"),
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
