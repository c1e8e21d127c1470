"""Training one architecture on, from the weights that it has inherited."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.pipeline._run import Run
from glora_automl.supernet import Supernet
from glora_automl.training import ImageBatches, Reordered, Score, evaluate, train

__all__ = ["cross_validate", "finetune"]


def finetune(
    run: Run,
    supernet: Supernet,
    architecture: Architecture,
    images: ImageBatches,
    labels: Tensor,
    *,
    stage: str | None = None,
    on_epoch: Callable[[int, float], object] | None = None,
) -> int:
    """Train an architecture on, for the epochs and at the rate of the recipe's fine-tuning.

    Args:
        run: The study.
        supernet: Its supernet, with the weights to begin with.
        architecture: What is trained; it is active afterwards.
        images: What it is trained on, ``(n, channels, height, width)``.
        labels: Their classes, ``(n,)``.
        stage: Names the checkpoint; none is kept without.
        on_epoch: Called after each epoch with the number of epochs done and the mean loss.

    Returns:
        The number of images seen.
    """
    recipe = run.setup.recipe
    selection = recipe.selection
    supernet.activate(architecture)
    changes = {
        "epochs": selection.finetune_epochs,
        "lr": selection.finetune_lr or recipe.training.lr,
    }
    result = train(
        supernet.model,
        supernet.trainable(),
        images,
        labels,
        recipe.training.model_copy(update=changes),
        seed=recipe.seed,
        stage="fine-tuning",
        identity=run.setup.identity,
        # Of this architecture: with more trials another one may be chosen.
        checkpoint=None if stage is None else run.checkpoint(stage, f"-{architecture.digest[:16]}"),
        on_epoch=on_epoch,
        stop=run.setup.stop,
    )
    return result.n_images


def cross_validate(run: Run, supernet: Supernet, architecture: Architecture) -> tuple[Score, int]:
    """Score an architecture on all validation images, each left out of a training on the others.

    The supernet ends with the weights it had.

    Args:
        run: The study.
        supernet: Its supernet.
        architecture: What is scored.

    Returns:
        The score, and the number of images trained on.
    """
    setup = run.setup
    images, labels = setup.labelled
    fitted, count = len(setup.task.train), len(setup.task.validation)
    weights = supernet.state_dict()
    right, loss, seen = 0, 0.0, 0
    for held_out in setup.folds():
        others = torch.ones(len(labels), dtype=torch.bool)
        others[fitted + held_out] = False
        kept = torch.nonzero(others)[:, 0].to(labels.device)
        part = (fitted + held_out).to(labels.device)
        supernet.load_state_dict(weights)
        seen += finetune(run, supernet, architecture, Reordered(images, kept), labels[kept])
        with merge(supernet.model, share=True) as model:
            score = evaluate(model, Reordered(images, part), labels[part])
        right += round(score.accuracy * score.n_images)
        loss += score.loss * score.n_images
    supernet.load_state_dict(weights)
    return Score(right / count, loss / count, count), seen
