"""From the best trials to one tested adapter."""

from __future__ import annotations

from pathlib import Path

import optuna
from torch import nn

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.study._arm import Arm, alone
from glora_automl.study._result import Row, Selection, quality
from glora_automl.study._setup import Setup
from glora_automl.study._trials import best_trials
from glora_automl.supernet import (
    Score,
    Supernet,
    evaluate,
    load_checkpoint,
    save_checkpoint,
    train,
)

__all__ = ["load_winner", "select"]


def select(study: optuna.Study, setup: Setup, supernet: Supernet) -> tuple[Selection, Arm]:
    """Score the best trials again, choose one, train it on, keep what validates better.

    The supernet is merged afterwards: it is the winner.

    Raises:
        StudyError: If no trial fits the budget.
    """
    recipe = setup.recipe
    candidates = best_trials(study, recipe.selection.candidates)
    if not candidates:
        raise StudyError(
            f"The study {study.study_name!r} has no trial within the budget of {setup.budget} to "
            "select; raise search.trials."
        )
    scored: list[tuple[Score, int, int, Architecture]] = []
    with setup.progress.stage("Score the best again", len(candidates), "trials") as advance:
        for trial in candidates:
            architecture = setup.space.architecture(trial.params)
            with supernet.merged(architecture) as model:
                score = evaluate(model, *setup.validation)
            count = architecture.count(setup.space.shapes)
            scored.append((score, count, trial.number, architecture))
            advance(1)
    # Accuracy, then loss, then size: on few images many architectures are equally accurate.
    scored.sort(key=lambda c: (*(-q for q in quality(c[0])), c[1], c[2]))
    inherited, count, number, architecture = scored[0]
    supernet.activate(architecture)
    weights = supernet.state_dict()
    finetuned, images = _finetune(setup, supernet, architecture)
    selection = Selection(
        trial=number,
        architecture=str(architecture),
        parameters=count,
        inherited=inherited,
        finetuned=finetuned,
        candidates=tuple(c[2] for c in scored),
    )
    if not selection.uses_finetuned:
        supernet.load_state_dict(weights)
    save_winner(setup.folder / "winner.json", supernet, architecture)
    merge(supernet.model)
    row = Row(
        "searched",
        parameters=count,
        validation=finetuned if selection.uses_finetuned else inherited,
        images=images,
    )
    return selection, Arm(row, supernet.model)


def _finetune(
    setup: Setup, supernet: Supernet, architecture: Architecture
) -> tuple[Score | None, int]:
    """Train the active architecture on; returns its score and the images seen since the start."""
    recipe = setup.recipe
    images = recipe.training.epochs * len(setup.task.fit)
    epochs = recipe.selection.finetune_epochs
    if not epochs:
        return None, images
    with setup.progress.epochs("Fine-tune the winner", epochs) as on_epoch:
        lr = recipe.selection.finetune_lr or recipe.training.lr
        result = train(
            supernet.model,
            supernet.trainable(),
            *setup.fit,
            recipe.training.model_copy(update={"epochs": epochs, "lr": lr}),
            seed=recipe.seed,
            stage="fine-tuning",
            identity=setup.identity,
            # Of this winner: with more trials another one may be chosen.
            checkpoint=setup.folder / f"fine-tuning-{architecture.digest[:16]}.json",
            on_epoch=on_epoch,
        )
    with merge(supernet.model) as model:
        return evaluate(model, *setup.validation), images + result.images


def save_winner(path: Path, supernet: Supernet, architecture: Architecture) -> None:
    """Write the winner's adapter and head: tensors as they are active, architecture in the JSON."""
    tensors = supernet.active_state_dict()
    save_checkpoint(path, tensors, {"architecture": str(architecture)})


def load_winner(setup: Setup, selection: Selection) -> nn.Module:
    """The winner of a finished study as a plain model, from its file.

    Raises:
        StudyError: If the file is not in this study's folder.
        CheckpointError: If it is altered.
    """
    path = setup.folder / "winner.json"
    found = load_checkpoint(path)
    if found is None or found[1].get("architecture") != selection.architecture:
        raise StudyError(
            f"The study {setup.folder.name!r} is finished, but its winner is not at "
            f"{str(path)!r}; run this where it was searched, or look at it with "
            f"'glora show {setup.folder.name}'."
        )
    supernet = alone(setup, Architecture.parse(selection.architecture))
    supernet.load_state_dict(found[0])
    merge(supernet.model)
    return supernet.model
