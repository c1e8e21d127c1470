"""What a piece of work takes from this machine besides its time."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

__all__ = ["Meter"]


class Meter:
    """Peak memory and energy from its creation on.

    Memory of the process is its peak since it was started, as the system counts it; that of the
    GPU what torch has had allocated at most meanwhile. Energy is that of the whole GPU, if it
    tells (NVIDIA's since Volta, with the package ``nvidia-ml-py``): what others do on it counts.

    Example:
        >>> Meter(torch.device("cpu")).read()["peak_mib"] > 10
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._joules = _energy_counter(device)
        self._begin = None if self._joules is None else self._joules()

    def read(self) -> dict[str, float]:
        """Mebibytes and joules by name; what cannot be told is left out."""
        found = {}
        if (peak := _peak_mib()) is not None:
            found["peak_mib"] = round(peak, 1)
        if self._device.type == "cuda":
            found["gpu_mib"] = round(torch.cuda.max_memory_allocated(self._device) / 2**20, 1)
        if self._joules is not None and self._begin is not None:
            found["joules"] = round(self._joules() - self._begin, 3)
        return found


def _peak_mib() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


_counters: dict[str, Callable[[], float] | None] = {}


def _energy_counter(device: torch.device) -> Callable[[], float] | None:
    """Reads the joules that a GPU has used since some moment; None if it does not tell."""
    if device.type != "cuda":
        return None
    if str(device) not in _counters:
        _counters[str(device)] = _open_counter(device)
    return _counters[str(device)]


def _open_counter(device: torch.device) -> Callable[[], float] | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

        def joules() -> float:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000

        joules()
    except Exception:  # of the driver, whose errors are many
        return None
    return joules
