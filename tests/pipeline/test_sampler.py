import numpy as np
import optuna
import pytest

from glora_automl.commands import search
from glora_automl.errors import RecipeError
from glora_automl.pipeline import Workspace, create_sampler, draw_region, prepare
from glora_automl.samplers import EvolutionSampler, RepairedSampler
from glora_automl.study import summarize


@pytest.fixture
def context_of(tiny, tmp_path):
    def with_search(**changes):
        recipe = tiny.replace(search=changes)
        return prepare(recipe, Workspace(runs=tmp_path, device="cpu"), "tiny")

    return with_search


def proposals(context, n_trials, **options):
    study = optuna.create_study(sampler=create_sampler(context, **options))
    space = context.space.distributions()
    found = []
    for number in range(n_trials):
        trial = study.ask(space)
        found.append(trial.params)
        study.tell(trial, float(number % 5))
    return found


SAMPLERS = ["evolution", "tpe", "nsga2", "random"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_create_sampler_proposals_fit_the_budget_and_differ(context_of, sampler):
    context = context_of(sampler=sampler, population_size=8)
    expected = EvolutionSampler if sampler == "evolution" else RepairedSampler
    assert isinstance(create_sampler(context), expected)
    found = proposals(context, 20)
    assert max(map(context.space.count, found)) <= context.budget
    assert len({tuple(params.items()) for params in found}) > 10


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_create_sampler_with_the_same_seed_proposes_the_same(context_of, sampler):
    context = context_of(sampler=sampler)
    assert proposals(context, 12) == proposals(context, 12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_create_sampler_proposes_allowed_choices_only(context_of, sampler):
    context = context_of(sampler=sampler, population_size=8)
    allowed = {d.name: ("none", *d.choices[1:2]) for d in context.space.dimensions}
    for params in proposals(context, 20, allowed=allowed):
        assert all(choice in allowed[name] for name, choice in params.items())
        assert context.space.count(params) <= context.budget


def test_create_sampler_begins_with_initial_proposals(context_of):
    context = context_of(population_size=6)
    rng = np.random.default_rng(7)
    initial = [context.region.draw(rng) for _ in range(3)]
    assert proposals(context, 3, initial=initial) == initial


@pytest.mark.parametrize(
    ("search_settings", "least"),
    [
        ({"min_budget_fraction": 0.9}, 0.75),
        ({"min_budget_fraction": 0.0}, 0.0),
        ({"min_budget_fraction": 0.9, "objectives": ["loss", "n_params"]}, 0.0),
    ],
)
def test_draw_region_is_near_the_budget_with_one_objective(context_of, search_settings, least):
    context = context_of(**search_settings)
    region = draw_region(context.space, context.budget, context.recipe.search)
    rng = np.random.default_rng(0)
    counts = [context.space.count(region.draw(rng)) / context.budget for _ in range(100)]
    assert max(counts) <= 1
    if least:
        assert sum(counts) / len(counts) > least
    else:
        assert min(counts) < 0.3


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_search_with_another_sampler_stays_within_the_budget(tiny, tmp_path, sampler):
    recipe = tiny.replace(
        training={"epochs": 2},
        selection={"baselines": False},
        search={"sampler": sampler, "n_trials": 12},
    )
    result = search(recipe, workspace=Workspace(runs=tmp_path, device="cpu"))
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
        ({"sampler": "qmc"}, "sampler"),
        ({"population_size": 0}, "population_size"),
        ({"n_parents": 0}, "n_parents"),
        ({"mutation_prob": 1.5}, "mutation_prob"),
        ({"min_budget_fraction": 1.5}, "min_budget_fraction"),
    ],
)
def test_wrong_search_settings_raise(tiny, search_settings, words):
    with pytest.raises(RecipeError, match=words):
        tiny.replace(search=search_settings)
