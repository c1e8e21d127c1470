import itertools

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from glora_automl.adapters._linear import adapted_linear

OUT, IN = 4, 5
CASES = list(itertools.product(["none", "scale", "lora"], ["none", "lora", "ones"], [False, True]))
# Few rows are multiplied by the factors, many by a built weight.
ROWS = pytest.mark.parametrize("rows", [1, 40])
EVERY_CASE = pytest.mark.parametrize(("a", "b", "bias"), CASES)


def parts(a: str, b: str, bias: bool, dtype: torch.dtype = torch.float64) -> dict:
    """Return random keyword arguments of :func:`adapted_linear`."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        value = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        return value.requires_grad_(True)

    return {
        "bias": random(OUT) if bias else None,
        "scale": random(OUT) if a == "scale" else None,
        "scaling": (random(OUT, 2), random(2, IN)) if a == "lora" else None,
        "added": {
            "none": None,
            "lora": (random(OUT, 3), random(3, IN)),
            "ones": (random(OUT, 1), torch.ones(1, IN, dtype=dtype)),
        }[b],
    }


def flat(adapter: dict) -> list[torch.Tensor]:
    found = []
    for value in adapter.values():
        found += value if isinstance(value, tuple) else [value]
    return [t for t in found if t is not None and t.requires_grad]


def dense(x: torch.Tensor, weight: torch.Tensor, adapter: dict) -> torch.Tensor:
    """Compute the plain formula, for autograd to differentiate."""
    built = weight
    if adapter["scale"] is not None:
        built = built + weight * adapter["scale"][:, None]
    if adapter["scaling"] is not None:
        built = built + weight * (adapter["scaling"][0] @ adapter["scaling"][1])
    if adapter["added"] is not None:
        built = built + adapter["added"][0] @ adapter["added"][1]
    y = x @ built.t()
    return y if adapter["bias"] is None else y + adapter["bias"]


def inputs(rows: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 2, IN, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(OUT, IN, generator=generator, dtype=torch.float64).to(dtype)
    return x.requires_grad_(True), weight


@ROWS
@EVERY_CASE
def test_gradients_equal_finite_differences(rows, a, b, bias):
    x, weight = inputs(rows if rows == 1 else 5)
    adapter = parts(a, b, bias)

    def function(*_: torch.Tensor) -> torch.Tensor:
        return adapted_linear(x, weight, **adapter)

    assert torch.autograd.gradcheck(function, [x, *flat(adapter)])


@ROWS
@EVERY_CASE
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
def test_outputs_and_gradients_equal_the_formula(rows, a, b, bias, dtype, tolerance):
    exact, adapter = parts(a, b, bias), parts(a, b, bias, dtype)
    (x64, w64), (x, weight) = inputs(rows), inputs(rows, dtype)
    expected, actual = dense(x64, w64, exact), adapted_linear(x, weight, **adapter)
    generator = torch.Generator().manual_seed(2)
    pull = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    grads_expected = torch.autograd.grad(expected, [x64, *flat(exact)], pull)
    grads_actual = torch.autograd.grad(actual, [x, *flat(adapter)], pull.to(dtype))
    for one, other in zip([actual, *grads_actual], [expected, *grads_expected], strict=True):
        assert one.dtype == dtype
        assert (one.double() - other).norm() <= tolerance * other.norm()


@EVERY_CASE
def test_autocast_gives_outputs_its_type_and_gradients_the_parameters_type(a, b, bias):
    x, weight = inputs(3, torch.float32)
    adapter = parts(a, b, bias, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = adapted_linear(x, weight, **adapter)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in [x, *flat(adapter)])
    expected = dense(x, weight, adapter)
    assert (y.float() - expected).norm() <= 3e-2 * expected.norm()


@ROWS
@EVERY_CASE
def test_output_can_be_changed_in_place(rows, a, b, bias):
    x, weight = inputs(rows)
    adapter = parts(a, b, bias)
    actual = nn.functional.relu(adapted_linear(x, weight, **adapter), inplace=True)
    expected = nn.functional.relu(dense(x, weight, adapter))
    leaves = [x, *flat(adapter)]
    for one, other in zip(
        torch.autograd.grad(actual.sum(), leaves),
        torch.autograd.grad(expected.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@EVERY_CASE
def test_gradient_checkpointing_gives_the_same_gradients(a, b, bias):
    x, weight = inputs(3)
    adapter = parts(a, b, bias)
    leaves = [x, *flat(adapter)]
    kept = adapted_linear(x, weight, **adapter)
    again = checkpoint(lambda t: adapted_linear(t, weight, **adapter), x, use_reentrant=False)
    gradients = [torch.autograd.grad(y.square().sum(), leaves) for y in (kept, again)]
    assert all(map(torch.equal, *gradients))


def saved_numbers(function, weight: torch.Tensor) -> int:
    """Return how many numbers besides the weight a function keeps for its backward pass."""
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        other = tensor.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
        sizes.append(other * tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return sum(sizes)


@pytest.mark.parametrize("b", ["none", "lora", "ones"])
def test_backward_pass_keeps_no_dense_tensor(b):
    rows, width = 100, 64
    x = torch.randn(rows, width, requires_grad=True)
    weight = nn.Parameter(torch.randn(width, width), requires_grad=False)
    left, right = torch.randn(width, 2, requires_grad=True), torch.randn(2, width)
    right.requires_grad_(b == "lora")
    added = None if b == "none" else (left, right)
    kept = saved_numbers(lambda: adapted_linear(x, weight, None, added=added), weight)
    # The input, which the right factor's gradient needs, and thin products.
    assert kept <= (rows * width if b == "lora" else 0) + 2 * rows + 4 * width
