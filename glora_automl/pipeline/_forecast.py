"""Forecast of a search: images, budget, quality of the backbone's features, minutes per stage."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch

from glora_automl.backbones import fit_head
from glora_automl.pipeline._baselines import baseline_architectures
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._device import explain_device
from glora_automl.pipeline._images import Images
from glora_automl.pipeline._ladder import MAX_STEPS
from glora_automl.pipeline._search import proposes_largest
from glora_automl.pipeline._selection import refit_ratio
from glora_automl.pipeline._training import TrainingJob, new_supernet, train_paths
from glora_automl.pipeline._tuning import fold_contexts, fold_of, pruning_epoch
from glora_automl.presets import loras
from glora_automl.progress import duration
from glora_automl.study import Spent, Stage, margin_note
from glora_automl.training import evaluate, train

__all__ = ["forecast", "stage_work"]

CHANCE = 0.05
"""Probability up to which a probe is better than the largest class."""
MAX_PROBE_IMAGES = 2000
"""Images of each split that the linear probe of a forecast reads at most."""

MEASURED_SECONDS = 1.0
"""Seconds of training steps that a forecast measures at most, where one image takes less."""


def forecast(context: Context, timeout: float | None = None) -> Iterator[str]:
    """Yield lines that tell what a search of a recipe will do on this machine.

    Args:
        context: The recipe with its backbone.
        timeout: Seconds until the search ends, if there is a limit.
    """
    yield explain_device(context.device)
    yield _describe_images(context)
    yield from context.data.holdout_notes()
    yield _describe_budget(context)
    yield from _describe_lora(context)
    yield from _describe_margin(context)
    yield from _describe_probe(context)
    yield from _describe_time(context, timeout)


def _describe_images(context: Context) -> str:
    task = context.task
    counts = torch.bincount(context.train[1].cpu(), minlength=len(task.classes))
    smallest, largest = int(counts.min()), int(counts.max())
    each = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    return (
        f"Images: {len(task.train):,} training ({each} per class), {len(task.validation):,} "
        f"validation, {len(task.test):,} test; {len(task.classes)} classes."
    )


def _describe_budget(context: Context) -> str:
    share = context.budget / max(1, context.n_backbone_params)
    return (
        f"Budget: {context.budget:,} parameters ({4 * context.budget / 1000:,.0f} kB, {share:.2%} "
        f"of the backbone) in {len(context.space.shapes)} layers."
    )


def _describe_lora(context: Context) -> Iterator[str]:
    """Say where LoRA is as good (docs/explanation/limits.md)."""
    if fitting := loras(context.space.shapes, context.budget):
        yield (
            f"Note: LoRA of rank {len(fitting)} fits in every layer. There, LoRA that trains as "
            "long as a search is as good. A search may pay under a tighter budget."
        )


def _describe_margin(context: Context) -> Iterator[str]:
    """Warn of a margin that the validation images cannot show."""
    margin = context.recipe.selection.margin
    note = None if margin is None else margin_note(margin, len(context.task.validation))
    if note is not None:
        yield f"Warning: {note} No smaller adapter will be trained."


def _describe_probe(context: Context) -> Iterator[str]:
    """Yield the accuracy of a linear probe; warn where the features say nothing."""
    from scipy.stats import binom

    settings = context.recipe.backbone
    if not (settings.pretrained or settings.checkpoint or settings.pretraining):
        yield (
            "Warning: the backbone has random weights. Adapters need a pretrained one: set "
            "`backbone.pretrained = true` or `backbone.checkpoint = FILE`."
        )
    model = copy.deepcopy(context.backbone())
    images, labels = _spread(context.validation)
    if not fit_head(model, *_spread(context.train)):
        return
    accuracy = evaluate(model, images, labels).accuracy
    majority = torch.bincount(labels).max().item() / len(labels)
    yield (
        f"A linear probe classifies {accuracy:.1%} of the validation images; the largest class "
        f"alone is {majority:.1%}."
    )
    n_correct = round(accuracy * len(labels))
    # Few images of a dominant class tell nothing: there even a perfect probe may be chance.
    by_chance, perfect = (
        float(binom.sf(count - 1, len(labels), majority)) for count in (n_correct, len(labels))
    )
    if perfect <= CHANCE < by_chance:
        yield (
            "Warning: that is hardly better than the largest class. Check labels and "
            "preprocessing, or take a backbone that was pretrained on similar images."
        )


def _spread(images: Images) -> Images:
    """Return at most ``MAX_PROBE_IMAGES`` images, evenly spread."""
    pixels, labels = images
    step = -(-len(labels) // MAX_PROBE_IMAGES)
    if step == 1:
        return images
    indices = torch.arange(0, len(labels), step, device=labels.device)
    return pixels[indices], labels[indices]


def _describe_time(context: Context, timeout: float | None) -> Iterator[str]:
    per_image = _seconds_per_forward(context)
    work = stage_work(context)
    seconds = {stage: per_image * spent.forward_images for stage, spent in work.items()}
    parts = ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items())
    yield f"Expected time, with one worker: about {duration(sum(seconds.values()))} ({parts})."
    if timeout is None:
        return
    before = sum(seconds.get(stage, 0.0) for stage in (Stage.TUNE, Stage.SUPERNET))
    search = seconds.get(Stage.SEARCH, 0.0)
    after = sum(seconds.values()) - before - search
    if before >= timeout:
        yield (
            f"Warning: the time limit ends in {duration(max(0.0, timeout))}, before the search "
            "begins. It will have one trial. Raise `timeout`, or lower `training.epochs`."
        )
    elif before + search > timeout:
        yield (
            f"Time limit: the search ends in {duration(timeout)}, with about "
            f"{(timeout - before) / search:.0%} of its trials. About {duration(after)} come on "
            "top for the stages after it."
        )
    else:
        yield (
            f"Time limit: {duration(timeout)}, enough for all trials. About {duration(after)} for "
            "the stages after the search do not count."
        )


def stage_work(context: Context) -> dict[Stage, Spent]:
    """Return the images that each stage of a search will train on and evaluate.

    Args:
        context: The recipe on this machine.
    """
    recipe = context.recipe
    selection, n_validation = recipe.selection, len(context.task.validation)

    def trained(images: Images, ratio: float) -> int:
        return TrainingJob(context, "forecast", "", images, ratio).n_images

    fitting = [a for a in baseline_architectures(context).values() if a is not None]
    per_baseline = trained(context.train, 1.0) if context.holds_out else 0
    if selection.refit:
        per_baseline += trained(context.labelled, 1.0)
    n_baselines = len(fitting) if selection.baselines else 0
    per_candidate = trained(context.train, selection.epochs_ratio)
    n_candidates = selection.n_candidates if context.holds_out else 0
    n_scores = 2 * n_candidates
    if not context.holds_out and not proposes_largest(recipe):
        n_scores = 2  # the best trial and the largest truncation
    n_validated = n_baselines * n_validation if context.holds_out else 0
    found = {
        Stage.TUNE: _tuning_work(context),
        Stage.SUPERNET: Spent(trained(context.seen, recipe.supernet.epochs_ratio)),
        Stage.SEARCH: Spent(0, recipe.search.n_trials * n_validation),
        Stage.BASELINE: Spent(n_baselines * per_baseline, n_validated),
        Stage.SELECTION: Spent(n_candidates * per_candidate, n_scores * n_validation),
    }
    if selection.margin is not None:
        found[Stage.LADDER] = Spent(MAX_STEPS * per_candidate, 2 * MAX_STEPS * n_validation)
    if selection.refit:
        found[Stage.REFIT] = Spent(trained(context.labelled, refit_ratio(context)))
    domains = sum(len(domain.images) for domain in context.task.domains.values())
    found[Stage.TEST] = Spent(0, (1 + n_baselines) * (len(context.task.test) + domains))
    return {stage: spent for stage, spent in found.items() if spent.forward_images}


def _tuning_work(context: Context) -> Spent:
    tune = context.recipe.tune
    if not context.recipe.tuning_space():
        return Spent()
    spent = Spent()
    folds = fold_contexts(context, tune.n_folds)
    for number in range(tune.n_trials):
        fold = folds[fold_of(number, len(folds))]
        job = TrainingJob(fold, "forecast", "", fold.train, tune.epochs_ratio)
        n_validations = 1 if pruning_epoch(tune.prune_ratio, job.settings.epochs) is None else 2
        spent = spent.plus(Spent(job.n_images, n_validations * len(fold.validation[1])))
    return spent


def _seconds_per_forward(context: Context) -> float:
    """Return the seconds of a forward pass of one image, from steps of the supernet's training.

    A step is forward and backward pass, and counts three (see :class:`~glora_automl.study.Cost`).
    """
    supernet = new_supernet(context)
    pixels, labels = context.train
    activate = train_paths(context, supernet)

    def run(n_images: int, epochs: int) -> float:
        """Return the seconds per image of some steps."""
        settings = context.recipe.training.model_copy(
            update={"epochs": epochs, "warmup_epochs": 0, "batch_size": n_images}
        )
        seconds = train(
            supernet.model,
            supernet.trainable(),
            pixels[:n_images],
            labels[:n_images],
            settings,
            seed=context.recipe.seed,
            stage="first steps, for the time",
            before_step=activate,
            stop=context.stop,
        ).seconds
        return seconds / (n_images * epochs)

    n_images = min(context.recipe.training.batch_size, len(labels))
    run(min(4, n_images), 2)  # slower than the next ones, as memory is allocated
    first = run(min(4, n_images), 2)
    n_images = max(min(4, n_images), min(n_images, int(MEASURED_SECONDS / first)))
    epochs = int(MEASURED_SECONDS / first / n_images)
    return run(n_images, max(2, min(epochs, 20))) / 3
