"""What a study keeps about its images, and whether its metric has a value on them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from glora_automl.errors import RecipeError
from glora_automl.recipes import Recipe
from glora_automl.study import Absent, DataSummary, Majority, Overlap
from glora_automl.tasks import Task
from glora_automl.training import ObjectiveName, ScoreFunction, metric_function

__all__ = ["check_class_weights", "check_metric", "check_score", "summarize_data"]


def summarize_data(recipe: Recipe, task: Task) -> DataSummary:
    """Count images, copies between splits and classes without images.

    Raises:
        RecipeError: If neither validation nor test images would be left to tell how good an
            adapter is.
    """
    return DataSummary(
        n_images={name: len(images) for name, images in task.splits().items()},
        overlaps=tuple(Overlap(*pair, count) for pair, count in task.overlaps().items()),
        absent=tuple(
            Absent(split, len(names), names[:3]) for split, names in task.absent().items()
        ),
        n_contradictions=task.n_contradictions(),
        n_dark=task.n_dark(),
        majority=_majority(task),
        holds_out=_holds_out(recipe, task),
    )


def _holds_out(recipe: Recipe, task: Task) -> bool:
    """Return whether the validation images are held out until the refit."""
    wanted, has_test = recipe.selection.holdout, len(task.test) > 0
    if wanted is False and not has_test:
        raise RecipeError(
            f"recipe {recipe.name}: selection.holdout must be true without test images, got false. "
            "Leave out `selection.holdout`, or add test images."
        )
    if wanted is not None:
        return wanted
    return recipe.needs_holdout is not None or not has_test


def _majority(task: Task) -> Majority:
    """Return how many test images the largest training class has; validation images without."""
    n_classes = len(task.classes)
    largest = int(task.train.labels.bincount(minlength=n_classes).argmax())
    split: Literal["test", "validation"] = "test" if len(task.test) else "validation"
    labels = task.splits()[split].labels
    return Majority(task.classes[largest], split, int((labels == largest).sum()), len(labels))


def check_metric(recipe: Recipe, task: Task) -> None:
    """Check that the metric has a value on the images that it is measured on.

    Those are the validation images if they are held out, else the test images alone.

    Raises:
        RecipeError: If it has none.
    """
    split: Literal["test", "validation"] = "validation" if _holds_out(recipe, task) else "test"
    if not _has_value(recipe.metric, task, split):
        raise RecipeError(
            f"recipe {recipe.name}: metric must have a value on the {split} images, got "
            f"{recipe.metric!r} with images of one class. Add {split} images of another class, or "
            "set another `metric`."
        )


def check_score(score: ObjectiveName | ScoreFunction, task: Task) -> None:
    """Check that the score of trials has a value on the validation images; a function may have.

    Raises:
        RecipeError: If it has none.
    """
    if not (callable(score) or _has_value(score, task, "validation")):
        raise RecipeError(
            f"score must have a value on the validation images, got {score!r} with images of one "
            "class. Add validation images of another class, or set another `score`."
        )


def _has_value(name: ObjectiveName, task: Task, split: Literal["test", "validation"]) -> bool:
    """Return whether a metric is defined on the images of a split."""
    function = metric_function(name)
    if function is None:
        return True
    # Perfect predictions for two images stand for all: of two classes, if there are two.
    drawn = task.splits()[split].labels
    labels = np.array([int(drawn.min()), int(drawn.max())])
    probabilities = np.zeros((2, len(task.classes)))
    probabilities[[0, 1], labels] = 1
    return not math.isnan(function(labels, probabilities))


def check_class_weights(recipe: Recipe, task: Task) -> None:
    """Check that weights of classes are as many as the classes, before any model is there.

    Raises:
        RecipeError: If they are not.
    """
    trainings = [("training", recipe.training, len(task.classes))]
    if recipe.backbone.pretraining is not None and task.pretraining is not None:
        n_classes = int(task.pretraining.labels.max()) + 1
        trainings.append(("backbone.pretraining", recipe.backbone.pretraining, n_classes))
    for key, settings, n_classes in trainings:
        weights = settings.class_weight
        if not isinstance(weights, str) and len(weights) != n_classes:
            raise RecipeError(
                f"recipe {recipe.name}: {key}.class_weight must have one weight for each of the "
                f"{n_classes} classes, got {len(weights)}. Correct `{key}.class_weight`."
            )
