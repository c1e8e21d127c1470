"""The supernet: a frozen backbone with every support tensor, shared by all architectures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from glora_automl.adapters import (
    GLoRALinear,
    MergedModel,
    activate_layers,
    attach,
    classifiers,
    linear_shapes,
)
from glora_automl.architecture import Architecture, Choice
from glora_automl.errors import CheckpointError, LayerError

__all__ = ["Supernet"]


class Supernet:
    """A backbone with adapters attached, everything else frozen but the classifier head.

    What is trainable is marked by identity: the parameters of the adapters and of the modules
    that timm's ``get_classifier`` names.

    Args:
        model: The backbone. It is changed in place; :func:`glora_automl.adapters.detach` gives
            its layers back.
        choices: For each adapted layer, the choices of its tensors
            (:meth:`~glora_automl.search_space.SearchSpace.layer_choices`).
        seed: Seeds the adapters' initial values.
        example: Images ``(batch, channels, height, width)``. When given, one forward pass makes
            sure that the model uses what the adapted layers compute.

    Attributes:
        model: The backbone with adapters.
        layers: The adapted layers by dotted name.

    Raises:
        LayerError: If a layer is not there, or the model does not use it, or not its bias where
            that has choices.
        ArchitectureError: If a layer cannot take one of its choices.
    """

    def __init__(
        self,
        model: nn.Module,
        choices: Mapping[str, Mapping[str, Iterable[Choice]]],
        *,
        seed: int = 0,
        example: Tensor | None = None,
    ) -> None:
        self.model = model
        if example is not None:
            _check_used(model, choices, example)
        model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        self.layers: dict[str, GLoRALinear] = attach(model, choices, generator)
        adapters = {
            id(parameter)
            for layer in self.layers.values()
            for parameter in layer.parameters(recurse=False)
        }
        heads = {id(p) for module in classifiers(model) for p in module.parameters()}
        named = dict(model.named_parameters())
        self._head = {name: p for name, p in named.items() if id(p) in heads}
        self._trainable = {name: p for name, p in named.items() if id(p) in adapters | heads}
        for parameter in self._trainable.values():
            parameter.requires_grad_(True)
        self._merged: dict[torch.dtype | None, MergedModel] = {}
        self._lent = False

    def activate(self, architecture: Architecture) -> None:
        """Make one architecture the active one."""
        activate_layers(self.layers, architecture)

    @contextmanager
    def merged(self, architecture: Architecture) -> Iterator[nn.Module]:
        """The architecture as a plain model that is only read, inside a ``with`` block.

        It is the same model each time, with other weights: keep nothing of it.

        Args:
            architecture: Becomes the active one.

        Example:
            >>> import timm
            >>> from glora_automl.adapters import linear_shapes
            >>> model = timm.create_model("test_vit", num_classes=3)
            >>> shapes = linear_shapes(model)
            >>> supernet = Supernet(model, {n: {"B": [Choice.parse("lora-2")]} for n in shapes})
            >>> with supernet.merged(Architecture.uniform(shapes, B="lora-2")) as plain:
            ...     plain(torch.randn(1, 3, 160, 160)).shape
            torch.Size([1, 3])
        """
        assert not self._lent, "one architecture at a time"
        self.activate(architecture)
        self._lent = True
        try:
            yield self.merged_model().write()
        finally:
            self._lent = False

    def merged_model(self, dtype: torch.dtype | None = None) -> MergedModel:
        """The plain model that architectures are merged into, one after the other.

        Args:
            dtype: Type of its weights; None is the supernet's.
        """
        if dtype not in self._merged:
            self._merged[dtype] = MergedModel(self.model, dtype)
        return self._merged[dtype]

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters of adapters and head, by their names in the model."""
        return dict(self._trainable)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the trainable tensors, by their names in the model."""
        return {name: p.detach().clone() for name, p in self._trainable.items()}

    def active_state_dict(self) -> dict[str, Tensor]:
        """The head and the tensors that the active choices use, lora factors cut to their rank."""
        state = {}
        for name, layer in self.layers.items():
            for key, value in layer.active_parameters().items():
                state[f"{name}.{key}"] = value.detach().clone()
        return state | {name: p.detach().clone() for name, p in self._head.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set the trainable tensors.

        Raises:
            CheckpointError: If names or shapes are not this supernet's; nothing is then set.
        """
        for name in sorted(set(state) ^ set(self._trainable)):
            raise CheckpointError(
                f"The weights must have exactly the supernet's {len(self._trainable)} tensors; "
                f"{name!r} is on one side only."
            )
        for name, parameter in self._trainable.items():
            if state[name].shape != parameter.shape:
                raise CheckpointError(
                    f"The tensor {name!r} must have the shape {tuple(parameter.shape)}, got "
                    f"{tuple(state[name].shape)}."
                )
        for name, parameter in self._trainable.items():
            parameter.copy_(state[name])


def _check_used(
    model: nn.Module, choices: Mapping[str, Mapping[str, Iterable[Choice]]], example: Tensor
) -> None:
    """Refuse choices that would train parameters without any effect."""
    shapes = linear_shapes(model, example=example)
    there = linear_shapes(model)
    for name, of_layer in choices.items():
        if name not in there:
            continue  # attach() tells which names there are
        way_out = "leave it out with search_space.exclude."
        if name not in shapes:
            raise LayerError(
                f"The model must use each adapted layer, {name!r} it does not; {way_out}"
            )
        for tensor, options in of_layer.items():
            if not shapes[name].has(tensor) and any(choice.kind != "none" for choice in options):
                raise LayerError(
                    f"The model must call a layer for its {tensor} to have an effect; of {name!r} "
                    f"it reads the weight alone; {way_out}"
                )
