"""Stand-alone adapters: one architecture, trained from the backbone without a supernet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._images import Images
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._training import TrainingJob, standalone
from glora_automl.study import AdapterOutcome, Row, Selection, Spent
from glora_automl.supernet import Supernet
from glora_automl.training import Score, evaluate, metric_function, takes_probabilities

__all__ = [
    "adapter_outcome",
    "load_adapted",
    "score_model",
    "train_adapter",
    "validate",
    "validate_predictions",
]


def score_model(context: Context, model: nn.Module, images: Images, **options: Any) -> Score:
    """Evaluate a model with the recipe's metric, which is None where it is undefined.

    Args:
        context: The recipe on this machine.
        model: The model.
        images: Images and labels.
        **options: Further arguments of :func:`~glora_automl.training.evaluate`.
    """
    function = metric_function(context.recipe.metric)
    score = evaluate(model, *images, score_function=function, **options)
    undefined = score.custom is not None and math.isnan(score.custom)
    return score._replace(custom=None) if undefined else score


def validate(context: Context, subnet: Supernet) -> Score:
    """Return the validation score of a subnet's active architecture."""
    return validate_predictions(context, subnet)[0]


def validate_predictions(context: Context, subnet: Supernet) -> tuple[Score, dict[str, Tensor]]:
    """Return the validation score and the predictions for the validation images.

    The predictions are ``classes`` ``(n,)`` and, where the metric takes more than those,
    ``probabilities`` ``(n, classes)`` in float64.
    """
    found: list[Tensor] = []
    with merge(subnet.model, share=True) as model:
        score = score_model(
            context,
            model,
            context.validation,
            scale_temperature=True,
            on_batch=lambda logits: found.append(logits.cpu()),
        )
    logits = torch.cat(found)
    predictions = {"classes": logits.argmax(1)}
    if takes_probabilities(context.recipe.metric):
        predictions["probabilities"] = logits.double().softmax(1)
    return score, predictions


def adapter_outcome(
    run: Run,
    stage: str,
    row: Row,
    subnet: Supernet,
    architecture: Architecture,
    spent: Spent,
    selection: Selection | None = None,
    predictions: Mapping[str, Tensor] | None = None,
) -> AdapterOutcome:
    """Store an adapter with its head among the study's artifacts; return its outcome.

    Args:
        run: The study.
        stage: The stage.
        row: Its row.
        subnet: The adapter.
        architecture: Its architecture.
        spent: Work of the stage.
        selection: How it was selected.
        predictions: Those for the validation images, which are stored, too.
    """
    uploaded = run.upload(stage, subnet.active_state_dict())
    stored = None
    if predictions is not None:
        stored = run.upload(f"{stage}.predictions", dict(predictions)).artifact
    return AdapterOutcome(row, str(architecture), *uploaded, selection, spent, predictions=stored)


def load_adapted(run: Run, outcome: AdapterOutcome) -> nn.Module | None:
    """Return the plain, merged model of an outcome; None if nothing fits the budget.

    Raises:
        CheckpointError: If its artifact is missing or altered.
    """
    if outcome.artifact is None or outcome.architecture is None:
        return None
    subnet = standalone(run.context, Architecture.parse(outcome.architecture))
    subnet.load_state_dict(run.download(outcome.artifact))
    merge(subnet.model)
    return subnet.model.eval()


def train_adapter(
    run: Run,
    stage: str,
    name: str,
    architecture: Architecture | None,
    *,
    title: str,
    ratio: float = 1.0,
    validated: bool = True,
) -> AdapterOutcome:
    """Train one architecture from the backbone, as baselines are.

    It is trained on the training images and validated, if images are held out. With
    ``selection.refit`` the same training on all labelled images gives the final weights.

    Args:
        run: The study.
        stage: The stage.
        name: Name of its row, and of its random numbers.
        architecture: The architecture; None if nothing fits the budget.
        title: Title of the display.
        ratio: Length, as a multiple of ``training.epochs``.
        validated: Whether it is validated; without, only the final weights are trained.
    """
    context = run.context
    if architecture is None:
        return AdapterOutcome(Row(name))
    score, predictions, spent = None, None, Spent()
    refit = context.recipe.selection.refit
    subnet = standalone(context, architecture)
    if (validated and context.holds_out) or not refit:
        job = TrainingJob(
            context, name, title, context.train, ratio, checkpoint=run.checkpoint(stage)
        )
        spent = job.run(subnet)
        score, predictions = validate_predictions(context, subnet)
        spent = spent.plus(Spent(n_evaluated=score.n_images))
    if refit:
        subnet = standalone(context, architecture)
        again = TrainingJob(
            context,
            f"{name}, refit",
            f"{title}, on all labelled images",
            context.labelled,
            ratio,
            checkpoint=run.checkpoint(stage, "-refit"),
        )
        spent = spent.plus(again.run(subnet))
    row = Row(
        name,
        n_params=architecture.count(context.space.shapes),
        validation=score,
        n_images=spent.n_trained,
        n_evaluated=spent.n_evaluated,
        seconds=spent.seconds or 0.0,
    )
    return adapter_outcome(run, stage, row, subnet, architecture, spent, predictions=predictions)
