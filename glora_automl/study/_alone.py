"""Architectures that are trained alone, from the backbone, without a supernet."""

from __future__ import annotations

from torch import Tensor

from glora_automl.adapters import merge
from glora_automl.architecture import TENSORS, Architecture
from glora_automl.study._result import Row, quality
from glora_automl.study._run import Run
from glora_automl.study._setup import Setup
from glora_automl.supernet import ImageBatches, Score, Supernet, TrainingResult, evaluate, train

__all__ = ["alone", "train_alone"]


def alone(setup: Setup, architecture: Architecture) -> Supernet:
    """A fresh backbone with the parameters of one architecture alone, which is active."""
    only = {
        layer: {t: (choice,) for t, choice in zip(TENSORS, choices, strict=True)}
        for layer, choices in architecture.items()
    }
    supernet = Supernet(setup.backbone(), only, seed=setup.recipe.seed)
    supernet.activate(architecture)
    return supernet


def train_alone(
    run: Run,
    stage: str,
    name: str,
    architecture: Architecture,
    *,
    title: str,
    epochs: int | None = None,
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
        epochs: To train it for fewer epochs, at the supernet's rate, without a refit: only to see
            what it is worth.

    Returns:
        The trained adapter, and its row without a test.
    """
    recipe = run.setup.recipe
    short = epochs is not None
    if epochs is None:
        epochs = recipe.alone_epochs
    rates = (recipe.training.lr,) if short else recipe.selection.lrs or (recipe.training.lr,)
    kept: tuple[Score, float, Supernet] | None = None
    images, seconds = 0, 0.0
    for rate in rates:
        supernet = alone(run.setup, architecture)
        told = f"{title}, lr {rate:g}" if len(rates) > 1 else title
        result = _train(run, stage, name, supernet, *run.setup.fit, told, epochs, rate)
        images, seconds = images + result.images, seconds + result.seconds
        with merge(supernet.model, share=True) as model:
            score = evaluate(model, *run.setup.validation)
        if kept is None or quality(score) > quality(kept[0]):
            kept = score, rate, supernet
    assert kept is not None, "there is at least one rate"
    score, rate, supernet = kept
    if recipe.selection.refit and not short:
        supernet = alone(run.setup, architecture)
        told = f"{title}, on all labelled images"
        labelled = run.setup.labelled
        result = _train(run, f"{stage}-all", name, supernet, *labelled, told, epochs, rate)
        images, seconds = images + result.images, seconds + result.seconds
    row = Row(
        name,
        parameters=architecture.count(run.setup.space.shapes),
        validation=score,
        images=images,
        seconds=round(seconds, 2),
    )
    return supernet, row


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
