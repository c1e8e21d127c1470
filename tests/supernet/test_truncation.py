import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import TENSORS, Architecture, Choice, LayerShape
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.supernet import (
    Supernet,
    allowed_choices,
    component_norms,
    is_truncation,
    order_factors,
    truncate,
    widest_architecture,
)
from tests import models
from tests.supernet.cases import create_case
from tests.test_search_space import SMALL, spaces, spec

QUICK = settings(max_examples=60, deadline=None)


@pytest.fixture
def vit():
    """A supernet of the lean search space with non-zero parameters, and its space."""
    model = models.backbone("vit")
    shapes = linear_shapes(model, example=models.images())
    space = SearchSpace(load_search_space("lean"), shapes)
    supernet = Supernet(model, space.layer_choices())
    models.randomise(model)
    return supernet, space


def norms_of(space, seed):
    """Random norms of the widest architecture's components."""
    rng = np.random.default_rng(seed)
    wide = widest_architecture(space)
    return {
        name: {
            tensor: rng.exponential(size=max(choice.rank, 1)).tolist()
            for tensor, choice in zip(TENSORS, choices, strict=True)
            if choice.kind != "none"
        }
        for name, choices in wide.items()
    }


class TestWidest:
    @QUICK
    @given(spaces)
    def test_widest_architecture_has_the_largest_count(self, space):
        assert widest_architecture(space).count(space.shapes) == space.maximum


class TestAllowedChoices:
    def test_is_truncation_is_a_partial_order(self):
        choices = [Choice.parse(c) for c in ("none", "scalar", "vector", "lora-1", "lora-4")]
        for one in choices:
            assert is_truncation(one, one)
            for other in choices:
                if one != other and is_truncation(one, other):
                    assert not is_truncation(other, one)
                    assert one.kind == "none" or one.rank < other.rank

    @QUICK
    @given(spaces)
    def test_allowed_choices_hold_the_architectures_own(self, space):
        wide = widest_architecture(space)
        allowed, params = allowed_choices(space, wide), space.params(wide)
        for dimension in space.dimensions:
            assert params[dimension.name] in allowed[dimension.name]
            assert set(allowed[dimension.name]) <= set(dimension.choices)

    def test_allowed_choices_leave_out_other_kinds_and_higher_ranks(self):
        space = SearchSpace(spec(B=("none", "scalar", "vector", "lora-1", "lora-2")), SMALL)
        found = Architecture.uniform(SMALL, B="lora-1")
        assert set(allowed_choices(space, found).values()) == {("none", "lora-1")}
        found = Architecture.uniform(SMALL, B="vector")
        assert set(allowed_choices(space, found).values()) == {("none", "vector")}


class TestOrderFactors:
    def test_order_factors_keeps_the_outputs_of_the_widest_subnet(self):
        supernet, shapes, images, _ = create_case("vit")
        wide = Architecture.uniform(shapes, A="lora-4", B="lora-4", C="lora-4", E="vector")
        supernet.activate(wide)
        with torch.no_grad():
            before = supernet.model(images)
            order_factors(supernet)
            torch.testing.assert_close(supernet.model(images), before, rtol=1e-4, atol=1e-4)

    def test_order_factors_makes_truncated_weights_closer_with_each_rank(self, vit):
        supernet, space = vit
        order_factors(supernet)
        shapes = space.shapes
        weights = []
        with torch.no_grad():
            for rank in (8, 4, 2, 1):
                supernet.activate(Architecture.uniform(shapes, B=f"lora-{rank}"))
                layer = supernet.layers["blocks.0.mlp.fc1"]
                weights.append(layer.effective()[0].clone())
        errors = [(weights[0] - weight).norm().item() for weight in weights[1:]]
        assert 0 < errors[0] < errors[1] < errors[2]


class TestNorms:
    def test_component_norms_of_inactive_tensors_are_empty(self, vit):
        supernet, space = vit
        some = Architecture.uniform(space.shapes, B="lora-2")
        for norms in component_norms(supernet, some).values():
            assert [len(norms[tensor]) for tensor in TENSORS] == [0, 2, 0, 0, 0]

    def test_component_norms_are_those_of_the_changes(self):
        supernet, shapes, _, _ = create_case("vit")
        order_factors(supernet)
        name = "blocks.0.mlp.fc2"
        layer = supernet.layers[name]
        weight, bias = layer.linear.weight, layer.linear.bias
        cases = {"A": "vector", "B": "scalar", "C": "vector", "D": "vector", "E": "scalar"}
        for tensor, choice in cases.items():
            architecture = Architecture.uniform(shapes, **{tensor: choice})
            ((value,),) = (component_norms(supernet, architecture)[name][tensor],)
            with torch.no_grad():
                changed = layer.effective()
                change = (changed[0] - weight).square().sum() + (changed[1] - bias).square().sum()
            assert value == pytest.approx(change.item(), rel=1e-3)

    def test_component_norms_of_ordered_factors_fall_and_sum_to_the_products(self):
        supernet, shapes, _, _ = create_case("vit")
        order_factors(supernet)
        norms = component_norms(supernet, Architecture.uniform(shapes, B="lora-4"))
        for name, layer in supernet.layers.items():
            values = norms[name]["B"]
            assert values == sorted(values, reverse=True)
            with torch.no_grad():
                change = (layer.effective()[0] - layer.linear.weight.flatten(1)).square().sum()
            assert sum(values) == pytest.approx(change.item(), rel=1e-3)

    def test_component_norms_of_layers_without_bias(self):
        supernet, shapes, _, _ = create_case("vit-no-qkv-bias")
        norms = component_norms(supernet, Architecture.uniform(shapes, C="vector"))
        for name, layer in supernet.layers.items():
            with torch.no_grad():
                change = layer.effective()[1]
                if layer.linear.bias is not None:
                    change = change - layer.linear.bias
            assert norms[name]["C"][0] == pytest.approx(change.square().sum().item(), rel=1e-3)


class TestTruncate:
    @QUICK
    @given(spaces, st.floats(0, 1), st.integers(0, 1000))
    def test_truncate_fits_the_budget_and_is_a_truncation(self, space, fraction, seed):
        budget = space.minimum + int(fraction * (space.maximum - space.minimum))
        wide = widest_architecture(space)
        found = truncate(space, wide, norms_of(space, seed), budget)
        assert found.count(space.shapes) <= budget
        allowed, params = allowed_choices(space, wide), space.params(found)  # of the space, tied
        for dimension in space.dimensions:
            cheapest = min(dimension.costs)
            costs = dict(zip(dimension.choices, dimension.costs, strict=True))
            choice = params[dimension.name]
            assert choice in allowed[dimension.name] or costs[choice] == cheapest

    @QUICK
    @given(spaces, st.integers(0, 1000))
    def test_truncate_with_enough_budget_keeps_everything(self, space, seed):
        wide = widest_architecture(space)
        assert truncate(space, wide, norms_of(space, seed), space.maximum) == wide

    @QUICK
    @given(spaces, st.floats(0, 1), st.integers(0, 1000))
    def test_truncate_leaves_no_step_that_fits(self, space, fraction, seed):
        budget = space.minimum + int(fraction * (space.maximum - space.minimum))
        wide = widest_architecture(space)
        allowed = allowed_choices(space, wide)
        params = space.params(truncate(space, wide, norms_of(space, seed), budget))
        left = budget - space.count(params)
        for dimension in space.dimensions:
            costs = dict(zip(dimension.choices, dimension.costs, strict=True))
            more = [costs[c] - costs[params[dimension.name]] for c in allowed[dimension.name]]
            assert not any(0 < cost <= left for cost in more)

    def test_truncate_of_the_smallest_budget_is_the_smallest_architecture(self):
        space = SearchSpace(spec(B=("none", "lora-1", "lora-2"), E=("scalar", "vector")), SMALL)
        found = truncate(space, widest_architecture(space), norms_of(space, 0), space.minimum)
        assert found.count(space.shapes) == space.minimum

    def test_truncate_without_norms_widens_nothing(self):
        space = SearchSpace(spec(B=("none", "lora-1", "lora-2"), E=("scalar", "vector")), SMALL)
        found = truncate(space, widest_architecture(space), {}, space.maximum)
        assert found.count(space.shapes) == space.minimum

    def test_truncate_takes_the_largest_component_per_parameter(self):
        shapes = {"fc1": LayerShape(8, 4), "fc2": LayerShape(4, 8)}
        space = SearchSpace(spec(B=("none", "lora-1"), E=("none", "vector")), shapes)
        values = {"fc1": {"B": [12.0], "E": [3.0]}, "fc2": {"B": [11.0], "E": [8.0]}}
        wide = widest_architecture(space)  # 12 parameters of B, 8 and 4 of E

        def params(budget):
            return space.params(truncate(space, wide, values, budget))

        none = {"fc1.B": "none", "fc1.E": "none", "fc2.B": "none", "fc2.E": "none"}
        assert params(4) == {**none, "fc2.E": "vector"}
        assert params(16) == {**none, "fc2.E": "vector", "fc1.B": "lora-1"}
        assert params(28) == {**none, "fc2.E": "vector", "fc1.B": "lora-1", "fc2.B": "lora-1"}

    def test_truncate_with_ties_sums_the_norms_of_the_layers(self):
        shapes = {f"blocks.{i}.{name}": LayerShape(8, 8) for i in (0, 1) for name in ("q", "v")}
        space = SearchSpace(spec(B=("none", "lora-1"), tie="kind"), shapes)
        assert len(space.dimensions) == 2
        values = {
            "blocks.0.q": {"B": [5.0]},
            "blocks.0.v": {"B": [3.0]},
            "blocks.1.q": {"B": [0.0]},
            "blocks.1.v": {"B": [3.0]},
        }
        found = truncate(space, widest_architecture(space), values, 32)
        assert {n for n, c in found.items() if str(c.B) != "none"} == {"blocks.0.v", "blocks.1.v"}
