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
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore them afterwards.

    Drop path, dropout and transforms know no other generators. So one thread at a time runs such a
    block: two trainings in two threads give the same weights as one after the other.
    """
    devices = list(range(torch.cuda.device_count()))  # manual_seed reaches all of them
    with _generators, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
