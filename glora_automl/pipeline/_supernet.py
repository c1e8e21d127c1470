"""Stages ``supernet`` and ``shrink``: the weights that the study's trials are scored with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from glora_automl.architecture import Architecture
from glora_automl.errors import Stopped
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._shared_checkpoint import SharedCheckpoint
from glora_automl.pipeline._training import (
    Images,
    TrainingJob,
    new_supernet,
    restrict,
    spent_by,
    subnet_of,
    train_paths,
)
from glora_automl.study import Spent, Stage, StageName, SubnetOutcome, SupernetOutcome
from glora_automl.supernet import (
    Supernet,
    component_values,
    order_factors,
    truncate,
    widest_architecture,
)
from glora_automl.training import TrainingResult
from glora_automl.workers import Claim, Work

__all__ = ["Trained", "fetch_supernet", "load_supernet", "shrink_budgets", "train_supernet"]

LARGE_RATIO = 5.0
"""A wide network with more parameters than this multiple of the budget is reduced in steps."""

STEP_RATIO = 3.0
"""Each intermediate reduction leaves this multiple of the next budget."""


class Trained(NamedTuple):
    """A trained supernet.

    Attributes:
        supernet: Its weights; factors are ordered, where it was trained as one network.
        architecture: Its widest subnet; None if paths were trained.
        shrinks: Architectures of the intermediate reductions.
    """

    supernet: Supernet
    architecture: Architecture | None
    shrinks: tuple[Architecture, ...]


def shrink_budgets(context: Context) -> tuple[int, ...]:
    """Return the parameters after each intermediate reduction of a wide supernet.

    One squeeze by ten loses much of the network; two squeezes with training between them do not
    (docs/quality.md).
    """
    settings = context.recipe.supernet
    if settings.paths != "wide":
        return ()
    n_wide, budget = context.space.maximum, max(1, context.budget)
    count = settings.n_shrinks
    if count is None:
        count = int(n_wide > LARGE_RATIO * budget)
    sizes = [int(budget * STEP_RATIO ** (count - i)) for i in range(count)]
    return tuple(size for size in sizes if size < n_wide)


def load_supernet(run: Run) -> Trained:
    """Return the study's trained supernet, which the first worker trains.

    Under ``torchrun`` the main process claims the stage, and all processes train.
    """
    group = run.context.process_group
    if not group.is_main:
        _follow(run)
    else:
        work = Work(SupernetOutcome, partial(_train, run))
        try:
            outcome = run.stages.run_one(Stage.SUPERNET, work)
        except BaseException:
            group.broadcast("leave")
            raise
        group.broadcast("continue")
        run.record("supernet", outcome.to_json())
    for number, budget in enumerate(shrink_budgets(run.context), 1):
        shrink = Work(SubnetOutcome, partial(_shrink, run, number, budget))
        run.stages.run_one(str(StageName(Stage.SHRINK, str(number))), shrink)
    return fetch_supernet(run)


def fetch_supernet(run: Run, n_shrinks: int | None = None) -> Trained:
    """Return the study's supernet after its training.

    Args:
        run: The study.
        n_shrinks: Reductions that are done; None is all of them.
    """
    context = run.context
    outcome = run.stages.outcome(Stage.SUPERNET, SupernetOutcome)
    assert outcome is not None, "train the supernet first"
    wide = context.recipe.supernet.paths == "wide"
    architecture = widest_architecture(context.space) if wide else None
    artifact, shrinks = outcome.artifact, []
    total = len(shrink_budgets(context)) if n_shrinks is None else n_shrinks
    for number in range(1, total + 1):
        name = str(StageName(Stage.SHRINK, str(number)))
        reduced = run.stages.outcome(name, SubnetOutcome)
        assert reduced is not None, "shrink the supernet first"
        architecture, artifact = Architecture.parse(reduced.architecture), reduced.artifact
        shrinks.append(architecture)
    supernet = new_supernet(context)
    supernet.load_state_dict(run.download(artifact))
    supernet.model.eval()
    return Trained(supernet, architecture, tuple(shrinks))


def _follow(run: Run) -> None:
    """Train along, in the processes beside the main one."""
    failure: BaseException | None = None
    while (order := run.context.process_group.broadcast("")) != "continue":
        if order == "leave":
            raise failure or Stopped("The main process has stopped.")
        try:
            _train_here(run, None)
        except BaseException as error:
            failure = error  # the main process learns of it and decides whether to stop


def _train(run: Run, claim: Claim) -> SupernetOutcome:
    """Train the supernet and store it among the study's artifacts."""
    shared = SharedCheckpoint(run, claim, run.checkpoint(Stage.SUPERNET))
    shared.take_over()
    run.context.process_group.broadcast("train")
    supernet, result = _train_here(run, shared)
    if run.context.recipe.supernet.paths == "wide":
        order_factors(supernet)
    return SupernetOutcome(
        *run.upload(Stage.SUPERNET, supernet.state_dict()),
        losses=tuple(round(loss, 5) for loss in result.losses),
        n_processes=run.context.process_group.size,
        spent=spent_by(result),
    )


def _train_here(run: Run, shared: SharedCheckpoint | None) -> tuple[Supernet, TrainingResult]:
    """Train with all processes; the main one keeps the checkpoint."""
    context = run.context
    supernet = new_supernet(context)
    job = TrainingJob(
        context,
        Stage.SUPERNET,
        "Train supernet",
        context.train,
        context.recipe.supernet.epochs_ratio,
        checkpoint=None if shared is None else shared.path,
    )
    result = job.train(
        supernet,
        train_paths(context, supernet),
        None if shared is None else lambda _: shared.publish(),
        context.process_group,
    )
    return supernet, result


def _shrink(run: Run, number: int, budget: int, claim: Claim) -> SubnetOutcome:
    """Reduce the supernet to its best truncation within a budget, and train that one."""
    context = run.context
    supernet, wide, _ = fetch_supernet(run, number - 1)
    assert wide is not None, "paths are not reduced"
    values = component_values(supernet, wide, *context.train)
    architecture = truncate(context.space, wide, values, budget)
    stage = str(StageName(Stage.SHRINK, str(number)))
    job = shrink_job(context, stage, architecture, context.train, run.checkpoint(stage))
    spent = shrink(job, supernet, architecture)
    return SubnetOutcome(
        *run.upload(stage, supernet.state_dict()),
        architecture=str(architecture),
        spent=spent.plus(Spent(n_trained=len(context.task.train))),
    )


def shrink_job(
    context: Context,
    stage: str,
    architecture: Architecture,
    images: Images,
    checkpoint: Path | None,
) -> TrainingJob:
    """Return the training after a reduction."""
    recipe = context.recipe
    n_params = architecture.count(context.space.shapes)
    title = f"Train the supernet at {n_params:,} parameters"
    ratio, lr_ratio = recipe.supernet.shrink_epochs_ratio, recipe.selection.lr_ratio
    return TrainingJob(context, stage, title, images, ratio, lr_ratio, checkpoint)


def shrink(job: TrainingJob, supernet: Supernet, architecture: Architecture) -> Spent:
    """Reduce a supernet to a subnet in place, train it and order its factors again."""
    subnet = subnet_of(job.context, supernet, architecture)
    spent = job.run(subnet)
    restrict(supernet, subnet, architecture)
    order_factors(supernet)
    return spent


def train_supernet(
    context: Context,
    stage: str,
    images: Images,
    checkpoint: Callable[[str], Path | None],
    *,
    shrinks: Sequence[Architecture] | None = None,
) -> tuple[Trained, Spent]:
    """Train a supernet and its reductions in one go, in this process.

    Args:
        context: The recipe on this machine.
        stage: Prefix of the names of the trainings.
        images: Images and labels.
        checkpoint: Returns the checkpoint file of a part.
        shrinks: Architectures of the reductions; None chooses them by their values.
    """
    supernet = new_supernet(context)
    job = TrainingJob(
        context,
        f"{stage}-supernet",
        "Train supernet",
        images,
        context.recipe.supernet.epochs_ratio,
        checkpoint=checkpoint("supernet"),
    )
    spent = job.run(supernet, before_step=train_paths(context, supernet))
    if context.recipe.supernet.paths != "wide":
        return Trained(supernet, None, ()), spent
    order_factors(supernet)
    architecture, done = widest_architecture(context.space), []
    for number, budget in enumerate(shrink_budgets(context)):
        if shrinks is None:
            values = component_values(supernet, architecture, *images)
            architecture = truncate(context.space, architecture, values, budget)
            spent = spent.plus(Spent(n_trained=len(images[1])))
        else:
            architecture = shrinks[number]
        part = f"shrink{number + 1}"
        again = shrink_job(context, f"{stage}-{part}", architecture, images, checkpoint(part))
        spent = spent.plus(shrink(again, supernet, architecture))
        done.append(architecture)
    return Trained(supernet, architecture, tuple(done)), spent
