"""Modes of a model while it is trained."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from glora_automl.errors import TrainingError

__all__ = ["set_grad_checkpointing", "set_training_mode"]


def set_training_mode(
    model: nn.Module, parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Set training mode for all modules but frozen batch norms.

    Returns:
        The statistics of the trained batch norms by name, which training moves.
    """
    model.train()
    trained = {id(parameter) for parameter in parameters.values()}
    statistics: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            if any(id(parameter) in trained for parameter in module.parameters()):
                statistics |= {f"{name}.{key}": buffer for key, buffer in module.named_buffers()}
            else:
                module.eval()
    return statistics


def set_grad_checkpointing(model: nn.Module, enabled: bool) -> None:
    """Turn timm's activation checkpointing on or off.

    Recomputed activations are the same: the path stays active for the whole step, and torch
    restores the random state for drop path.

    Raises:
        TrainingError: If the model does not support it.
    """
    try:
        model.set_grad_checkpointing(enabled)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError):
        raise TrainingError(
            "`training.grad_checkpointing` must be false for a backbone without timm's "
            f"set_grad_checkpointing, got true for {type(model).__name__}. Remove "
            "`training.grad_checkpointing`."
        ) from None
