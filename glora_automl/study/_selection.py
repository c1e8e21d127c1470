"""From the best trials to one adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial
from scipy.stats import binomtest
from torch import Tensor

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.study._arm import arm_outcome
from glora_automl.study._best import best_trials, done_trials
from glora_automl.study._result import Row, Selection, quality
from glora_automl.study._run import Run
from glora_automl.study._stages import Claim
from glora_automl.study._study import get_setting
from glora_automl.study._weights import fetch_supernet
from glora_automl.supernet import Score, Supernet, evaluate, evaluate_each, train

__all__ = ["Candidate", "TargetRaised", "choose", "mcnemar", "rank", "select"]


class TargetRaised(Exception):
    """Raised where the best are to be chosen, and there are to be more trials first."""


class Candidate(NamedTuple):
    """A trial that was scored again.

    Attributes:
        score: On all validation images.
        right: For each of them whether it was right.
        parameters: Its trainable parameters.
        trial: Its number.
        architecture: What it proposed.
    """

    score: Score
    right: Tensor
    parameters: int
    trial: int
    architecture: Architecture


def rank(candidates: list[Candidate], significance: float) -> list[Candidate]:
    """Best first: those that cannot be told from the best by size, then the others by quality.

    Quality is accuracy, then loss, then size: on few images many are equally accurate. Two are
    told apart by the exact McNemar test (a two-sided sign test on the images on which one of them
    alone is right) at the level ``significance``.
    """
    ordered = sorted(
        candidates, key=lambda c: (*(-q for q in quality(c.score)), c.parameters, c.trial)
    )
    if significance >= 1:
        return ordered
    best = ordered[0]
    equal = [c for c in ordered if mcnemar(best.right, c.right) >= significance]
    chosen = {c.trial for c in equal}
    # Stable: of equal size, the one of better quality.
    return sorted(equal, key=lambda c: c.parameters) + [c for c in ordered if c.trial not in chosen]


def mcnemar(first: Tensor, second: Tensor) -> float:
    """The p-value of the exact McNemar test, for two models on the same images.

    Args:
        first: For each image whether one model was right, ``(n,)``.
        second: The same for the other.

    Example:
        >>> import torch
        >>> mcnemar(torch.ones(9, dtype=torch.bool), torch.zeros(9, dtype=torch.bool))
        0.00390625
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    apart = only_first + only_second
    return float(binomtest(only_first, apart).pvalue) if apart else 1.0


def select(run: Run, claim: Claim) -> dict[str, Any]:
    """Choose among the best trials of the search, when all are done.

    Raises:
        TargetRaised: If the study has to have more trials first.
        StudyError: If no trial fits the budget.
    """
    if len(done_trials(run.study)) < get_setting(run.study, "target"):
        raise TargetRaised  # this worker now says that it chooses, so nobody raises it any more
    candidates = best_trials(run.study, run.setup.recipe.selection.candidates)
    if not candidates:
        raise StudyError(
            f"The study {run.study.study_name!r} has no trial within the budget of "
            f"{run.setup.budget} to select; raise search.trials."
        )
    return choose(run, "selection", candidates)


def choose(
    run: Run, stage: str, candidates: Sequence[FrozenTrial], *, name: str = "searched"
) -> dict[str, Any]:
    """Score trials again, choose one, train it on, keep what validates better.

    Args:
        run: The study whose supernet they have been scored with.
        stage: The stage that this is.
        candidates: The trials.
        name: Of the row in the result table.

    Returns:
        The stage's outcome: an arm and its selection.
    """
    setup = run.setup
    recipe = setup.recipe
    # Fresh from the artifact: fine-tuning changes it, and this may not be the first attempt.
    supernet = fetch_supernet(run)
    scored: list[Candidate] = []
    with setup.progress.stage("Score the best again", len(candidates), "trials") as advance:
        for trial in candidates:
            architecture = setup.space.architecture(trial.params)
            with supernet.merged(architecture) as model:
                score, right = evaluate_each(model, *setup.validation)
            count = architecture.count(setup.space.shapes)
            scored.append(Candidate(score, right.cpu(), count, trial.number, architecture))
            advance(1)
            run.worker.check_stop()
    scored = rank(scored, recipe.selection.significance)
    inherited, _, count, number, architecture = scored[0]
    supernet.activate(architecture)
    weights = supernet.state_dict()
    finetuned, images = _finetune(run, stage, supernet, architecture)
    selection = Selection(
        trial=number,
        architecture=str(architecture),
        parameters=count,
        inherited=inherited,
        finetuned=finetuned,
        candidates=tuple(candidate.trial for candidate in scored),
    )
    if not selection.uses_finetuned:
        supernet.load_state_dict(weights)
    row = Row(
        name,
        parameters=count,
        validation=finetuned if selection.uses_finetuned else inherited,
        images=images,
    )
    outcome = arm_outcome(run, stage, row, supernet, architecture)
    return {**outcome, "selection": selection.to_json()}


def _finetune(
    run: Run, stage: str, supernet: Supernet, architecture: Architecture
) -> tuple[Score | None, int]:
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
            checkpoint=run.checkpoint(stage, f"-{architecture.digest[:16]}"),
            on_epoch=on_epoch,
            stop=setup.stop,
        )
    with merge(supernet.model, share=True) as model:
        return evaluate(model, *setup.validation), images + result.images
