"""One training step: forward and backward pass of a shard, and the optimiser's update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl.errors import TrainingError
from glora_automl.training._augmentation import BatchTransform
from glora_automl.training._layout import in_layout
from glora_automl.training._memory import MicroBatching
from glora_automl.training._process_group import ProcessGroup
from glora_automl.training._settings import ClassWeight

__all__ = [
    "LossFunction",
    "TrainingStep",
    "class_weights",
    "create_loss",
    "cross_entropy",
    "weighted_targets",
]

LossFunction = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Mean loss of a model on transformed images and labels; it runs the forward pass itself."""


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of a model's logits."""
    return F.cross_entropy(model(images), labels)


def class_weights(
    labels: Tensor, n_classes: int, weights_of: ClassWeight = "balanced"
) -> Tensor | None:
    """Return the weight of each class, ``(n_classes,)``; None without weights.

    Args:
        labels: Class indices ``(n,)`` of the training images.
        n_classes: Number of the model's classes.
        weights_of: ``none``, one weight per class, or ``balanced`` for scikit-learn's, where a
            class without images has 1.

    Raises:
        TrainingError: If there is not one weight for each class.

    Example:
        >>> class_weights(torch.tensor([0, 0, 0, 2]), 3)
        tensor([0.6667, 1.0000, 2.0000])
    """
    if weights_of == "none":
        return None
    if not isinstance(weights_of, str):
        if len(weights_of) != n_classes:
            raise TrainingError(
                f"training.class_weight must have one weight for each of the {n_classes} classes, "
                f"got {len(weights_of)}. Correct `training.class_weight`."
            )
        return torch.tensor(weights_of, device=labels.device)
    found = labels.cpu().numpy()
    present = np.unique(found)
    weights = torch.ones(n_classes)
    balanced = compute_class_weight("balanced", classes=present, y=found)
    weights[torch.from_numpy(present)] = torch.from_numpy(balanced).float()
    return weights.to(labels.device)


def weighted_targets(labels: Tensor, weights: Tensor, n_classes: int) -> Tensor:
    """Return targets whose cross-entropy is that of the labels times the weight of each image.

    Weights are divided by their mean, so that they do not change the learning rate.

    Args:
        labels: Class indices ``(n,)``.
        weights: Weights ``(n,)``.
        n_classes: Number of classes.

    Returns:
        ``(n, n_classes)``.

    Example:
        >>> weighted_targets(torch.tensor([0, 1]), torch.tensor([1.0, 3.0]), 2).tolist()
        [[0.5, 0.0], [0.0, 1.5]]
    """
    return F.one_hot(labels, n_classes) * (weights / weights.mean())[:, None]


def create_loss(weights: Tensor | None) -> LossFunction:
    """Return the cross-entropy, weighted by class if there are weights.

    The mean is over the images, not over their weights: then the parts of a batch, each with its
    share of the images, add up to the same loss.
    """
    if weights is None:
        return cross_entropy

    def weighted(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        targets = labels.float() if labels.is_floating_point() else labels
        logits = model(images).float()
        return F.cross_entropy(logits, targets, weights, reduction="none").mean()

    return weighted


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """A training step of one process of a group.

    Attributes:
        model: Model in training mode.
        parameters: Trained parameters.
        transform: Transform of each shard's images and labels.
        loss_function: Mean loss of the model on a micro-batch.
        optimizer: Optimiser of the parameters.
        clip_grad: Maximum norm of the gradient; 0 turns clipping off.
        process_group: Processes that train together.
        micro_batching: Sizes of the forward passes.
        layout: Memory layout of the images.
        half: 16-bit type of the products; None for float32.
        scaler: Scale of the loss, without which gradients vanish in float16.
    """

    model: nn.Module
    parameters: Sequence[nn.Parameter]
    transform: BatchTransform
    loss_function: LossFunction
    optimizer: torch.optim.Optimizer
    clip_grad: float
    process_group: ProcessGroup
    micro_batching: MicroBatching
    layout: torch.memory_format = torch.contiguous_format
    half: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None

    def run(
        self,
        images: Iterator[Callable[[], Tensor]],
        labels: Tensor,
        batch_size: int,
        activate_path: Callable[[], object] | None,
    ) -> Tensor:
        """Update the parameters once.

        Args:
            images: Gives the function that reads the images of the shard. It is called where an
                error reaches all processes.
            labels: Class indices ``(n,)`` of the shard.
            batch_size: Images in the shards of all processes.
            activate_path: Called before the forward pass.

        Returns:
            The summed loss of the whole batch, as a scalar in float32.
        """
        loss = torch.zeros((), device=labels.device)
        with self.process_group.sum_gradients(self.parameters, loss):
            if activate_path is not None:
                activate_path()
            loss += self._run_shard(next(images), labels, batch_size)
        if self.scaler is not None:
            # The gradients of all processes are summed by now, so that all of them find the same
            # infinite values and keep the same scale.
            self.scaler.unscale_(self.optimizer)
        if self.clip_grad:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_grad)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss

    def _run_shard(self, read: Callable[[], Tensor], labels: Tensor, batch_size: int) -> Tensor:
        """Read and transform a shard and run both passes, in as large parts as memory holds."""
        made: list[tuple[Tensor, Tensor]] = []
        if self.scaler is not None:
            self.scaler.scale(torch.zeros((), device=labels.device))  # for an empty shard

        def attempt(micro_batch_size: int) -> Tensor:
            if not made:  # a retry must not draw another augmentation
                images, targets = self.transform(read(), labels)
                made.append((in_layout(images, self.layout), targets))
            return self._backward(*made[0], batch_size, micro_batch_size)

        return self.micro_batching.run(len(labels), attempt)

    def _backward(
        self, images: Tensor, labels: Tensor, batch_size: int, micro_batch_size: int
    ) -> Tensor:
        """Set the gradient to the shard's part of the mean loss of the batch.

        Returns:
            The summed loss of the shard.
        """
        for parameter in self.parameters:
            parameter.grad = None  # an attempt with larger micro-batches may have left gradients
        device = labels.device.type
        scale = (lambda loss: loss) if self.scaler is None else self.scaler.scale
        total = torch.zeros((), device=labels.device)
        # No iteration at all in a process whose shard is empty.
        for start in range(0, len(labels), micro_batch_size):
            x, y = (part[start : start + micro_batch_size] for part in (images, labels))
            with torch.autocast(device, self.half, enabled=self.half is not None):
                loss = self.loss_function(self.model, x, y)
            torch.autograd.backward(scale(loss * (len(y) / batch_size)))
            total += loss.detach().float() * len(y)
        return total
