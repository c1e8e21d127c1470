"""Stage ``supernet``: the weights that the study's trials are scored with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from glora_automl.architecture import Architecture
from glora_automl.errors import Stopped
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._shared_checkpoint import SharedCheckpoint
from glora_automl.pipeline._training import TrainingJob, new_supernet, train_paths
from glora_automl.study import Spent, Stage, SupernetOutcome
from glora_automl.supernet import Supernet, order_factors, widest_architecture
from glora_automl.workers import Claim, Work

__all__ = ["Trained", "fetch_supernet", "load_supernet", "restore_supernet", "train_supernet"]


class Trained(NamedTuple):
    """A trained supernet.

    Attributes:
        supernet: Its weights; factors are ordered, where it was trained as one network.
        widest: The subnet that was trained; None if paths were trained.
    """

    supernet: Supernet
    widest: Architecture | None


def load_supernet(run: Run) -> Trained:
    """Return the study's trained supernet, which the first worker trains.

    Under ``torchrun`` the main process claims the stage, and all processes train.
    """
    group = run.context.process_group
    if not group.is_main:
        _follow(run)
        return fetch_supernet(run)
    try:
        work = Work(SupernetOutcome, partial(_train, run))
        outcome = run.stages.run_one(Stage.SUPERNET, work)
    except BaseException:
        group.broadcast("leave")
        raise
    group.broadcast("continue")
    run.record("supernet", outcome.to_json())
    return fetch_supernet(run)


def fetch_supernet(run: Run) -> Trained:
    """Return the study's supernet after its training."""
    outcome = run.stages.outcome(Stage.SUPERNET, SupernetOutcome)
    assert outcome is not None, "train the supernet first"
    return restore_supernet(run.context, run.download(outcome.artifact))


def restore_supernet(context: Context, state: Mapping[str, Tensor]) -> Trained:
    """Return a trained supernet from its stored tensors."""
    supernet = new_supernet(context)
    supernet.load_state_dict(state)
    supernet.model.eval()
    return Trained(supernet, _widest(context))


def train_supernet(context: Context, checkpoint: Path | None) -> Trained:
    """Train a supernet outside of a study, in this process."""
    supernet = new_supernet(context)
    _job(context, checkpoint).train(supernet, train_paths(context, supernet))
    return _trained(context, supernet)


def _widest(context: Context) -> Architecture | None:
    return widest_architecture(context.space) if context.recipe.supernet.paths == "wide" else None


def _trained(context: Context, supernet: Supernet) -> Trained:
    """Return a supernet after its training, with ordered factors."""
    widest = _widest(context)
    if widest is not None:
        order_factors(supernet)
    return Trained(supernet, widest)


def _job(context: Context, checkpoint: Path | None) -> TrainingJob:
    ratio = context.recipe.supernet.epochs_ratio
    return TrainingJob(context, Stage.SUPERNET, "Train supernet", context.seen, ratio, checkpoint)


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
    supernet, losses, spent = _train_here(run, shared)
    trained = _trained(run.context, supernet)
    return SupernetOutcome(
        *run.upload(Stage.SUPERNET, trained.supernet.state_dict()),
        losses=tuple(round(loss, 5) for loss in losses),
        n_processes=run.context.process_group.size,
        spent=spent,
    )


def _train_here(run: Run, shared: SharedCheckpoint | None) -> tuple[Supernet, list[float], Spent]:
    """Train with all processes; the main one keeps the checkpoint."""
    context = run.context
    supernet = new_supernet(context)
    losses, spent = _job(context, None if shared is None else shared.path).train(
        supernet,
        train_paths(context, supernet),
        None if shared is None else shared.publish,
        context.process_group,
    )
    return supernet, losses, spent
