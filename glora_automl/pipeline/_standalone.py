"""Architectures that are trained alone, from the backbone, without a supernet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from glora_automl.adapters import merge
from glora_automl.architecture import TENSORS, Architecture
from glora_automl.pipeline._context import Setup
from glora_automl.pipeline._run import Run
from glora_automl.study import Row, is_better
from glora_automl.supernet import Supernet
from glora_automl.training import ImageBatches, Score, TrainingResult, evaluate, train

__all__ = ["Attempt", "attempt", "learning_rates", "standalone", "train_standalone", "trained_row"]


def standalone(setup: Setup, architecture: Architecture) -> Supernet:
    """A fresh backbone with the parameters of one architecture alone, which is active."""
    only = {
        layer: {t: (choice,) for t, choice in zip(TENSORS, choices, strict=True)}
        for layer, choices in architecture.items()
    }
    supernet = Supernet(setup.backbone(), only, seed=setup.recipe.seed)
    supernet.activate(architecture)
    return supernet


class Attempt(NamedTuple):
    """An architecture that was trained alone, at one or more learning rates.

    Attributes:
        score: On the validation images, of the rate that validates best.
        rate: That rate.
        supernet: What was trained at it.
        n_images: Images that all of them were trained on.
        seconds: Seconds that all of them took.
    """

    score: Score
    rate: float
    supernet: Supernet
    n_images: int
    seconds: float

    def best_of(self, other: Attempt) -> Attempt:
        """What validates better, this one where they are level, with what both have cost."""
        kept = other if is_better(other.score, self.score) else self
        images, seconds = self.n_images + other.n_images, self.seconds + other.seconds
        return kept._replace(n_images=images, seconds=seconds)


def learning_rates(setup: Setup) -> tuple[float, ...]:
    """Rates at which an architecture is trained alone: those of the recipe, or the supernet's."""
    return setup.recipe.selection.lrs or (setup.recipe.training.lr,)


def attempt(
    run: Run,
    stage: str,
    name: str,
    architecture: Architecture,
    rates: Sequence[float],
    *,
    title: str,
    epochs: int,
) -> Attempt:
    """Train one architecture alone, from the backbone, at each of some rates.

    Args:
        run: The study.
        stage: The stage that this is.
        name: Names the training, whose random numbers are its own.
        architecture: What is trained.
        rates: Peak learning rates, at least one.
        title: What is said of it while it trains.
        epochs: For how long.

    Returns:
        What validates best of them.
    """
    setup = run.setup
    best: Attempt | None = None
    for rate in rates:
        supernet = standalone(setup, architecture)
        told = f"{title}, lr {rate:g}" if len(learning_rates(setup)) > 1 else title
        result = _train(run, stage, name, supernet, *setup.train, told, epochs, rate)
        with merge(supernet.model, share=True) as model:
            score = evaluate(model, *setup.validation, scale_temperature=True)
        new = Attempt(score, rate, supernet, result.n_images, result.seconds)
        best = new if best is None else best.best_of(new)
    assert best is not None, "there is at least one rate"
    return best


def trained_row(
    run: Run, stage: str, name: str, architecture: Architecture, tried: Attempt, *, title: str
) -> tuple[Supernet, Row]:
    """The adapter that an attempt has led to, refitted if the recipe says so, and its row.

    Args:
        run: The study.
        stage: The stage that this is.
        name: Names the row, and the training, whose random numbers are its own.
        architecture: What was trained.
        tried: The attempt, of the length of a control.
        title: What is said of it while it trains.
    """
    setup = run.setup
    supernet, images, seconds = tried.supernet, tried.n_images, tried.seconds
    if setup.recipe.selection.refit:
        supernet = standalone(setup, architecture)
        told = f"{title}, on all labelled images"
        epochs, labelled = setup.recipe.standalone_epochs, setup.labelled
        result = _train(run, f"{stage}-all", name, supernet, *labelled, told, epochs, tried.rate)
        images, seconds = images + result.n_images, seconds + result.seconds
    row = Row(
        name,
        n_params=architecture.count(setup.space.shapes),
        validation=tried.score,
        n_images=images,
        seconds=round(seconds, 2),
    )
    return supernet, row


def train_standalone(
    run: Run, stage: str, name: str, architecture: Architecture, *, title: str
) -> tuple[Supernet, Row]:
    """Train one architecture alone: same loop and settings, as many images as the search's.

    Where the recipe names several learning rates to try, it is trained at each, and what
    validates best is kept.

    Args:
        run: The study.
        stage: The stage that this is.
        name: Names the row, and the training, whose random numbers are its own.
        architecture: What is trained.
        title: What is said of it while it trains.

    Returns:
        The trained adapter, and its row without a test.
    """
    epochs, rates = run.setup.recipe.standalone_epochs, learning_rates(run.setup)
    tried = attempt(run, stage, name, architecture, rates, title=title, epochs=epochs)
    return trained_row(run, stage, name, architecture, tried, title=title)


def _train(
    run: Run,
    stage: str,
    name: str,
    supernet: Supernet,
    images: ImageBatches,
    labels: Tensor,
    title: str,
    epochs: int,
    rate: float,
) -> TrainingResult:
    training = run.setup.recipe.training
    settings = {
        "epochs": epochs,
        "lr": rate,
        "warmup_epochs": min(training.warmup_epochs, epochs // 2),
    }
    with run.setup.progress.epochs(title, epochs) as on_epoch:
        return train(
            supernet.model,
            supernet.trainable(),
            images,
            labels,
            training.model_copy(update=settings),
            seed=run.setup.recipe.seed,
            stage=name,
            identity=run.setup.identity,
            checkpoint=run.checkpoint(stage, f"-{epochs}-{rate:g}"),
            on_epoch=on_epoch,
            stop=run.setup.stop,
        )
