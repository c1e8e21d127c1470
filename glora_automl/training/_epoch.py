"""The epoch loop: order of the images, shards, random numbers and stops within an epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from timm.scheduler.scheduler import Scheduler
from torch import Tensor

from glora_automl.training._batches import ImageBatches, reads
from glora_automl.training._position import Position
from glora_automl.training._process_group import ProcessGroup
from glora_automl.training._seeding import seeded, stage_rng
from glora_automl.training._step import TrainingStep

__all__ = ["EpochLoop"]


@dataclass(frozen=True, kw_only=True)
class EpochLoop:
    """The steps of an epoch, from any step on.

    Attributes:
        images: Normalised images ``(n, channels, height, width)``.
        labels: Class indices ``(n,)``.
        batch_size: Images per step.
        n_steps: Steps per epoch.
        seed: Seed of all random numbers.
        stage: Name of the training.
        step: Training step.
        scheduler: Learning rate schedule.
        before_step: Called before each step with the path generator, to activate a path.
        stop: Returns True to stop after the current step.
        process_group: Processes that train together.
    """

    images: ImageBatches
    labels: Tensor
    batch_size: int
    n_steps: int
    seed: int
    stage: str
    step: TrainingStep
    scheduler: Scheduler
    before_step: Callable[[np.random.Generator], object] | None
    stop: Callable[[], bool]
    process_group: ProcessGroup

    def run(self, position: Position) -> bool:
        """Run the remaining steps of the current epoch and move the position along.

        Returns:
            True if a process asked to stop.
        """
        epoch, group = len(position.losses), self.process_group
        device = self.labels.device
        order = self._rng(epoch, 0).permutation(len(self.labels))
        indices = torch.from_numpy(order).to(device)
        starts = range(0, len(indices), self.batch_size)
        whole = [indices[start : start + self.batch_size] for start in starts]
        shards = [group.shard(batch) for batch in whole]
        loss_sum = torch.tensor(position.loss_sum, dtype=torch.float32, device=device)
        activate_path = self._path_drawer(epoch, position.step)
        stopping = False
        shard_reads = reads(self.images, shards[position.step :])
        while position.step < self.n_steps and not stopping:
            number = position.step
            noise_rng = self._rng(epoch, 2, number, *group.address)
            self.scheduler.step_update(epoch * self.n_steps + number)
            labels = self.labels[shards[number]]
            seed = int(noise_rng.integers(2**63))
            with seeded(seed, device):  # transform, drop path, dropout
                loss_sum += self.step.run(shard_reads, labels, len(whole[number]), activate_path)
            position.step += 1
            stopping = group.any(self.stop)
        position.loss_sum = loss_sum.item()
        return stopping

    def mean_loss(self, position: Position) -> float:
        """Return the mean loss of the images of the current epoch so far."""
        n_images = min(position.step * self.batch_size, len(self.labels))
        return position.loss_sum / n_images

    def _path_drawer(self, epoch: int, n_done: int) -> Callable[[], object] | None:
        """Return the function that activates an epoch's next path, after ``n_done`` steps."""
        if self.before_step is None:
            return None
        draw = partial(self.before_step, self._rng(epoch, 1, *self.process_group.address))
        with self.process_group.propagate_errors():
            for _ in range(n_done):  # brings the generator to where it was
                draw()
        return draw

    def _rng(self, *position: int) -> np.random.Generator:
        return stage_rng(self.seed, self.stage, *position)
