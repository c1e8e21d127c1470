import contextlib
import copy
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from glora_automl._messages import LIMIT, short
from glora_automl.architecture import TENSORS, LayerShape
from glora_automl.budget import Budget, FeasibleRegion
from glora_automl.errors import BudgetError
from glora_automl.search_space import SearchSpace, SearchSpaceSpec, load_search_space
from tests.test_search_space import SMALL, VIT_B, draw, spaces, spec

QUICK = settings(max_examples=40, deadline=None)

sizes = st.integers(0, 10**8)


class Declared(BaseModel):
    budget: Budget


def counts(region: FeasibleRegion, draws: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([region.space.count(region.draw(rng)) for _ in range(draws)])


def all_params(space: SearchSpace) -> list[dict[str, str]]:
    names = [d.name for d in space.dimensions]
    product = itertools.product(*(d.choices for d in space.dimensions))
    return [dict(zip(names, values, strict=True)) for values in product]


class TestBudget:
    @QUICK
    @given(sizes, sizes)
    def test_resolve_count_ignores_the_backbone(self, count, backbone):
        assert Budget.parse(count).resolve(backbone) == count
        assert Budget.parse(str(count)).resolve(backbone) == count

    @QUICK
    @given(st.integers(0, 10**5), st.integers(0, 999), sizes)
    def test_resolve_thousands_is_exact(self, whole, rest, backbone):
        for unit in "kK":
            assert Budget.parse(f"{whole}{unit}").resolve(backbone) == whole * 1000
            count = whole * 1000 + rest
            assert Budget.parse(f"{whole}.{rest:03}{unit}").resolve(backbone) == count

    @QUICK
    @given(st.integers(0, 99), st.integers(0, 999_999), sizes)
    def test_resolve_millions_is_exact(self, whole, rest, backbone):
        for unit in "mM":
            assert Budget.parse(f"{whole}{unit}").resolve(backbone) == whole * 1_000_000
            count = whole * 1_000_000 + rest
            assert Budget.parse(f"{whole}.{rest:06}{unit}").resolve(backbone) == count

    @QUICK
    @given(st.integers(0, 99), st.integers(0, 99), sizes)
    def test_resolve_percentage_is_rounded_down(self, whole, rest, backbone):
        hundredths = 100 * whole + rest
        count = hundredths * backbone // 10_000
        assert Budget.parse(f"{whole}.{rest:02}%").resolve(backbone) == count

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("12k", 12_000),
            ("0.3M", 300_000),
            ("1%", 2_000),
            ("0.5%", 1_000),
            ("100%", 200_000),
            ("0", 0),
            (0, 0),
            ("0%", 0),
            (" 12 k ", 12_000),
            ("1.2345k", 1234),
            ("0.29M", 290_000),
            # Below the whole number in binary fractions.
            ("1.001k", 1_001),
            ("1.001M", 1_001_000),
            (np.int64(7), 7),
        ],
    )
    def test_resolve_gives_the_count_as_int(self, value, expected):
        count = Budget.parse(value).resolve(200_000)
        assert count == expected
        assert type(count) is int

    @pytest.mark.parametrize("count", [10**9, 12_000_000_000, 10**18 - 1])
    def test_resolve_large_count_is_exact(self, count):
        assert Budget.parse(count).resolve(0) == Budget.parse(str(count)).resolve(0) == count

    @pytest.mark.parametrize(
        "value",
        [-1, "-1", "-5%", "", " ", "k", "%", "12kk", "12 km", "12g", "1e4", "1,000", "1_000",
         "0x10", ".5M", "5.M", "1.2.3", "nan", "inf", "12k%", "1 2", "١٢",
         True, False, None, "+5", [12], 1.5, "0.5", "9" * 400, 10**30, 10**4000, "1e3"],
    )  # fmt: skip
    def test_parse_malformed_value_raises_one_line_with_rule_and_value(self, value):
        with pytest.raises(BudgetError, match="budget must be a count") as caught:
            Budget.parse(value)
        message = str(caught.value)
        assert short(value) in message
        assert len(message) <= LIMIT
        assert "'12k'" in message
        assert len(message.splitlines()) == 1

    @QUICK
    @given(st.text(max_size=8))
    def test_parse_any_text_gives_a_budget_or_a_budget_error(self, text):
        with contextlib.suppress(BudgetError):
            assert Budget.parse(text).resolve(1000) >= 0

    @pytest.mark.parametrize("value", [12_000, "12k", "0.30M", "1%", " 5 k"])
    def test_str_is_the_value_as_written(self, value):
        budget = Budget.parse(value)
        assert str(budget) == str(value)
        assert eval(repr(budget)) == budget

    def test_parse_budget_returns_it(self):
        budget = Budget.parse("12k")
        assert Budget.parse(budget) is budget

    def test_equality_and_hash_follow_the_meaning(self):
        budget = Budget.parse("12k")
        assert {budget, Budget.parse(12_000), Budget.parse("0.012M")} == {budget}
        assert budget != Budget.parse("12%")
        assert Budget.parse("1%") == Budget.parse("1.0%") != Budget.parse("1")

    def test_budget_is_frozen_and_survives_copies(self):
        budget = Budget.parse("1%")
        with pytest.raises(AttributeError):
            budget.written = "2%"
        for again in (copy.deepcopy(budget), pickle.loads(pickle.dumps(budget))):
            assert (again, str(again)) == (budget, "1%")

    @pytest.mark.parametrize("value", [12_000, "12k", "1%"])
    def test_pydantic_field_round_trips_the_value_as_written(self, value):
        declared = Declared(budget=value)
        assert declared.budget == Budget.parse(value)
        assert declared.model_dump() == declared.model_dump(mode="json") == {"budget": value}
        again = Declared.model_validate_json(declared.model_dump_json())
        assert str(again.budget) == str(value)
        assert Declared(budget=declared.budget) == declared

    def test_pydantic_field_malformed_value_raises_the_budgets_message(self):
        with pytest.raises(ValidationError, match="must be a count of parameters"):
            Declared(budget="12q")


class TestDraw:
    @settings(max_examples=60, deadline=None)
    @given(spaces, st.floats(0, 1), st.integers(0, 1000))
    def test_draw_satisfiable_budget_fits(self, space, fraction, seed):
        budget = space.minimum + int(fraction * (space.maximum - space.minimum))
        region = FeasibleRegion(space, budget)
        rng = np.random.default_rng(seed)
        for _ in range(5):
            params = region.draw(rng)
            assert space.architecture(params).count(space.shapes) <= budget
            assert list(params) == [d.name for d in space.dimensions]

    @QUICK
    @given(spaces, st.integers(0, 1000))
    def test_draw_smallest_budget_gives_a_smallest_architecture(self, space, seed):
        region = FeasibleRegion(space, space.minimum)
        assert space.count(region.draw(np.random.default_rng(seed))) == space.minimum

    @pytest.mark.parametrize("extra", [0, 1, 2, 50, 1000])
    def test_draw_budget_just_above_the_smallest_fits(self, extra):
        region = FeasibleRegion(SearchSpace(load_search_space("default"), VIT_B), extra)
        assert counts(region, 20).max() <= extra

    @pytest.mark.parametrize("name", ["default", "lean", "lora-ranks", "paper", "vectors"])
    @pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 1.0])
    def test_draw_shipped_spaces_on_a_large_model_fit(self, name, fraction):
        space = SearchSpace(load_search_space(name), VIT_B)
        budget = int(fraction * space.maximum)
        assert counts(FeasibleRegion(space, budget), 20).max() <= budget

    def test_draw_budget_above_the_largest_architecture_fits(self):
        space = SearchSpace(load_search_space("vectors"), SMALL)
        found = counts(FeasibleRegion(space, 10**9), 100)
        assert found.max() <= space.maximum
        assert found.max() > 0.7 * space.maximum

    def test_draw_space_without_dimensions_gives_its_architecture(self):
        space = SearchSpace(spec(E=("vector",)), SMALL)
        region = FeasibleRegion(space, 12)
        rng = np.random.default_rng(0)
        assert region.draw(rng) == region.draw_uniform(rng) == region.repair({}, rng) == {}
        assert region.count(10) == 1

    @pytest.mark.parametrize("fraction", [0.005, 0.01, 0.05, 0.3, 1.0])
    def test_draw_counts_spread_over_the_whole_range(self, fraction):
        space = SearchSpace(load_search_space("default"), VIT_B)
        budget = int(fraction * space.maximum)
        fifths, _ = np.histogram(
            counts(FeasibleRegion(space, budget), 500), bins=5, range=(space.minimum, budget)
        )
        assert fifths.sum() == 500
        assert fifths.min() >= 50
        assert fifths.max() <= 175

    @pytest.mark.parametrize("fraction", [0.005, 0.05, 1.0])
    def test_draw_min_target_bounds_the_targets(self, fraction):
        space = SearchSpace(load_search_space("default"), VIT_B)
        budget = int(fraction * space.maximum)
        sizes = counts(FeasibleRegion(space, budget, min_target=0.5 * budget), 300)
        assert 0.68 * budget < sizes.mean() < 0.8 * budget
        assert (sizes < 0.4 * budget).mean() < 0.1
        assert sizes.max() <= budget

    def test_draw_min_target_above_the_maximum_gives_the_maximum(self):
        space = SearchSpace(load_search_space("vectors"), SMALL)
        region = FeasibleRegion(space, 10**9, min_target=10**9)
        assert counts(region, 3).tolist() == [space.maximum] * 3

    def test_draw_reaches_every_choice_of_every_dimension(self):
        space = SearchSpace(load_search_space("default"), {"fc": LayerShape(64, 32)})
        region = FeasibleRegion(space, space.maximum)
        rng = np.random.default_rng(0)
        seen = [region.draw(rng) for _ in range(500)]
        for dimension in space.dimensions:
            assert {params[dimension.name] for params in seen} == set(dimension.choices)

    def test_draw_same_seed_gives_the_same_architectures(self):
        region = FeasibleRegion(SearchSpace(load_search_space("default"), VIT_B), 200_000)

        def some(seed: int) -> list[dict[str, str]]:
            rng = np.random.default_rng(seed)
            return [region.draw(rng) for _ in range(3)]

        assert some(7) == some(7)
        assert some(7) != some(8)

    def test_draw_second_region_gives_the_same_architectures(self):
        def region() -> FeasibleRegion:
            return FeasibleRegion(SearchSpace(load_search_space("default"), VIT_B), 200_000)

        assert region().draw(np.random.default_rng(0)) == region().draw(np.random.default_rng(0))

    def test_draw_leaves_global_random_state_alone(self):
        region = FeasibleRegion(SearchSpace(load_search_space("vectors"), SMALL), 20)
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        region.draw(np.random.default_rng(0))
        assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


class TestDrawUniform:
    def test_draw_uniform_gives_every_choice_the_same_probability(self):
        space = SearchSpace(load_search_space("paper"), {"fc": LayerShape(64, 32)})
        region = FeasibleRegion(space, 0)
        rng = np.random.default_rng(0)
        seen = [region.draw_uniform(rng) for _ in range(2000)]
        for dimension in space.dimensions:
            values = [params[dimension.name] for params in seen]
            for choice in dimension.choices:
                assert values.count(choice) / 2000 == pytest.approx(
                    1 / len(dimension.choices), abs=0.05
                )

    @QUICK
    @given(spaces, st.integers(0, 1000))
    def test_draw_uniform_stays_in_the_space(self, space, seed):
        params = FeasibleRegion(space, space.maximum).draw_uniform(np.random.default_rng(seed))
        assert space.params(space.architecture(params)) == params


class TestRepair:
    @settings(max_examples=60, deadline=None)
    @given(spaces, st.floats(0, 1), st.integers(0, 1000))
    def test_repair_meets_the_budget_and_keeps_feasible_params(self, space, fraction, seed):
        budget = space.minimum + int(fraction * (space.maximum - space.minimum))
        region = FeasibleRegion(space, budget)
        params = draw(space, seed)
        original = dict(params)
        repaired = region.repair(params, np.random.default_rng(seed))
        assert params == original
        assert space.architecture(repaired).count(space.shapes) <= budget
        if space.count(params) <= budget:
            assert repaired == params

    @QUICK
    @given(spaces, st.floats(0, 1), st.integers(0, 1000))
    def test_repair_never_takes_a_more_expensive_choice(self, space, fraction, seed):
        budget = space.minimum + int(fraction * (space.maximum - space.minimum))
        params = draw(space, seed)
        repaired = FeasibleRegion(space, budget).repair(params, np.random.default_rng(seed))
        for dimension in space.dimensions:
            cost = dict(zip(dimension.choices, dimension.costs, strict=True))
            was, now = params[dimension.name], repaired[dimension.name]
            assert now == was or cost[now] < cost[was]

    def test_repair_takes_the_smallest_sufficient_saving(self):
        # Costs: B of fc 0, 1, 8, 24; E of fc 0, 1, 8.
        space = SearchSpace(
            spec(B=("none", "scalar", "vector", "lora-2"), E=("none", "scalar", "vector")),
            {"fc": LayerShape(8, 4)},
        )
        region = FeasibleRegion(space, 25)
        rng = np.random.default_rng(0)
        # 32 is 7 too much: E from vector to scalar saves 7, B to vector saves 16.
        repaired = region.repair({"fc.B": "lora-2", "fc.E": "vector"}, rng)
        assert repaired == {"fc.B": "lora-2", "fc.E": "scalar"}

    def test_repair_largest_architecture_meets_a_tiny_budget(self):
        space = SearchSpace(load_search_space("default"), VIT_B)
        largest = {d.name: d.choices[int(np.argmax(d.costs))] for d in space.dimensions}
        for budget in (0, 1, 100, 10_000):
            repaired = FeasibleRegion(space, budget).repair(largest, np.random.default_rng(0))
            assert space.count(repaired) <= budget

    def test_repair_same_seed_gives_the_same_params(self):
        space = SearchSpace(load_search_space("default"), VIT_B)
        region = FeasibleRegion(space, 100_000)
        params = draw(space, 0)
        assert space.count(params) > 100_000

        def repair(seed: int) -> dict[str, str]:
            return region.repair(params, np.random.default_rng(seed))

        assert repair(0) == repair(0)
        assert repair(0) != repair(1)


class TestInit:
    @QUICK
    @given(spaces, st.integers(1, 100))
    def test_init_budget_below_the_smallest_architecture_raises(self, space, missing):
        with pytest.raises(BudgetError, match=f"at least {space.minimum}") as caught:
            FeasibleRegion(space, space.minimum - missing)
        assert f"got {space.minimum - missing}" in str(caught.value)

    def test_init_budget_of_the_smallest_architecture_passes(self):
        space = SearchSpace(spec(A=("vector", "lora-2"), E=("scalar", "vector")), SMALL)
        assert space.minimum == 8 + 4 + 2
        assert FeasibleRegion(space, 14).count(10) == 1
        with pytest.raises(BudgetError):
            FeasibleRegion(space, 13)


class TestCount:
    @QUICK
    @given(spaces, st.floats(0, 1), st.integers(1, 3000))
    def test_count_equals_brute_force_up_to_the_limit(self, space, fraction, limit):
        assume(space.size <= 2000)
        budget = space.minimum + int(fraction * (space.maximum - space.minimum))
        fitting = sum(space.count(params) <= budget for params in all_params(space))
        assert FeasibleRegion(space, budget).count(limit) == min(fitting, limit)

    @pytest.mark.parametrize("budget", [0, 1, 5, 12, 24, 100])
    def test_count_equals_brute_force_on_a_tiny_space(self, budget):
        declared = spec(B=("none", "scalar", "lora-1"), D=("none", "vector"), E=("none", "scalar"))
        space = SearchSpace(declared, SMALL)
        assert space.size == 144
        fitting = [p for p in all_params(space) if space.count(p) <= budget]
        assert FeasibleRegion(space, budget).count(1000) == len(fitting)
        assert 1 <= len(fitting) <= 144

    def test_count_stops_at_the_limit_in_a_large_space(self):
        space = SearchSpace(load_search_space("default"), VIT_B)
        assert FeasibleRegion(space, 10_000_000).count(1000) == 1000
        assert FeasibleRegion(space, 0).count(1000) == 1

    def test_draw_reaches_every_feasible_architecture(self):
        space = SearchSpace(spec(B=("none", "scalar", "lora-1"), E=("none", "vector")), SMALL)
        budget = 14
        fitting = {tuple(p.items()) for p in all_params(space) if space.count(p) <= budget}
        region = FeasibleRegion(space, budget)
        rng = np.random.default_rng(0)
        drawn = {tuple(region.draw(rng).items()) for _ in range(3000)}
        assert drawn == fitting


def test_draw_choices_in_reverse_order_fits():
    reverse = SearchSpaceSpec(
        choices={
            t: tuple(reversed(getattr(load_search_space("default").choices, t))) for t in TENSORS
        }
    )
    space = SearchSpace(reverse, VIT_B)
    assert counts(FeasibleRegion(space, 50_000), 20).max() <= 50_000


@given(data=st.data())
def test_repair_keeps_the_dimensions_in_keep(data):
    space = data.draw(spaces)
    region = FeasibleRegion(space, data.draw(st.integers(space.minimum, space.maximum)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    params = region.draw_uniform(rng)
    names = [d.name for d in space.dimensions]
    keep = data.draw(st.sets(st.sampled_from(names))) if names else set()
    found = region.repair(params, rng, keep=[*keep, "unknown"])
    assert {name: found[name] for name in keep} == {name: params[name] for name in keep}
    cheapest = {d.name: min(d.costs) for d in space.dimensions}
    costs = {d.name: dict(zip(d.choices, d.costs, strict=True)) for d in space.dimensions}
    least = space.fixed_count + sum(
        costs[name][params[name]] if name in keep else cheapest[name] for name in names
    )
    assert space.count(found) <= max(region.budget, least)
    if space.count(params) <= region.budget:
        assert found == params


@st.composite
def restricted(draw):
    """A space, a budget, and for each dimension some choices."""
    space = draw(spaces)
    allowed = {
        d.name: tuple(draw(st.sets(st.sampled_from(d.choices), min_size=1)))
        for d in space.dimensions
    }
    fraction = draw(st.floats(0, 1))
    return space, space.minimum + int(fraction * (space.maximum - space.minimum)), allowed


class TestAllowed:
    @settings(max_examples=60, deadline=None)
    @given(restricted(), st.integers(0, 1000))
    def test_draw_and_repair_stay_in_allowed_choices_and_budget(self, case, seed):
        space, budget, allowed = case
        region = FeasibleRegion(space, budget, allowed=allowed)
        rng = np.random.default_rng(seed)
        for params in (region.draw(rng), region.repair(draw(space, seed), rng)):
            assert space.count(params) <= budget
            for d in space.dimensions:
                cost = dict(zip(d.choices, d.costs, strict=True))[params[d.name]]
                assert params[d.name] in allowed[d.name] or cost == min(d.costs)

    @QUICK
    @given(restricted(), st.integers(0, 1000))
    def test_draw_uniform_stays_in_allowed_choices(self, case, seed):
        space, budget, allowed = case
        region = FeasibleRegion(space, budget, allowed=allowed)
        params = region.draw_uniform(np.random.default_rng(seed))
        for d in space.dimensions:
            cost = dict(zip(d.choices, d.costs, strict=True))[params[d.name]]
            assert params[d.name] in allowed[d.name] or cost == min(d.costs)

    @QUICK
    @given(spaces, st.floats(0, 1), st.integers(0, 1000))
    def test_draw_with_all_choices_allowed_is_a_draw_without(self, space, fraction, seed):
        budget = space.minimum + int(fraction * (space.maximum - space.minimum))
        allowed = {d.name: d.choices for d in space.dimensions}
        one, other = (FeasibleRegion(space, budget, allowed=a) for a in (allowed, None))
        rngs = [np.random.default_rng(seed) for _ in range(2)]
        assert one.draw(rngs[0]) == other.draw(rngs[1])

    def test_repair_takes_the_largest_allowed_choice_below(self):
        ranks = ("none", "lora-1", "lora-2", "lora-4")
        space = SearchSpace(spec(B=(*ranks, "vector")), {"fc": LayerShape(8, 8)})
        rng = np.random.default_rng(0)
        region = FeasibleRegion(space, 1000, allowed={"fc.B": ("none", "lora-1", "lora-2")})
        assert region.repair({"fc.B": "lora-4"}, rng) == {"fc.B": "lora-2"}
        assert region.repair({"fc.B": "vector"}, rng) == {"fc.B": "none"}
        assert region.repair({"fc.B": "lora-1"}, rng) == {"fc.B": "lora-1"}
        assert region.repair({"fc.B": "lora-4"}, rng, keep=["fc.B"]) == {"fc.B": "lora-4"}

    def test_draw_reaches_every_allowed_choice_and_the_largest_count(self):
        space = SearchSpace(load_search_space("default"), {"fc": LayerShape(64, 32)})
        allowed = {d.name: d.choices[:2] for d in space.dimensions}
        region = FeasibleRegion(space, space.maximum, allowed=allowed)
        rng = np.random.default_rng(0)
        seen = [region.draw(rng) for _ in range(500)]
        for dimension in space.dimensions:
            assert {params[dimension.name] for params in seen} == set(allowed[dimension.name])
