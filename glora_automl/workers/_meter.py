"""Memory and energy of a stage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Meter"]


class Meter:
    """Peak memory and energy since its creation.

    The peak of the process counts from the start of the process, as the system reports it. The
    peak of the GPU is the most memory that torch allocates. The energy is that of the whole GPU,
    so it includes other processes. NVIDIA GPUs since Volta report it through ``nvidia-ml-py``.

    Args:
        device: GPU of the work; None, or a CPU, measures none.

    Example:
        >>> Meter().read()["peak_mib"] > 10
        True
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._gpu = device if device is not None and device.type == "cuda" else None
        if self._gpu is not None:
            import torch

            torch.cuda.reset_peak_memory_stats(self._gpu)
        self._joules = None if self._gpu is None else _energy_counter(self._gpu)
        self._begin = None if self._joules is None else self._joules()

    def read(self) -> dict[str, float]:
        """Return ``peak_mib``, ``gpu_mib`` and ``joules``, as far as they are known."""
        usage = {}
        if (peak := _peak_mib()) is not None:
            usage["peak_mib"] = round(peak, 1)
        if self._gpu is not None:
            import torch

            usage["gpu_mib"] = round(torch.cuda.max_memory_allocated(self._gpu) / 2**20, 1)
        if self._joules is not None and self._begin is not None:
            usage["joules"] = round(self._joules() - self._begin, 3)
        return usage


def _peak_mib() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The unit is bytes on macOS and KiB on Linux.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


_counters: dict[str, Callable[[], float] | None] = {}


def _energy_counter(device: torch.device) -> Callable[[], float] | None:
    """Return a function that reads the joules used by a GPU; None if the GPU reports none."""
    if str(device) not in _counters:
        _counters[str(device)] = _open_counter(device)
    return _counters[str(device)]


def _open_counter(device: torch.device) -> Callable[[], float] | None:
    try:
        import pynvml
        import torch

        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")

        def joules() -> float:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000

        joules()
    except Exception:  # The driver raises many types of error.
        return None
    return joules
