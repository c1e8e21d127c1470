import json
from pathlib import Path

import optuna
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture, LayerShape
from glora_automl.commands import search
from glora_automl.errors import RecipeError, StudyError
from glora_automl.pipeline import (
    Workspace,
    create_sampler,
    initial_presets,
    pack_proposals,
    prepare,
    preset_proposals,
    unpack_proposals,
)
from glora_automl.presets import lora
from glora_automl.recipes import load_recipe
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.study import (
    Settings,
    best_trials,
    create_study,
    get_setting,
    read_space,
    summarize,
)


@pytest.fixture
def prepared(tiny, tmp_path):
    def with_changes(**changes):
        recipe = tiny.replace(**{"budget": "100%", **changes})
        return prepare(recipe, Workspace(runs=tmp_path, device="cpu"), "tiny")

    return with_changes


def names(context, found):
    return [context.space.architecture(params) for params in found]


def test_initial_presets_begin_with_the_highest_ranks(prepared):
    context = prepared(search={"population_size": 200})
    found = initial_presets(context)
    architectures = names(context, found)
    shapes = context.space.shapes
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


def test_initial_presets_fit_the_budget_and_the_space(prepared):
    context = prepared(
        budget=300, search_space={"choices": {"C": ["none"]}}, search={"population_size": 200}
    )
    found = initial_presets(context)
    assert found
    assert max(map(context.space.count, found)) <= 300
    assert not any("C=" in str(a) for a in names(context, found))


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"population_size": 6}, 3),
        ({"population_size": 1, "n_parents": 1}, 0),
        ({"initial_presets": False}, 0),
        ({"sampler": "tpe"}, 0),
    ],
)
def test_initial_presets_fill_half_of_the_first_generation_of_an_evolution(
    prepared, settings, count
):
    assert len(initial_presets(prepared(search=settings))) == count


def test_sampler_proposes_initial_presets_and_then_architectures_near_the_budget(prepared):
    context = prepared(budget="30%", search={"population_size": 40, "min_budget_fraction": 0.9})
    initial = initial_presets(context)
    study = optuna.create_study(sampler=create_sampler(context, initial))
    space = context.space.distributions()
    trials = [study.ask(space).params for _ in range(40)]
    assert tuple(trials[: len(initial)]) == initial
    counts = [context.space.count(params) for params in trials[len(initial) :]]
    assert 0.8 * context.budget < sum(counts) / len(counts)
    assert max(counts) <= context.budget


def test_initial_presets_hold_lora_in_attention_where_it_fits(prepared):
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
        context = prepared(budget=budget, search=search, search_space=choices)
        assert (attended in names(context, initial_presets(context))) is found


def test_initial_presets_vectors_that_do_not_fit_in_all_layers_are_where_lora_is(prepared):
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


def test_initial_presets_hold_vectors_with_lora_of_a_part(prepared):
    context = prepared(search={"population_size": 400})
    found = names(context, initial_presets(context))
    layers = list(context.space.shapes)
    first = Architecture(
        {
            name: Architecture.uniform(
                context.space.shapes,
                **({"B": "lora-2"} if i < len(layers) // 2 else {}),
                E="vector",
            )[name]
            for i, name in enumerate(layers)
        }
    )
    assert first in found
    assert Architecture.uniform(context.space.shapes, A="vector", B="lora-2") in found


def test_sampler_with_two_objectives_draws_all_counts(prepared):
    objectives = ["accuracy", "n_params"]
    context = prepared(
        search={"population_size": 60, "min_budget_fraction": 0.9, "objectives": objectives}
    )
    study = optuna.create_study(
        sampler=create_sampler(context), directions=["maximize", "minimize"]
    )
    space = context.space.distributions()
    counts = [context.space.count(study.ask(space).params) for _ in range(60)]
    assert min(counts) < 0.3 * context.space.maximum


def shortened(recipe, **changes):
    return recipe.replace(
        training={"epochs": 2},
        selection={"baselines": False, "epochs_ratio": 0, "refit": False},
        search={"n_trials": 16, "population_size": 8, **changes},
    )


def test_warm_start_proposes_the_best_trials_of_an_earlier_study(tiny, tmp_path):
    workspace = Workspace(runs=tmp_path, device="cpu")
    earlier = search(shortened(tiny), workspace=workspace)
    recipe = shortened(tiny, n_trials=8).replace(seed=5, budget="10%")
    warm = search(recipe, name="warm", warm_start="tiny", workspace=workspace)
    budget = summarize(warm.study)["budget"]
    assert budget < summarize(earlier.study)["budget"]
    best = best_trials(earlier.study, 4)
    space = read_space(warm.study)
    first = unpack_proposals(space, get_setting(warm.study, "initial"))
    assert first[:4] == [t.params for t in best]
    # Truncations of the supernet come first; equal proposals are made once.
    found = [t.params for t in warm.study.trials]
    for source in best:
        if source.user_attrs["trainable_params"] <= budget:
            assert source.params in found
        else:  # repaired into the smaller budget
            shared = [sum(p[n] == v for n, v in source.params.items()) for p in found]
            assert len(source.params) > max(shared) > 0.5 * len(source.params)
    assert max(t.user_attrs["trainable_params"] for t in warm.study.trials) <= budget
    # The study keeps it: a worker that joins may leave it out, and must not give another one.
    again = search(recipe, name="warm", workspace=workspace)
    assert again.rows == warm.rows
    with pytest.raises(RecipeError, match=r"warm_start must be 'tiny'.*got 'warm'"):
        search(recipe, name="warm", warm_start="warm", workspace=workspace)


def test_warm_start_that_does_not_fit_raises(tiny, tmp_path):
    workspace = Workspace(runs=tmp_path, device="cpu")
    recipe = shortened(tiny)
    spec = recipe.search_space.model_copy(update={"tie": "kind"})
    other = shortened(tiny, n_trials=2).replace(search_space=spec.model_dump(mode="json"))
    search(other, name="other", workspace=workspace)
    with pytest.raises(RecipeError, match="of the same search space"):
        search(recipe, warm_start="other", workspace=workspace)
    with pytest.raises(StudyError, match=r"warm_start must be a study .*got 'nothing'"):
        search(recipe, warm_start="nothing", workspace=workspace)
    with pytest.raises(RecipeError, match=r"search\.sampler must be 'evolution'"):
        search(
            recipe.replace(search={"sampler": "random"}), warm_start="other", workspace=workspace
        )


SPACE = SearchSpace(load_search_space("paper"), {"fc": LayerShape(8, 8), "out": LayerShape(4, 8)})


@given(st.data())
def test_unpack_proposals_returns_what_was_packed(data):
    choices = st.fixed_dictionaries({d.name: st.sampled_from(d.choices) for d in SPACE.dimensions})
    proposals = data.draw(st.lists(choices, max_size=4))
    packed = pack_proposals(SPACE, proposals)
    assert unpack_proposals(SPACE, json.loads(json.dumps(packed))) == proposals


@given(st.one_of(st.text(), st.text("0129", min_size=10, max_size=10)))
def test_unpack_proposals_of_any_text_returns_proposals_or_raises(text):
    choices = [d.choices for d in SPACE.dimensions]
    if len(text) == len(choices) and all(
        0 <= ord(c) - ord("0") < len(d) for c, d in zip(text, choices, strict=True)
    ):
        assert pack_proposals(SPACE, unpack_proposals(SPACE, [text])) == (text,)
    else:
        with pytest.raises(StudyError, match="A first proposal must") as caught:
            unpack_proposals(SPACE, [text])
        assert len(str(caught.value)) <= 300


RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "studies").glob("*.toml"))


@pytest.mark.parametrize("name", RECIPES)
def test_create_study_of_a_shipped_recipe_has_attributes_that_mysql_can_keep(name):
    recipe = load_recipe(name)
    with torch.device("meta"):
        model = timm.create_model(recipe.backbone.model, **recipe.backbone.kwargs)
    space = SearchSpace(recipe.search_space, linear_shapes(model))
    n_params = sum(parameter.numel() for parameter in model.parameters())
    budget = recipe.budget.resolve(n_params)
    settings = Settings(
        recipe=recipe,
        budget=budget,
        target=recipe.search.n_trials,
        digests={"data": "d" * 64, "search space": space.digest},
        versions=dict.fromkeys(("glora_automl", "python", "torch", "timm", "optuna"), "0.0.0"),
        heartbeat=10.0,
        artifacts="a" * 200,
        layers=space.shapes,
        # With a warm start, a first generation of them.
        initial=pack_proposals(
            space, [preset_proposals(space, budget)[0]] * recipe.search.population_size
        ),
    )
    study = create_study(optuna.storages.InMemoryStorage(), "a", settings)
    assert max(len(json.dumps(value)) for value in study.user_attrs.values()) < 60_000
