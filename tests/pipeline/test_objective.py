"""Samplers of a recipe, and what a search begins with."""

import pytest

from glora_automl.commands import search
from glora_automl.errors import RecipeError, StudyError
from glora_automl.recipes import load_recipe
from glora_automl.study import best_of, summarize
from tests.conftest import TINY


@pytest.fixture
def searching(tiny):
    """A recipe that ends with the search, so to say."""
    return shortened(tiny)


def shortened(recipe):
    return recipe.replace(
        selection={"baselines": False, "finetune_epochs": 0, "n_candidates": 2},
        search={"n_trials": 40, "population_size": 8},
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """What that recipe finds."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    recipe = shortened(load_recipe(str(folder / "tiny.toml")))
    return search(recipe, runs=folder / "runs")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_every_sampler_stays_within_the_budget(searching, tmp_path, sampler):
    recipe = searching.replace(search={"sampler": sampler, "n_trials": 12})
    result = search(recipe, runs=tmp_path)
    budget = summarize(result.study)["budget"]
    counts = [t.user_attrs["trainable_params"] for t in result.study.trials]
    assert len(counts) == 12
    assert max(counts) <= budget
    assert len({tuple(t.params.items()) for t in result.study.trials}) > 6


@pytest.mark.parametrize(
    ("search_settings", "words"),
    [
        ({"objectives": []}, "objectives"),
        ({"objectives": ["n_params"]}, "objectives"),
        ({"objectives": ["accuracy", "loss"]}, "objectives"),
        ({"objectives": ["accuracy", "latency"]}, "objectives"),
        ({"sampler": "cmaes"}, "sampler"),
        ({"population_size": 0}, "population_size"),
        ({"n_parents": 0}, "n_parents"),
        ({"mutation_prob": 1.5}, "mutation_prob"),
    ],
)
def test_wrong_settings_are_told(tiny, search_settings, words):
    with pytest.raises(RecipeError, match=words):
        tiny.replace(search=search_settings)


def test_a_warm_start_begins_with_the_best_of_an_earlier_study(searching, tmp_path):
    earlier = search(searching, runs=tmp_path)
    recipe = searching.replace(seed=5, budget="10%", search={"n_trials": 8})
    warm = search(recipe, runs=tmp_path, name="warm", warm_start="tiny")
    budget = summarize(warm.study)["budget"]
    assert budget < summarize(earlier.study)["budget"]
    first = warm.study.trials[:4]  # half of a generation
    best = best_of(earlier.study.trials, earlier.study.direction, 4)
    for trial, source in zip(first, best, strict=True):
        same = [trial.params[name] == value for name, value in source.params.items()]
        if source.user_attrs["trainable_params"] <= budget:
            assert all(same)
        else:
            assert 0.5 < sum(same) / len(same) < 1, "repaired into the smaller budget"
        assert trial.user_attrs["trainable_params"] <= budget
    cold = search(recipe, runs=tmp_path, name="cold")
    assert cold.study.trials[0].params != warm.study.trials[0].params
    # The study keeps it: who joins need not say it, and may not say something else.
    assert search(recipe, runs=tmp_path, name="warm").rows == warm.rows
    with pytest.raises(RecipeError, match="warm start from 'tiny', got 'cold'"):
        search(recipe, runs=tmp_path, name="warm", warm_start="cold")


def test_a_warm_start_that_does_not_fit_is_told(searching, tmp_path):
    spec = searching.search_space.model_copy(update={"tie": "kind"})
    other = searching.replace(search_space=spec.model_dump(mode="json"), search={"n_trials": 2})
    search(other, runs=tmp_path, name="other")
    with pytest.raises(RecipeError, match="of the same search space"):
        search(searching, runs=tmp_path, warm_start="other")
    with pytest.raises(StudyError, match="no study 'nothing'"):
        search(searching, runs=tmp_path, warm_start="nothing")
    with pytest.raises(RecipeError, match=r"needs search\.sampler = 'evolution'"):
        search(searching.replace(search={"sampler": "random"}), runs=tmp_path, warm_start="other")
