"""The supernet: a frozen backbone with every support tensor, whose weights all subnets share."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from glora_automl.adapters import GLoRALinear, MergedModel, activate_layers, attach, classifiers
from glora_automl.architecture import Architecture, Choice
from glora_automl.errors import CheckpointError

__all__ = ["Supernet"]


class Supernet:
    """A frozen backbone with trainable adapters and a trainable classifier head.

    Trainable parameters are identified as objects, not by name: those of the adapters and of the
    modules that timm's ``get_classifier`` returns.

    Args:
        model: The backbone. It is changed in place; :func:`glora_automl.adapters.detach` restores
            its layers.
        choices: Choices of each support tensor of each adapted layer
            (:meth:`~glora_automl.search_space.SearchSpace.layer_choices`).
        seed: Seed of the adapters' initial values.

    Attributes:
        model: The backbone with adapters.
        layers: The adapted layers by dotted name.
        lock: Held while a merged architecture is used, as all of them share one model.

    Raises:
        LayerError: If a layer does not exist.
        ArchitectureError: If a layer does not allow one of its choices.
    """

    def __init__(
        self,
        model: nn.Module,
        choices: Mapping[str, Mapping[str, Iterable[Choice]]],
        *,
        seed: int = 0,
    ) -> None:
        self.model = model
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
        statistics = _statistics(model)
        self._head = {name: p for name, p in named.items() if id(p) in heads} | statistics
        self._trainable = {name: p for name, p in named.items() if id(p) in adapters | heads}
        for parameter in self._trainable.values():
            parameter.requires_grad_(True)
        self._stored = {**self._trainable, **statistics}
        self._merged: dict[torch.dtype | None, MergedModel] = {}
        self.lock = threading.RLock()

    def activate(self, architecture: Architecture) -> None:
        """Activate an architecture."""
        activate_layers(self.layers, architecture)

    def merged_model(self, dtype: torch.dtype | None = None) -> MergedModel:
        """Return the plain model into which one architecture at a time is merged.

        Args:
            dtype: Type of its weights; None takes the supernet's.
        """
        if dtype not in self._merged:
            self._merged[dtype] = MergedModel(self.model, dtype)
        return self._merged[dtype]

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the parameters of adapters and head by name in the model."""
        return dict(self._trainable)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of what training changes, by name in the model.

        These are the trainable tensors, and the statistics of batch norms in the head.
        """
        return {name: tensor.detach().clone() for name, tensor in self._stored.items()}

    def active_state_dict(self) -> dict[str, Tensor]:
        """Return copies of head and active tensors, LoRA factors truncated to their rank."""
        state = {}
        for name, layer in self.layers.items():
            for key, value in layer.active_parameters().items():
                state[f"{name}.{key}"] = value.detach().clone()
        return state | {name: p.detach().clone() for name, p in self._head.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Set the tensors of :meth:`state_dict`.

        Raises:
            CheckpointError: If names or shapes differ; nothing is then set.
        """
        for name in sorted(set(state) ^ set(self._stored)):
            raise CheckpointError(
                f"The weights must have the supernet's {len(self._stored)} tensors, got "
                f"{'no' if name in self._stored else 'another'} tensor {name!r}. Use weights of "
                "the same backbone and search space."
            )
        for name, tensor in self._stored.items():
            if state[name].shape != tensor.shape:
                raise CheckpointError(
                    f"The tensor {name!r} must have the shape {tuple(tensor.shape)}, got "
                    f"{tuple(state[name].shape)}. Use weights of the same backbone and search "
                    "space."
                )
        for name, tensor in self._stored.items():
            tensor.copy_(state[name])


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return the statistics of the batch norms in the head, which move while it is trained."""
    norms = {
        id(module)
        for head in classifiers(model)
        for module in head.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
    }
    return {
        f"{name}.{key}": buffer
        for name, module in model.named_modules()
        if id(module) in norms
        for key, buffer in module.named_buffers(recurse=False)
    }
