"""What the first generation of a search begins with."""

import numpy as np
import optuna
import pytest

from glora_automl.architecture import Architecture
from glora_automl.pipeline._context import prepare
from glora_automl.pipeline._initial import initial_presets
from glora_automl.pipeline._objective import create_sampler
from glora_automl.pipeline._supernet import paths
from glora_automl.presets import lora
from glora_automl.progress import Progress


@pytest.fixture
def prepared(tiny, tmp_path):
    def with_changes(**changes):
        recipe = tiny.replace(**{"budget": "100%", **changes})
        return prepare(recipe, runs=tmp_path, name="tiny", device="cpu", progress=Progress())

    return with_changes


def names(setup, found):
    """What they are, by layer and choices."""
    return [setup.space.architecture(params) for params in found]


def test_what_people_try_first_is_there_at_the_highest_rank_first(prepared):
    setup = prepared(search={"population_size": 200})
    found = initial_presets(setup)
    architectures = names(setup, found)
    shapes = setup.space.shapes
    for choices in (
        {"B": "lora-2"},
        {"B": "lora-4"},
        {"E": "vector"},
        {"A": "vector", "E": "vector"},
        {},
    ):
        assert Architecture.uniform(shapes, **choices) in architectures
    first = next(iter(shapes))
    halved = [
        a for a in architectures if str(a[first].B) == "lora-4" and "lora" not in str(a[[*a][-1]])
    ]
    assert halved
    everywhere = [Architecture.uniform(shapes, B=f"lora-{rank}") for rank in (8, 4, 2)]
    places = [architectures.index(a) for a in everywhere if a in architectures]
    assert places == sorted(places)
    assert places[0] == 0
    # One of each placement before the lower ranks.
    assert places[1] > architectures.index(Architecture.uniform(shapes, A="vector"))
    assert len(set(architectures)) == len(architectures)


def test_only_what_fits_and_is_in_the_space_is_taken(prepared):
    setup = prepared(
        budget=300, search_space={"choices": {"C": ["none"]}}, search={"population_size": 200}
    )
    found = initial_presets(setup)
    assert found
    assert max(map(setup.space.count, found)) <= 300
    assert not any("C=" in str(a) for a in names(setup, found))


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"population_size": 6}, 3),
        ({"population_size": 1, "n_parents": 1}, 0),
        ({"initial_presets": False}, 0),
        ({"sampler": "tpe"}, 0),
    ],
)
def test_they_are_half_of_the_first_generation_of_an_evolution(prepared, settings, count):
    assert len(initial_presets(prepared(search=settings))) == count


def test_a_search_begins_with_them_and_goes_on_near_the_budget(prepared):
    setup = prepared(budget="30%", search={"population_size": 40, "min_budget_fraction": 0.9})
    initial = initial_presets(setup)
    study = optuna.create_study(sampler=create_sampler(setup, initial))
    space = setup.space.distributions()
    trials = [study.ask(space).params for _ in range(40)]
    assert tuple(trials[: len(initial)]) == initial
    counts = [setup.space.count(params) for params in trials[len(initial) :]]
    assert 0.8 * setup.budget < sum(counts) / len(counts)
    assert max(counts) <= setup.budget


def test_lora_in_attention_is_among_them(prepared):
    whole = prepared()
    shapes = whole.space.shapes
    inside = {name: "lora-1" for name in shapes if ".attn." in name}
    assert 0 < len(inside) < len(shapes)
    attended = Architecture(
        {name: Architecture.uniform(shapes, B=inside.get(name, "none"))[name] for name in shapes}
    )
    count = attended.count(shapes)
    everywhere = lora(shapes, 1).count(shapes)
    search = {"population_size": 400}
    choices = {"choices": {"B": ["none", "lora-1", "lora-2"]}}
    for budget, found in ((count, True), (everywhere, True), (count - 1, False)):
        setup = prepared(budget=budget, search=search, search_space=choices)
        assert (attended in names(setup, initial_presets(setup))) is found


def test_vectors_that_do_not_fit_everywhere_are_where_lora_is(prepared):
    whole = prepared()
    shapes = whole.space.shapes
    half = list(shapes)[: len(shapes) // 2]
    first = dict.fromkeys(half, "lora-2")

    def mixed(layers):
        return Architecture(
            {
                name: Architecture.uniform(
                    shapes, A="vector" if name in layers else "none", B=first.get(name, "none")
                )[name]
                for name in shapes
            }
        )

    search = {"population_size": 400}
    budget = mixed(shapes).count(shapes)
    found = names(whole, initial_presets(prepared(budget=budget, search=search)))
    assert mixed(shapes) in found
    found = names(whole, initial_presets(prepared(budget=budget - 1, search=search)))
    assert mixed(shapes) not in found
    assert mixed(half) in found


def test_vectors_go_with_lora_of_a_part(prepared):
    setup = prepared(search={"population_size": 400})
    found = names(setup, initial_presets(setup))
    layers = list(setup.space.shapes)
    first = Architecture(
        {
            name: Architecture.uniform(
                setup.space.shapes, **({"B": "lora-2"} if i < len(layers) // 2 else {}), E="vector"
            )[name]
            for i, name in enumerate(layers)
        }
    )
    assert first in found
    assert Architecture.uniform(setup.space.shapes, A="vector", B="lora-2") in found


def test_paths_under_the_budget_are_those_of_a_first_generation(prepared):
    rng = np.random.default_rng(0)

    def drawn(**changes):
        setup = prepared(
            budget="30%", search={"population_size": 40, "min_budget_fraction": 0.9}, **changes
        )
        draw, picked = paths(setup), initial_presets(setup)
        params = [draw(rng) for _ in range(300)]
        return setup, [p for p in params if p in picked], [p for p in params if p not in picked]

    setup, picked, random = drawn(training={"paths": "budget"})
    assert 110 < len(picked) < 190
    assert len({tuple(p.items()) for p in picked}) == 20
    counts = [setup.space.count(p) for p in random]
    assert 0.8 * setup.budget < sum(counts) / len(counts)
    assert max(counts) <= setup.budget
    _, picked, _ = drawn(training={"paths": "uniform"})
    assert not picked


def test_a_search_of_the_trade_off_draws_all_sizes(prepared):
    objectives = ["accuracy", "n_params"]
    setup = prepared(
        search={"population_size": 60, "min_budget_fraction": 0.9, "objectives": objectives}
    )
    study = optuna.create_study(sampler=create_sampler(setup), directions=["maximize", "minimize"])
    space = setup.space.distributions()
    counts = [setup.space.count(study.ask(space).params) for _ in range(60)]
    assert min(counts) < 0.3 * setup.space.maximum
