"""From the best trials to one adapter."""

from __future__ import annotations

from typing import Any

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.study._arm import arm_outcome
from glora_automl.study._result import Row, Selection, quality
from glora_automl.study._run import Run
from glora_automl.study._stages import Claim
from glora_automl.study._study import get_setting
from glora_automl.study._trials import best_trials, complete_trials
from glora_automl.study._weights import fetch_supernet
from glora_automl.supernet import Score, Supernet, evaluate, train

__all__ = ["TargetRaised", "select"]


class TargetRaised(Exception):
    """Raised where the best are to be chosen, and there are to be more trials first."""


def select(run: Run, claim: Claim) -> dict[str, Any]:
    """Score the best trials again, choose one, train it on, keep what validates better.

    Raises:
        TargetRaised: If the study has to have more trials first.
        StudyError: If no trial fits the budget.
    """
    setup = run.setup
    recipe = setup.recipe
    if len(complete_trials(run.study)) < get_setting(run.study, "target"):
        raise TargetRaised  # this worker now says that it chooses, so nobody raises it any more
    candidates = best_trials(run.study, recipe.selection.candidates)
    if not candidates:
        raise StudyError(
            f"The study {run.study.study_name!r} has no trial within the budget of "
            f"{setup.budget} to select; raise search.trials."
        )
    # Fresh from the artifact: fine-tuning changes it, and this may not be the first attempt.
    supernet = fetch_supernet(run)
    scored: list[tuple[Score, int, int, Architecture]] = []
    with setup.progress.stage("Score the best again", len(candidates), "trials") as advance:
        for trial in candidates:
            architecture = setup.space.architecture(trial.params)
            with supernet.merged(architecture) as model:
                score = evaluate(model, *setup.validation)
            count = architecture.count(setup.space.shapes)
            scored.append((score, count, trial.number, architecture))
            advance(1)
            run.worker.check_stop()
    # Accuracy, then loss, then size: on few images many architectures are equally accurate.
    scored.sort(key=lambda c: (*(-q for q in quality(c[0])), c[1], c[2]))
    inherited, count, number, architecture = scored[0]
    supernet.activate(architecture)
    weights = supernet.state_dict()
    finetuned, images = _finetune(run, supernet, architecture)
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
    row = Row(
        "searched",
        parameters=count,
        validation=finetuned if selection.uses_finetuned else inherited,
        images=images,
    )
    outcome = arm_outcome(run, "selection", row, supernet, architecture)
    return {**outcome, "selection": selection.to_json()}


def _finetune(run: Run, supernet: Supernet, architecture: Architecture) -> tuple[Score | None, int]:
    """Train the active architecture on; returns its score and the images seen since the start."""
    setup = run.setup
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
            checkpoint=run.checkpoint("selection", f"-{architecture.digest[:16]}"),
            on_epoch=on_epoch,
            stop=setup.stop,
        )
    with merge(supernet.model, share=True) as model:
        return evaluate(model, *setup.validation), images + result.images
