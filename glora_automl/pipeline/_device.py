"""The device of models and images."""

from __future__ import annotations

import torch

from glora_automl._messages import one_line, short, shorten
from glora_automl.errors import TaskError

__all__ = ["explain_device", "resolve_device"]


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is the accelerator of this machine, if it has one.

    Raises:
        TaskError: If torch does not have the device here.
    """
    accelerator = _accelerator()
    if name == "auto":
        name = accelerator
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", accelerator):
            raise RuntimeError("it is neither cpu nor the accelerator of this machine")
        if device.type == "cpu" and device.index:
            raise RuntimeError("there is one cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = shorten(one_line(error), 80)
        raise TaskError(
            f"device must be one that torch has here, got {short(name)} ({reason}). Set `device` "
            "to cpu."
        ) from None
    return device


def _accelerator() -> str:
    """Return the type of this machine's accelerator: cuda, xpu or mps; cpu without any."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None or found.type not in ("cuda", "xpu", "mps") else found.type


def explain_device(device: torch.device) -> str:
    """Return which device is used, and why."""
    if device.type != _accelerator():
        return f"Device {device.type}, although torch finds {_accelerator()} here."
    if device.type == "cpu":
        return "Device cpu: torch finds no accelerator here."
    module = torch.get_device_module(device)
    name = f" ({module.get_device_name(device)})" if hasattr(module, "get_device_name") else ""
    return f"Device {device.type}: the accelerator that torch finds here{name}."
