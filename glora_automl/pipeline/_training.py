"""Trainings of a study: the wide supernet, subnets from inherited weights, stand-alone adapters.

All of them have the same recipe. They differ in length, learning rate, images and initial values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glora_automl.architecture import TENSORS, Architecture
from glora_automl.errors import DivergenceError
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._images import Images
from glora_automl.study import Spent
from glora_automl.supernet import Supernet, widest_architecture
from glora_automl.training import (
    ProcessGroup,
    TrainingSettings,
    train,
)

__all__ = ["TrainingJob", "new_supernet", "standalone", "subnet_of", "train_paths"]

EpochCallback = Callable[[int, float], object]
"""Called after each epoch with the number of epochs and the loss."""

MAX_RESTARTS = 2
"""Restarts of a training that collapses."""


def new_supernet(context: Context) -> Supernet:
    """Return an untrained supernet of the search space."""
    return Supernet(
        context.initial_model(), context.space.layer_choices(), seed=context.recipe.seed
    )


def standalone(context: Context, architecture: Architecture) -> Supernet:
    """Return an untrained supernet that has one architecture, which is active."""
    only = {
        layer: {t: (choice,) for t, choice in zip(TENSORS, choices, strict=True)}
        for layer, choices in architecture.items()
    }
    supernet = Supernet(context.initial_model(), only, seed=context.recipe.seed)
    supernet.activate(architecture)
    return supernet


def subnet_of(context: Context, supernet: Supernet, architecture: Architecture) -> Supernet:
    """Return a stand-alone copy of a subnet, with inherited weights and head."""
    subnet = standalone(context, architecture)
    supernet.activate(architecture)
    subnet.load_state_dict(supernet.active_state_dict())
    return subnet


@dataclass(frozen=True)
class TrainingJob:
    """One training of a stage.

    Attributes:
        context: The recipe on this machine.
        stage: Name of the stage; trainings with another name draw other random numbers.
        title: Its title in the display.
        images: Images and labels.
        ratio: Its length, as a multiple of ``training.epochs`` on the training images. On other
            images it takes the same number of steps.
        checkpoint: Its checkpoint file; None keeps none.
    """

    context: Context
    stage: str
    title: str
    images: Images
    ratio: float = 1.0
    checkpoint: Path | None = None

    @property
    def settings(self) -> TrainingSettings:
        """The recipe's settings at this length; the warm-up scales with the epochs."""
        training = self.context.recipe.training
        n_train, n_images = len(self.context.task.train), len(self.images[1])
        wanted = self.context.recipe.epochs(self.ratio)
        epochs = max(1, round(wanted * n_train / n_images)) if wanted else 0
        warmup = round(training.warmup_epochs * epochs / max(1, training.epochs))
        return training.model_copy(
            update={"epochs": epochs, "warmup_epochs": min(warmup, epochs // 2)}
        )

    @property
    def n_images(self) -> int:
        """Images of all its steps."""
        return self.settings.epochs * len(self.images[1])

    def run(self, supernet: Supernet, *, on_epoch: Callable[[int], object] | None = None) -> Spent:
        """Train as :meth:`train` does; return the work alone."""
        return self.train(supernet, on_epoch=on_epoch)[1]

    def train(
        self,
        supernet: Supernet,
        before_step: Callable[[np.random.Generator], object] | None = None,
        on_checkpoint: Callable[[Path], object] | None = None,
        process_group: ProcessGroup | None = None,
        on_epoch: Callable[[int], object] | None = None,
    ) -> tuple[list[float], Spent]:
        """Train a supernet in place, or continue from the checkpoint.

        A training that diverges or collapses starts again from its initial weights, at a third of
        the rate. The last attempt only has to stay finite.

        Args:
            supernet: Its active path is trained.
            before_step: Called before each step with the generator of paths.
            on_checkpoint: Called with the file after each checkpoint.
            process_group: Processes that train together.
            on_epoch: Called after each epoch with the number of epochs.

        Returns:
            The loss of each epoch, and the work.

        Raises:
            DivergenceError: If no attempt ends with finite loss and weights.
        """
        begin = supernet.state_dict()
        settings, checkpoint = self.settings, self.checkpoint
        spent = Spent()
        for attempt in range(MAX_RESTARTS + 1):
            if attempt:
                settings = settings.model_copy(update={"lr": settings.lr / 3})
                supernet.load_state_dict(begin)
                if self.checkpoint is not None:
                    checkpoint = self.checkpoint.with_stem(f"{self.checkpoint.stem}-lr{attempt}")
            try:
                with self.context.progress.epochs(self.title, settings.epochs) as advance:

                    def after_epoch(
                        n_epochs: int, loss: float, advance: EpochCallback = advance
                    ) -> None:
                        advance(n_epochs, loss)
                        if on_epoch is not None:
                            on_epoch(n_epochs)

                    result = train(
                        supernet.model,
                        supernet.trainable(),
                        *self.images,
                        settings,
                        seed=self.context.recipe.seed,
                        stage=self.stage,
                        before_step=before_step,
                        identity=self.context.identity,
                        checkpoint=checkpoint,
                        on_checkpoint=on_checkpoint,
                        on_epoch=after_epoch,
                        stop=self.context.stop,
                        process_group=process_group,
                        check_collapse=attempt < MAX_RESTARTS,
                    )
            except DivergenceError as error:
                if attempt == MAX_RESTARTS:
                    error.n_images += spent.n_trained
                    error.seconds += spent.seconds or 0.0
                    raise
                spent = spent.plus(_spent(error.n_images, error.seconds, n_restarts=1))
                self.context.progress.log(
                    f"{self.title}: the training collapsed at a learning rate of "
                    f"{settings.lr:.1e}. It starts again at a third of it."
                )
            else:
                return result.losses, spent.plus(_spent(result.n_images, result.seconds))
        raise AssertionError("the last attempt returns or raises")


def _spent(n_images: int, seconds: float, n_restarts: int = 0) -> Spent:
    return Spent(n_trained=n_images, seconds=round(seconds, 3), n_restarts=n_restarts)


def train_paths(context: Context, supernet: Supernet) -> Callable[[np.random.Generator], object]:
    """Return the function that activates the path of each step of the supernet's training."""
    if context.recipe.supernet.paths == "wide":
        wide = widest_architecture(context.space)
        return lambda rng: supernet.activate(wide)
    region = context.region
    return lambda rng: supernet.activate(context.space.architecture(region.draw_uniform(rng)))
