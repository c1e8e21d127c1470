"""Samplers of a recipe, and racing."""

import pytest
from optuna.trial import TrialState

from glora_automl.errors import RecipeError, StudyError
from glora_automl.study import _proposals, load_recipe, search, summarize
from glora_automl.supernet import evaluate
from tests.conftest import TINY


@pytest.fixture
def searching(tiny):
    """A recipe that ends with the search, so to say."""
    return shortened(tiny)


def shortened(recipe):
    return recipe.replace(
        selection={"controls": False, "finetune_epochs": 0, "candidates": 2},
        search={"trials": 40, "population": 8},
    )


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """What that recipe finds."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    recipe = shortened(load_recipe(str(folder / "tiny.toml")))
    return search(recipe, runs=folder / "runs")


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """What it finds by races that may be wrong."""
    folder = tmp_path_factory.mktemp("raced")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    recipe = shortened(load_recipe(str(folder / "tiny.toml")))
    return search(recipe.replace(search={"racing_error": 0.1}), runs=folder / "runs")


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc"])
def test_every_sampler_stays_within_the_budget(searching, tmp_path, sampler):
    recipe = searching.replace(search={"sampler": sampler, "trials": 12})
    result = search(recipe, runs=tmp_path)
    budget = summarize(result.study)["budget"]
    counts = [t.user_attrs["trainable_params"] for t in result.study.trials]
    assert len(counts) == 12
    assert max(counts) <= budget
    assert len({tuple(t.params.items()) for t in result.study.trials}) > 6


def test_screened_children_stay_within_the_budget(searching, searched, tmp_path):
    result = search(searching.replace(search={"screen": 8}), runs=tmp_path)
    budget = summarize(result.study)["budget"]
    assert max(t.user_attrs["trainable_params"] for t in result.study.trials) <= budget
    plain, screened = ([t.params for t in found.study.trials] for found in (searched, result))
    assert screened[:8] == plain[:8]
    assert screened[8:] != plain[8:]


def test_racing_looks_at_fewer_images_and_keeps_the_best(searched, raced):
    trials = raced.study.trials
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    assert 0 < len(pruned) < 40
    assert summarize(raced.study)["trials"]["pruned"] == len(pruned)
    assert len(trials) == 40
    for trial in pruned:
        assert trial.user_attrs["validation_images"] < 60
        assert trial.intermediate_values == {trial.user_attrs["validation_images"]: trial.value}
    assert all(
        t.user_attrs["validation_images"] == 60 for t in trials if t.state == TrialState.COMPLETE
    )
    # The first generation has nothing to beat.
    assert all(t.state == TrialState.COMPLETE for t in trials[:8])
    assert raced.study.best_value >= searched.study.best_value - 0.05
    assert raced.rows[0].test is not None


def test_racing_without_errors_finds_what_the_whole_search_finds(searching, searched, tmp_path):
    found = search(searching.replace(search={"racing_error": 0.0}), runs=tmp_path)
    assert [t.params for t in found.study.trials] == [t.params for t in searched.study.trials]
    assert found.selection == searched.selection
    assert found.rows[0].test == searched.rows[0].test


def test_an_interrupted_race_ends_as_if_it_had_not_been(searching, raced, tmp_path, monkeypatch):
    recipe = searching.replace(search={"racing_error": 0.1})
    left = 20

    def interrupted(*args, **keywords):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return original(*args, **keywords)

    original = _proposals.Scorer.score
    with monkeypatch.context() as patch:
        patch.setattr(_proposals.Scorer, "score", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(recipe, runs=tmp_path / "again")
    again = search(recipe, runs=tmp_path / "again")

    def done(study):
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return [(t.params, t.value, t.state) for t in study.get_trials(states=states)]

    assert done(again.study) == done(raced.study)
    assert again.rows[0].test == raced.rows[0].test


def test_the_order_of_a_race_is_that_of_all_validation_images(searching, tmp_path):
    from glora_automl.progress import Progress
    from glora_automl.study._setup import prepare

    setup = prepare(searching, runs=tmp_path, name="tiny", device="cpu", progress=Progress())
    images, labels = setup.shuffled_validation
    plain, ordered = setup.validation
    assert sorted(labels.tolist()) == sorted(ordered.tolist())
    assert labels.tolist() != ordered.tolist()
    model = setup.bare_backbone()
    assert evaluate(model, images, labels).accuracy == evaluate(model, plain, ordered).accuracy


@pytest.mark.parametrize(
    ("search_settings", "words"),
    [
        ({"racing_error": 1.0}, "racing_error"),
        ({"racing_error": 0.1, "objectives": ["loss"]}, "racing_error needs objectives"),
        (
            {"racing_error": 0.1, "objectives": ["accuracy", "parameters"]},
            "racing_error needs objectives",
        ),
        ({"objectives": []}, "objectives"),
        ({"objectives": ["parameters"]}, "objectives"),
        ({"objectives": ["accuracy", "loss"]}, "objectives"),
        ({"objectives": ["accuracy", "latency"]}, "objectives"),
        ({"sampler": "cmaes"}, "sampler"),
        ({"screen": 0}, "screen"),
        ({"population": 0}, "population"),
        ({"top": 0}, "top"),
        ({"mutation_probability": 1.5}, "mutation_probability"),
    ],
)
def test_wrong_settings_are_told(tiny, search_settings, words):
    with pytest.raises(RecipeError, match=words):
        tiny.replace(search=search_settings)


def test_a_warm_start_begins_with_the_best_of_an_earlier_study(searching, tmp_path):
    earlier = search(searching, runs=tmp_path)
    recipe = searching.replace(seed=5, budget="10%", search={"trials": 8})
    warm = search(recipe, runs=tmp_path, name="warm", warm_start="tiny")
    budget = summarize(warm.study)["budget"]
    assert budget < summarize(earlier.study)["budget"]
    first = warm.study.trials[:4]  # half of a generation
    best = _proposals.best_of(earlier.study.trials, earlier.study.direction, 4)
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
    spec = searching.search_space.model_copy(update={"share": "kind"})
    other = searching.replace(search_space=spec.model_dump(mode="json"), search={"trials": 2})
    search(other, runs=tmp_path, name="other")
    with pytest.raises(RecipeError, match="of the same search space"):
        search(searching, runs=tmp_path, warm_start="other")
    with pytest.raises(StudyError, match="no study 'nothing'"):
        search(searching, runs=tmp_path, warm_start="nothing")
    with pytest.raises(RecipeError, match=r"needs search\.sampler = 'evolution'"):
        search(searching.replace(search={"sampler": "random"}), runs=tmp_path, warm_start="other")
