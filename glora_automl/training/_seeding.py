"""Random numbers that depend on the seed, the stage and the position in it."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["seeded", "stage_rng"]


def stage_rng(seed: int, stage: str, *position: int) -> np.random.Generator:
    """Return a generator that depends on seed, stage and position alone.

    A resumed training needs no generator state: its epoch and step give the same numbers.
    """
    return np.random.default_rng([seed, zlib.crc32(stage.encode()), *position])


_generators = threading.RLock()


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore them afterwards.

    Drop path, dropout and transforms know no other generators. So one thread at a time runs such a
    block: two trainings in two threads give the same weights as one after the other.

    Args:
        seed: The seed.
        device: Device whose generator is used beside the CPU's; None is the CPU alone. The
            generator of an Apple GPU is seeded, but not restored.
    """
    kind = "cpu" if device is None else device.type
    with _generators, torch.random.fork_rng(devices=[]):
        if kind in ("cpu", "mps"):
            if kind == "mps":
                torch.mps.manual_seed(seed)
            torch.default_generator.manual_seed(seed)
            yield
            return
        # Of one device only: manual_seed would reach, and initialize, all devices.
        module = torch.get_device_module(kind)
        before = module.get_rng_state(device)
        with module.device(device):
            module.manual_seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            module.set_rng_state(before, device)
