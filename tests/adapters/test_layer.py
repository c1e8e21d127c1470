import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from glora_automl.adapters import GLoRALinear, activate, attach, detach, merge
from glora_automl.architecture import TENSORS, Architecture, Choice, LayerChoices, LayerShape
from glora_automl.errors import ArchitectureError
from glora_automl.search_space import SearchSpace, SearchSpaceSpec
from tests import models
from tests.adapters import reference

QUICK = settings(max_examples=60, deadline=None)

RANKS = (1, 2, 3)


def all_choices(shape: LayerShape, ranks: tuple[int, ...] = RANKS) -> dict[str, list[Choice]]:
    """Return every choice that a layer of this shape can have, with the ranks that fit it."""
    kinds = [Choice("none"), Choice("scalar"), Choice("vector")]
    found = {}
    for tensor in TENSORS:
        options = [c for c in kinds if not (tensor == "C" and c.kind == "scalar")]
        limit = shape.in_features if tensor == "C" else min(shape[:2])
        if tensor in "ABC":
            options += [Choice("lora", rank) for rank in ranks if rank <= limit]
        if tensor == "D" and not shape.bias:
            options = [Choice("none")]
        found[tensor] = options
    return found


def make_layer(
    shape: LayerShape, seed: int = 0, dtype: torch.dtype = torch.float64, *, trained: bool = True
) -> GLoRALinear:
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(shape.in_features, shape.out_features, bias=shape.bias, dtype=dtype)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    layer = GLoRALinear(linear, all_choices(shape), generator)
    if trained:
        models.randomise(layer, seed)
    return layer


def inputs(shape: LayerShape, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(2, 3, shape.in_features, generator=generator, dtype=dtype)


shapes = st.builds(LayerShape, st.integers(1, 7), st.integers(1, 7), st.booleans())


@st.composite
def shapes_and_choices(draw) -> tuple[LayerShape, LayerChoices]:
    shape = draw(shapes)
    options = all_choices(shape)
    return shape, LayerChoices(*(draw(st.sampled_from(options[t])) for t in TENSORS))


WITH_BIAS, WITHOUT_BIAS = LayerShape(5, 7), LayerShape(5, 7, bias=False)


def only(tensor: str, choice: str) -> LayerChoices:
    return LayerChoices(**{tensor: Choice.parse(choice)})


class TestFormula:
    @QUICK
    @given(shapes_and_choices())
    def test_forward_any_shape_and_choices_equals_the_reference(self, case):
        shape, choices = case
        layer = make_layer(shape)
        layer.activate(choices)
        x = inputs(shape)
        torch.testing.assert_close(layer(x), reference.forward(layer, x), rtol=0, atol=1e-12)

    @QUICK
    @given(shapes_and_choices())
    def test_effective_equals_the_reference(self, case):
        shape, choices = case
        layer = make_layer(shape)
        layer.activate(choices)
        weight, bias = layer.effective()
        expected_weight, expected_bias = reference.weight_and_bias(layer)
        torch.testing.assert_close(weight, expected_weight, rtol=0, atol=1e-12)
        if bias is None:
            assert not expected_bias.any()
        else:
            torch.testing.assert_close(bias, expected_bias, rtol=0, atol=1e-12)

    @pytest.mark.parametrize(
        ("shape", "tensor", "choice"),
        [(WITH_BIAS, tensor, choice) for tensor, choice in models.ONE_TENSOR]
        + [(WITHOUT_BIAS, tensor, choice) for tensor, choice in models.ONE_TENSOR if tensor != "D"],
    )
    def test_forward_each_choice_equals_the_reference_and_changes_the_output(
        self, shape, tensor, choice
    ):
        layer = make_layer(shape)
        if Choice.parse(choice) not in layer.choices[tensor]:
            layer = GLoRALinear(layer.linear, {tensor: [Choice.parse(choice)]})
            models.randomise(layer)
        x = inputs(shape)
        frozen = layer.linear(x)
        layer.activate(only(tensor, choice))
        torch.testing.assert_close(layer(x), reference.forward(layer, x), rtol=0, atol=1e-12)
        assert (layer(x) - frozen).abs().max() > 1e-3

    def test_effective_vectors_and_lora_equal_a_calculation_by_hand(self):
        linear = nn.Linear(2, 2, dtype=torch.float64)
        linear.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
        linear.bias.data = torch.tensor([10.0, 20.0], dtype=torch.float64)
        vector, lora = Choice("vector"), Choice("lora", 1)
        layer = GLoRALinear(linear, dict(zip(TENSORS, [[vector], [lora]] + [[vector]] * 3)))  # noqa: B905
        with torch.no_grad():
            layer.A_vector.copy_(torch.tensor([1.0, -1.0]))
            layer.B_left.copy_(torch.tensor([[1.0], [2.0]]))
            layer.B_right.copy_(torch.tensor([[10.0, 100.0]]))
            layer.C_vector.copy_(torch.tensor([1.0, 0.5]))
            layer.D_vector.copy_(torch.tensor([0.5, 2.0]))
            layer.E_vector.copy_(torch.tensor([7.0, 8.0]))
        layer.activate(LayerChoices(A=vector, B=lora, C=vector, D=vector, E=vector))
        # W = [[1, 2], [3, 4]] + [[1, 2], [-3, -4]] + [[10, 100], [20, 200]]
        assert layer.weight.tolist() == [[12.0, 104.0], [20.0, 200.0]]
        # b = [10, 20] + [5, 40] + [7, 8] + [1 + 1, 3 + 2]
        assert layer.bias.tolist() == [24.0, 73.0]

    def test_effective_scalars_equal_a_calculation_by_hand(self):
        linear = nn.Linear(2, 1, dtype=torch.float64)
        linear.weight.data = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        linear.bias.data = torch.tensor([10.0], dtype=torch.float64)
        scalar = Choice("scalar")
        layer = GLoRALinear(linear, {t: [scalar] for t in "ABDE"})
        with torch.no_grad():
            for value, tensor in enumerate("ABDE", start=2):
                layer.get_parameter(f"{tensor}_scalar").fill_(value)
        layer.activate(LayerChoices(A=scalar, B=scalar, D=scalar, E=scalar))
        assert layer.weight.tolist() == [[1 + 2 + 3, 2 + 4 + 3]]
        assert layer.bias.tolist() == [10 + 40 + 5]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_forward_keeps_the_frozen_layers_dtype(self, dtype):
        layer = make_layer(WITH_BIAS, dtype=dtype)
        layer.activate(LayerChoices(*(Choice.parse("vector") for _ in TENSORS)))
        assert {p.dtype for p in layer.parameters()} == {dtype}
        assert layer(inputs(WITH_BIAS, dtype)).dtype == dtype


class TestInitialisation:
    @QUICK
    @given(shapes_and_choices())
    def test_init_any_choice_keeps_weight_and_bias_bit_for_bit(self, case):
        shape, choices = case
        layer = make_layer(shape, dtype=torch.float32, trained=False)
        layer.activate(choices)
        weight, bias = layer.effective()
        assert torch.equal(weight, layer.linear.weight)
        if shape.bias:
            assert torch.equal(bias, layer.linear.bias)
        elif bias is not None:
            assert not bias.any()

    def test_init_one_factor_of_each_product_is_zero(self):
        layer = make_layer(WITH_BIAS, trained=False)
        for tensor in "ABC":
            assert not layer.get_parameter(f"{tensor}_left").any()
            assert layer.get_parameter(f"{tensor}_right").all()

    def test_init_other_factor_is_uniform_within_loras_bound(self):
        linear = nn.Linear(16, 400)
        layer = GLoRALinear(linear, {"B": [Choice("lora", 16)]}, torch.Generator().manual_seed(0))
        bound = 1 / math.sqrt(16)
        assert layer.B_right.abs().max() <= bound
        assert layer.B_right.abs().max() > 0.9 * bound
        assert layer.B_right.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)

    def test_init_values_depend_only_on_the_generator(self):
        def rights(seed: int) -> list[torch.Tensor]:
            torch.manual_seed(torch.seed())
            generator = torch.Generator().manual_seed(seed)
            layer = GLoRALinear(nn.Linear(7, 5), all_choices(WITH_BIAS), generator)
            return [layer.A_right, layer.B_right, layer.C_right]

        assert all(map(torch.equal, rights(1), rights(1)))
        assert not any(map(torch.equal, rights(1), rights(2)))

    def test_init_order_of_choices_does_not_matter(self):
        def state(reverse: bool) -> dict[str, torch.Tensor]:
            choices = all_choices(WITH_BIAS)
            order = sorted(choices, reverse=reverse)
            shuffled = {t: sorted(choices[t], key=str, reverse=reverse) for t in order}
            linear = nn.Linear(7, 5)
            nn.init.ones_(linear.weight)
            nn.init.ones_(linear.bias)
            return GLoRALinear(linear, shuffled, torch.Generator().manual_seed(0)).state_dict()

        one, other = state(False), state(True)
        assert list(one) == list(other)
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_init_with_generator_keeps_the_global_random_state(self):
        linear = nn.Linear(7, 5)
        before = torch.get_rng_state()
        GLoRALinear(linear, all_choices(WITH_BIAS), torch.Generator().manual_seed(0))
        assert torch.equal(torch.get_rng_state(), before)

    def test_init_activates_no_choice(self):
        layer = make_layer(WITH_BIAS, trained=True)
        assert layer.active == LayerChoices()
        assert layer.active_parameters() == {}
        assert layer.effective()[0] is layer.linear.weight
        assert layer.effective()[1] is layer.linear.bias

    def test_init_allocates_only_the_choices_parameters(self):
        layer = GLoRALinear(nn.Linear(7, 5), {"A": [Choice("scalar")], "B": [Choice("lora", 2)]})
        own = {name for name, _ in layer.named_parameters(recurse=False)}
        assert own == {"A_scalar", "B_left", "B_right"}

    def test_init_keeps_the_original_layer(self):
        linear = nn.Linear(7, 5)
        weight, bits = linear.weight, linear.weight.detach().clone()
        layer = GLoRALinear(linear, all_choices(WITH_BIAS))
        assert layer.linear is linear
        assert layer.linear.weight is weight
        assert torch.equal(weight, bits)
        assert not weight.requires_grad
        assert not linear.bias.requires_grad


class TestRanks:
    @pytest.mark.parametrize("tensor", ["A", "B", "C"])
    def test_rank_r_uses_the_first_columns_and_rows_of_one_pair(self, tensor):
        layer = make_layer(WITH_BIAS)
        left, right = layer.get_parameter(f"{tensor}_left"), layer.get_parameter(f"{tensor}_right")
        assert left.shape[1] == right.shape[0] == max(RANKS)
        for rank in RANKS:
            layer.activate(only(tensor, f"lora-{rank}"))
            parts = layer.active_parameters()
            assert list(parts) == [f"{tensor}_left", f"{tensor}_right"]
            assert torch.equal(parts[f"{tensor}_left"], left[:, :rank])
            assert torch.equal(parts[f"{tensor}_right"], right[:rank])
            assert parts[f"{tensor}_left"].data_ptr() == left.data_ptr()
            assert parts[f"{tensor}_right"].data_ptr() == right.data_ptr()

    def test_change_of_rank_1_reaches_rank_3(self):
        layer = make_layer(WITH_BIAS)
        layer.activate(only("B", "lora-3"))
        before = layer.weight.detach().clone()
        with torch.no_grad():
            delta = torch.outer(layer.B_left[:, 0], layer.B_right[0])
            layer.B_left[:, 0] *= 2
        torch.testing.assert_close(layer.weight.detach(), before + delta, rtol=0, atol=1e-12)

    def test_change_beyond_rank_1_does_not_reach_rank_1(self):
        layer = make_layer(WITH_BIAS)
        layer.activate(only("B", "lora-1"))
        before = layer.weight.detach().clone()
        with torch.no_grad():
            layer.B_left[:, 1:] += 1
            layer.B_right[1:] += 1
        assert torch.equal(layer.weight, before)

    def test_scalar_vector_and_lora_have_separate_parameters(self):
        layer = make_layer(WITH_BIAS)
        pointers = [p.data_ptr() for p in layer.parameters(recurse=False)]
        assert len(set(pointers)) == len(pointers)
        before = {}
        for choice in ("scalar", "vector", "lora-2"):
            layer.activate(only("A", choice))
            before[choice] = layer.weight.detach().clone()
        with torch.no_grad():
            layer.A_scalar += 1
        for choice, weight in before.items():
            layer.activate(only("A", choice))
            assert torch.equal(layer.weight, weight) == (choice != "scalar")


class TestOrderFactors:
    @QUICK
    @given(shapes_and_choices(), st.integers(0, 99))
    def test_order_factors_keeps_the_full_product_and_all_other_parameters(self, case, seed):
        shape, _ = case
        layer = make_layer(shape, seed)
        before = {name: p.detach().clone() for name, p in layer.named_parameters()}
        layer.order_factors()
        after = dict(layer.named_parameters())
        assert set(after) == set(before)
        for name, parameter in after.items():
            if not name.endswith(("_left", "_right")):
                assert torch.equal(parameter, before[name])
        for tensor in "ABC":
            if f"{tensor}_left" in before:
                products = (s[f"{tensor}_left"] @ s[f"{tensor}_right"] for s in (before, after))
                torch.testing.assert_close(*products, rtol=0, atol=1e-10)

    @QUICK
    @given(shapes_and_choices(), st.integers(0, 99))
    def test_order_factors_makes_the_leading_ranks_the_best_approximation(self, case, seed):
        shape, _ = case
        layer = make_layer(shape, seed)
        layer.order_factors()
        for tensor in "ABC":
            left = getattr(layer, f"{tensor}_left", None)
            if left is None:
                continue
            right = getattr(layer, f"{tensor}_right")
            values = torch.linalg.svdvals(left @ right)
            for rank in range(left.shape[1] + 1):
                error = (left @ right - left[:, :rank] @ right[:rank]).norm()
                best = values[rank:].square().sum().sqrt()  # Eckart and Young
                torch.testing.assert_close(error, best, rtol=1e-6, atol=1e-9)

    def test_order_factors_balances_the_factors_in_falling_order(self):
        layer = make_layer(WITH_BIAS)
        layer.order_factors()
        for tensor in "AB":
            left, right = getattr(layer, f"{tensor}_left"), getattr(layer, f"{tensor}_right")
            lefts, rights = left.norm(dim=0), right.norm(dim=1)
            torch.testing.assert_close(lefts, rights, rtol=1e-9, atol=1e-12)
            assert lefts.tolist() == sorted(lefts.tolist(), reverse=True)

    def test_order_factors_keeps_dtype_parameters_and_an_untrained_layer(self):
        layer = make_layer(WITH_BIAS, dtype=torch.bfloat16)
        kept = dict(layer.named_parameters())
        layer.order_factors()
        assert all(p is kept[name] for name, p in layer.named_parameters())
        assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
        layer = make_layer(WITH_BIAS, trained=False)
        layer.order_factors()
        x = inputs(WITH_BIAS)
        layer.activate(only("B", "lora-3"))
        assert torch.equal(layer(x), layer.linear(x))


class TestCount:
    @QUICK
    @given(st.lists(shapes_and_choices(), min_size=1, max_size=4))
    def test_count_of_architecture_space_and_parameters_is_equal(self, cases):
        layers = {f"layer.{i}": (make_layer(s, i), c) for i, (s, c) in enumerate(cases)}
        shapes_by_name = {name: layer.shape for name, (layer, _) in layers.items()}
        architecture = Architecture({name: choices for name, (_, choices) in layers.items()})

        # One declaration for all layers, if its ranks fit the smallest.
        spec = SearchSpaceSpec(
            choices={
                tensor: tuple(dict.fromkeys(["none", *(str(getattr(c, tensor)) for _, c in cases)]))
                for tensor in TENSORS
            }
        )
        actual = 0
        for layer, choices in layers.values():
            layer.activate(choices)
            actual += sum(part.numel() for part in layer.active_parameters().values())
            assert reference.count(layer) == choices.count(layer.shape)
        assert architecture.count(shapes_by_name) == actual

        widest = max(c.rank for _, choices in cases for c in choices)
        if widest <= min(min(shape[:2]) for shape in shapes_by_name.values()):
            space = SearchSpace(spec, shapes_by_name)
            assert space.count(space.params(architecture)) == actual

    def test_shape_has_the_bias(self):
        assert make_layer(WITH_BIAS).shape == LayerShape(5, 7, True)
        assert make_layer(WITHOUT_BIAS).shape == LayerShape(5, 7, False)


class TestGradients:
    @QUICK
    @given(shapes_and_choices())
    def test_gradients_equal_autograd_through_the_reference(self, case):
        shape, choices = case
        layer = make_layer(shape)
        layer.activate(choices)
        x = inputs(shape).requires_grad_()
        down = torch.randn(
            2,
            3,
            shape.out_features,
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(4),
        )
        leaves = [x, *layer.parameters(recurse=False)]

        def gradients(y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad((y * down).sum(), leaves, allow_unused=True)

        fast, slow = gradients(layer(x)), gradients(reference.forward(layer, x))
        for one, other in zip(fast, slow, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=0, atol=1e-11)

    @QUICK
    @given(shapes_and_choices())
    def test_gradients_reach_only_active_parameters(self, case):
        shape, choices = case
        layer = make_layer(shape)
        layer.activate(choices)
        y = layer(inputs(shape))
        active = set(layer.active_parameters())
        assert y.requires_grad == bool(active)
        if active:
            y.square().sum().backward()
        for name, parameter in layer.named_parameters(recurse=False):
            assert (parameter.grad is not None) == (name in active)
        assert layer.linear.weight.grad is None
        assert shape.bias == (layer.linear.bias is not None)
        assert not any(p.requires_grad for p in layer.linear.parameters())

    @pytest.mark.parametrize("tensor", ["A", "B", "C"])
    def test_gradients_beyond_the_rank_are_zero(self, tensor):
        layer = make_layer(WITH_BIAS)
        layer.activate(only(tensor, "lora-2"))
        layer(inputs(WITH_BIAS)).square().sum().backward()
        left = layer.get_parameter(f"{tensor}_left").grad
        right = layer.get_parameter(f"{tensor}_right").grad
        assert left[:, :2].all()
        assert right[:2].all()
        assert not left[:, 2:].any()
        assert not right[2:].any()

    def test_step_changes_only_active_parameters(self):
        layer = make_layer(WITH_BIAS)
        layer.activate(LayerChoices(B=Choice("lora", 2), E=Choice("vector")))
        before = {name: p.detach().clone() for name, p in layer.named_parameters()}
        optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.1)
        layer(inputs(WITH_BIAS)).square().mean().backward()
        optimizer.step()
        moved = {n for n, p in layer.named_parameters() if not torch.equal(p, before[n])}
        assert moved == {"B_left", "B_right", "E_vector"}


class TestActivate:
    @pytest.mark.parametrize(
        ("tensor", "choice"),
        [("A", "lora-4"), ("B", "lora-1"), ("C", "vector"), ("D", "vector"), ("E", "scalar")],
    )
    def test_activate_unknown_choice_raises_and_keeps_the_active_ones(self, tensor, choice):
        choices = {t: [Choice.parse("lora-2")] for t in "AB"} | {"E": [Choice("vector")]}
        layer = GLoRALinear(nn.Linear(7, 5), choices)
        before = LayerChoices(B=Choice("lora", 2))
        layer.activate(before)
        with pytest.raises(ArchitectureError, match=f"{tensor} must be one of") as caught:
            layer.activate(
                LayerChoices(E=Choice("vector"))._replace(**{tensor: Choice.parse(choice)})
            )
        message = str(caught.value)
        assert repr(choice) in message
        assert all(str(known) in message for known in layer.choices[tensor])
        assert layer.active == before

    def test_activate_none_is_always_allowed(self):
        layer = GLoRALinear(nn.Linear(7, 5), {"B": [Choice("lora", 2)]})
        layer.activate(LayerChoices(B=Choice("lora", 2)))
        layer.activate(LayerChoices())
        assert layer.active_parameters() == {}

    @pytest.mark.parametrize(
        ("choices", "message"),
        [
            ({"B": [Choice("lora", 6)]}, "rank of B must be at most 5"),
            ({"C": [Choice("lora", 8)]}, "rank of C must be at most 7"),
            ({"C": [Choice("scalar")]}, "C must be one of none, vector, lora-r"),
            ({"E": [Choice("lora", 2)]}, "E must be one of none, scalar, vector"),
        ],
    )
    def test_init_choice_that_does_not_fit_raises(self, choices, message):
        with pytest.raises(ArchitectureError, match=message):
            GLoRALinear(nn.Linear(7, 5), choices)

    def test_init_d_without_bias_raises(self):
        with pytest.raises(ArchitectureError, match="without bias"):
            GLoRALinear(nn.Linear(7, 5, bias=False), {"D": [Choice("scalar")]})

    def test_repr_has_shape_and_active_choices(self):
        layer = make_layer(WITH_BIAS)
        layer.activate(LayerChoices(B=Choice("lora", 2), E=Choice("vector")))
        assert "in_features=7, out_features=5, B=lora-2 E=vector" in repr(layer)


class TestInputs:
    @pytest.mark.parametrize("leading", [(), (1,), (4,), (2, 3), (2, 3, 4), (0,)])
    def test_forward_keeps_leading_dimensions(self, leading):
        layer = make_layer(WITH_BIAS)
        layer.activate(LayerChoices(A=Choice("vector"), B=Choice("lora", 2), C=Choice("vector")))
        x = torch.randn(*leading, 7, dtype=torch.float64)
        assert layer(x).shape == (*leading, 5)
        torch.testing.assert_close(layer(x), reference.forward(layer, x), rtol=0, atol=1e-12)


class TestPointwiseConvolution:
    def make(self, shape):
        """Return a convolution and a linear layer with the same weights and adapters."""
        linear = make_layer(shape)
        conv = nn.Conv2d(shape.in_features, shape.out_features, 1, bias=shape.bias).double()
        with torch.no_grad():
            conv.weight.copy_(linear.linear.weight[:, :, None, None])
            if shape.bias:
                conv.bias.copy_(linear.linear.bias)
        layer = GLoRALinear(conv, all_choices(shape))
        own = dict(linear.named_parameters(recurse=False))
        with torch.no_grad():
            for name, parameter in layer.named_parameters(recurse=False):
                parameter.copy_(own[name])
        return layer, linear

    @QUICK
    @given(shapes_and_choices())
    def test_forward_convolution_is_the_linear_layer_at_each_pixel(self, drawn):
        shape, choices = drawn
        layer, linear = self.make(shape)
        x = inputs(shape)[..., None].expand(-1, -1, -1, 2).transpose(1, 2)  # (2, in, 3, 2)
        for each in (layer, linear):
            each.activate(choices)
        actual, expected = layer(x), linear(x.movedim(1, -1)).movedim(-1, 1)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
        assert layer.weight.shape == layer.linear.weight.shape
        assert torch.equal(layer.weight.flatten(1), linear.weight)
        assert layer.active_parameters().keys() == linear.active_parameters().keys()
        assert layer.shape == linear.shape

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_merge_convolution_and_detach_restore_it(self, layout):
        conv = nn.Conv2d(6, 4, 1, bias=False).to(memory_format=layout)
        model = nn.Sequential(conv, nn.ReLU())
        before = conv.weight.detach().clone()
        choices = {"B": [Choice("lora", 2)], "E": [Choice("vector")]}
        attach(model, {"0": choices})
        models.randomise(model)
        activate(model, Architecture.parse("0: B=lora-2 E=vector"))
        x = torch.randn(2, 6, 3, 3).to(memory_format=layout)
        expected = model(x)
        with merge(model):
            assert type(model[0]) is nn.Conv2d
            assert model[0].weight.shape == (4, 6, 1, 1)
            assert model[0].bias.shape == (4,)
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)
        assert detach(model)[0] is conv
        assert torch.equal(conv.weight, before)


@pytest.mark.parametrize("is_convolution", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_layer_under_autocast_builds_weights_and_biases_in_float32(is_convolution, grad):
    torch.manual_seed(0)
    linear = nn.Conv2d(64, 32, 1) if is_convolution else nn.Linear(64, 32)
    layer = GLoRALinear(linear, {"B": [Choice.parse("lora-4")], "C": [Choice.parse("vector")]})
    layer.activate(LayerChoices(B=Choice.parse("lora-4"), C=Choice.parse("vector")))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    weight, bias = layer.effective()
    x = torch.zeros(2, 64, 1, 1) if is_convolution else torch.zeros(2, 64)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(grad):
        assert torch.equal(layer.effective()[0], weight)
        assert torch.equal(layer.bias, bias)
        y = layer(x)
    # Of zeros a layer gives its bias, rounded once. Sums of rounded products differ from it.
    assert y.dtype is torch.bfloat16
    assert torch.equal(y.flatten(1)[0], bias.to(torch.bfloat16))
