"""The adapted linear layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl.adapters._linear import Factors, adapted_linear, without_autocast
from glora_automl.architecture import TENSORS, Choice, LayerChoices, LayerShape
from glora_automl.errors import ArchitectureError

__all__ = ["GLoRALinear", "is_scaling", "refusal"]


def refusal(layer: nn.Module) -> str | None:
    """Return why :class:`GLoRALinear` cannot replace a layer; None if it can.

    Example:
        >>> refusal(nn.Conv2d(8, 8, 3, groups=8)), refusal(nn.Conv2d(8, 4, 1))
        ('a grouped convolution', None)
    """
    if isinstance(layer, nn.Linear):
        base: type[nn.Module] = nn.Linear
    elif not isinstance(layer, nn.Conv2d):
        return f"of class {type(layer).__name__}"
    elif layer.groups != 1:
        return "a grouped convolution"
    elif layer.kernel_size != (1, 1):
        return f"a convolution over {' x '.join(map(str, layer.kernel_size))} pixels"
    elif layer.stride != (1, 1) or layer.padding not in ((0, 0), "valid", "same"):
        return "a 1 x 1 convolution with stride or padding"
    else:
        base = nn.Conv2d
    if type(layer).forward is not base.forward or "forward" in vars(layer):
        return f"of class {type(layer).__name__}, which overrides {base.__name__}.forward"
    if any(getattr(layer, hooks) for hooks in _HOOKS):
        return "with hooks, which its adapter would not call"
    return None


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_scaling(name: str) -> bool:
    """Return whether a parameter of a :class:`GLoRALinear` scales frozen weights.

    These are the vectors and scalars of ``A`` and ``D``. They are relative changes; all other
    parameters have the unit of the weight or bias that they change.

    Example:
        >>> is_scaling("blocks.0.attn.qkv.A_vector"), is_scaling("blocks.0.attn.qkv.E_vector")
        (True, False)
    """
    return name.rpartition(".")[2] in _SCALING


_SCALING = frozenset(f"{tensor}_{kind}" for tensor in "AD" for kind in ("vector", "scalar"))


class GLoRALinear(nn.Module):
    """A frozen linear layer with the five support tensors of GLoRA.

    It has the parameters of all of its choices and computes with the active ones:
    ``W = W0 + W0 * A + B`` and ``b = b0 + b0 * D + E + W0 C`` (arXiv 2306.07967, equation 10,
    elementwise ``*``). All ranks of a tensor share one pair of factors: rank r uses the first r
    columns of the left and the first r rows of the right factor. Vectors and scalars have separate
    parameters. At initialisation one factor of every product is zero, so every architecture has
    the outputs of the frozen layer.

    A 1 x 1 convolution is the same linear layer at each pixel, with ``W0 (out, in, 1, 1)``.

    Args:
        linear: The layer to adapt, which :func:`refusal` allows. It is frozen, stored as
            :attr:`linear` and never written to.
        choices: The choices of each support tensor.
        generator: CPU generator of the non-zero factors' initial values, uniform in
            ``+-1 / sqrt(in_features)`` as in LoRA.

    Attributes:
        active: The active choices; all ``none`` after construction.

    Raises:
        ArchitectureError: If a tensor of this layer cannot have one of its choices.

    Shape:
        ``(*, in_features)`` to ``(*, out_features)``, as :class:`torch.nn.Linear`, or
        ``(batch, in_features, height, width)`` to ``(batch, out_features, height, width)``.

    Example:
        >>> frozen = nn.Linear(6, 4)
        >>> layer = GLoRALinear(frozen, {"B": [Choice.parse("lora-2")]})
        >>> layer.activate(LayerChoices(B=Choice.parse("lora-2")))
        >>> x = torch.randn(3, 6)
        >>> torch.equal(layer(x), frozen(x))
        True
        >>> sum(p.numel() for p in layer.active_parameters().values())
        20
    """

    def __init__(
        self,
        linear: nn.Linear | nn.Conv2d,
        choices: Mapping[str, Iterable[Choice]],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.shape = self.shape_of(linear)
        self.out_features, self.in_features = self.shape[:2]
        self.choices = {t: frozenset(choices.get(t, ())) | {Choice("none")} for t in TENSORS}
        self.active = LayerChoices()
        for tensor in TENSORS:
            for choice in self.choices[tensor]:
                choice.check(tensor, self.shape)
        # After the checks, so that an error leaves the layer unchanged.
        self._required_grad = {name: p.requires_grad for name, p in linear.named_parameters()}
        self.linear = linear.requires_grad_(False)
        for tensor in TENSORS:
            self._allocate(tensor, generator)

    @staticmethod
    def shape_of(linear: nn.Linear | nn.Conv2d) -> LayerShape:
        """Return the shape of a layer, adapted or not."""
        out_features, in_features = linear.weight.shape[:2]
        return LayerShape(out_features, in_features, linear.bias is not None)

    def _allocate(self, tensor: str, generator: torch.Generator | None) -> None:
        rows, columns = self._factor_shape(tensor)
        kinds = {choice.kind for choice in self.choices[tensor]}
        like = self.linear.weight
        if "scalar" in kinds:
            self._register(f"{tensor}_scalar", like.new_zeros(()))
        if "vector" in kinds:
            self._register(f"{tensor}_vector", like.new_zeros(rows))
        if "lora" in kinds:
            rank = max(choice.rank for choice in self.choices[tensor])
            bound = 1 / math.sqrt(self.in_features)
            right = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
            self._register(f"{tensor}_left", like.new_zeros(rows, rank))
            self._register(f"{tensor}_right", right.to(like))

    def _register(self, name: str, value: Tensor) -> None:
        self.register_parameter(name, nn.Parameter(value))

    def _factor_shape(self, tensor: str) -> tuple[int, int]:
        """Return rows and columns of a support tensor; a vector has one entry per row."""
        if tensor == "C":
            return self.in_features, 1
        return self.out_features, self.in_features

    def activate(self, choices: LayerChoices) -> None:
        """Set the active choices.

        Raises:
            ArchitectureError: If the layer lacks one of the choices.
        """
        for tensor, choice in zip(TENSORS, choices, strict=True):
            if choice not in self.choices[tensor]:
                known = ", ".join(sorted(map(str, self.choices[tensor])))
                raise ArchitectureError(f"{tensor} must be one of {known}, got {str(choice)!r}.")
        self.active = choices

    @torch.no_grad()
    def order_factors(self) -> None:
        """Replace the factors of each product by its balanced singular value decomposition.

        The product stays the same. Its first r columns and rows are then the best approximation
        of rank r (Eckart and Young, 1936), so a smaller ``lora-r`` is a truncation.

        The decomposition is that of the small matrix between the orthogonal parts of the factors.
        For a layer of 3072 x 768 at rank 8 that takes milliseconds, and that of the product
        a second.
        """
        for tensor in TENSORS:
            left = getattr(self, f"{tensor}_left", None)
            if left is None:
                continue
            right = getattr(self, f"{tensor}_right")
            # On the CPU: Apple's GPUs have no float64.
            left_basis, left_part = torch.linalg.qr(left.cpu().double())
            right_basis, right_part = torch.linalg.qr(right.cpu().double().t())
            u, s, v = torch.linalg.svd(left_part @ right_part.t(), full_matrices=False)
            root, n_kept = s.sqrt(), len(s)
            left.zero_()
            right.zero_()
            left[:, :n_kept] = (left_basis @ u * root).to(left)
            right[:n_kept] = (root[:, None] * v @ right_basis.t()).to(right)

    def release(self) -> nn.Linear | nn.Conv2d:
        """Return the original layer, with its original ``requires_grad``."""
        for name, parameter in self.linear.named_parameters():
            parameter.requires_grad_(self._required_grad[name])
        return self.linear

    def active_parameters(self) -> dict[str, Tensor]:
        """Return the parameters of the active choices by name, LoRA factors cut to their rank."""
        return {name: part for tensor in TENSORS for name, part in self._parts(tensor).items()}

    def _parts(self, tensor: str) -> dict[str, Tensor]:
        choice: Choice = getattr(self.active, tensor)
        if choice.kind == "none":
            return {}
        if choice.kind == "lora":
            left, right = f"{tensor}_left", f"{tensor}_right"
            return {
                left: getattr(self, left)[:, : choice.rank],
                right: getattr(self, right)[: choice.rank],
            }
        name = f"{tensor}_{choice.kind}"
        return {name: getattr(self, name)}

    def _value(self, tensor: str) -> Tensor | None:
        """Return the active value of a support tensor; None for ``none``.

        It broadcasts to ``(out, in)`` for ``A`` and ``B``, ``(in,)`` for ``C``, ``(out,)`` for
        ``D`` and ``E``.
        """
        parts = list(self._parts(tensor).values())
        if not parts:
            return None
        if len(parts) == 2:
            product = parts[0] @ parts[1]
            return product.squeeze(1) if tensor == "C" else product
        value = parts[0]
        return value[:, None] if tensor in "AB" and value.ndim else value

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight ``(out, in)`` and bias ``(out,)`` of the active choices.

        An unchanged weight or bias is the frozen tensor itself, or a view of a convolution's.
        """
        weight = self._frozen
        with without_autocast(weight):
            a, b = self._value("A"), self._value("B")
            if a is not None:
                weight = torch.addcmul(weight, weight, a)
            if b is not None:
                weight = weight + b
            return weight, self._effective_bias()

    @property
    def _frozen(self) -> Tensor:
        """The frozen weight ``(out, in)``."""
        return self.linear.weight.flatten(1) if self.is_convolution else self.linear.weight

    def _effective_bias(self) -> Tensor | None:
        bias: Tensor | None = self.linear.bias
        c, d, e = map(self._value, "CDE")
        if d is not None:
            assert bias is not None  # Choice.check allows D only with a bias
            bias = torch.addcmul(bias, bias, d)
        if c is not None:
            shift = self._frozen @ c
            bias = shift if bias is None else bias + shift
        if e is not None:
            bias = e.expand(self.out_features) if bias is None else bias + e
        return bias

    @torch.no_grad()
    def write_effective(self, weight: Tensor, bias: Tensor | None) -> None:
        """Write the result of :meth:`effective` into existing tensors.

        Args:
            weight: ``(out, in)``, of the frozen weight's type.
            bias: ``(out,)``; None only if the layer has no bias with any of its choices.
        """
        frozen = self._frozen
        a, b = list(self._parts("A").values()), list(self._parts("B").values())
        source = frozen
        if len(a) == 2:
            torch.mm(*a, out=weight)
            source = torch.addcmul(frozen, frozen, weight, out=weight)
        elif a:
            source = torch.addcmul(frozen, frozen, a[0].unsqueeze(-1), out=weight)
        if len(b) == 2:
            torch.addmm(source, *b, out=weight)
        elif b:
            torch.add(source, b[0].unsqueeze(-1), out=weight)
        elif source is frozen:
            weight.copy_(frozen)
        if bias is not None:
            value = self._effective_bias()
            bias.zero_() if value is None else bias.copy_(value)

    @property
    def weight(self) -> Tensor:
        """The effective weight, for modules that read it without a call of the layer."""
        weight = self.effective()[0]
        return weight[:, :, None, None] if self.is_convolution else weight

    @property
    def is_convolution(self) -> bool:
        """Whether the original layer is a 1 x 1 convolution."""
        return isinstance(self.linear, nn.Conv2d)

    @property
    def bias(self) -> Tensor | None:
        """The effective bias, for modules that read it without a call of the layer."""
        return self.effective()[1]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output with the active choices."""
        if self.is_convolution:
            weight, bias = self.effective()
            return F.conv2d(x, weight[:, :, None, None], bias)
        if not torch.is_grad_enabled():
            # Without gradients factors save nothing, and this equals the merged layer exactly.
            return F.linear(x, *self.effective())
        a, b = list(self._parts("A").values()), list(self._parts("B").values())
        with without_autocast(x):
            bias = self._effective_bias()
        return adapted_linear(
            x,
            self.linear.weight,
            bias,
            scale=a[0].expand(self.out_features) if len(a) == 1 else None,
            scaling=(a[0], a[1]) if len(a) == 2 else None,
            added=self._added(b),
        )

    def _added(self, parts: list[Tensor]) -> Factors | None:
        """Return ``B`` as a product of factors; a vector or scalar is multiplied by ones."""
        if not parts:
            return None
        if len(parts) == 2:
            return parts[0], parts[1]
        return parts[0].expand(self.out_features)[:, None], parts[0].new_ones(1, self.in_features)

    def extra_repr(self) -> str:
        """Return the printed shape and active choices."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.active}"
