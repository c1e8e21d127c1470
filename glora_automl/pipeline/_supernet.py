"""The weights that a study's trials are scored with: backbone and supernet, made once."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from glora_automl.errors import CheckpointError, Stopped
from glora_automl.pipeline._context import Setup
from glora_automl.pipeline._initial import initial_presets
from glora_automl.pipeline._run import Run
from glora_automl.storages import ArtifactReference
from glora_automl.supernet import Supernet
from glora_automl.training import CheckpointFiles, TrainingResult, tensor_digest, train
from glora_automl.workers import Claim

__all__ = ["fetch_supernet", "load_backbone", "load_supernet", "paths"]


def load_backbone(run: Run) -> Run:
    """Make the study's backbone, or get it from whoever has made it.

    One that was pretrained on the fly, or that comes from a local checkpoint, is an artifact of
    the study; others come from where timm has them, and have to be the same.
    """
    made = []

    def make(claim: Claim) -> dict[str, Any]:
        model = run.setup.create_backbone()
        made.append(model)
        if run.setup.recipe.backbone.is_local:
            return run.upload("backbone", model.state_dict())
        return {"digest": tensor_digest(model.state_dict()), "artifact": None}

    outcome = run.stages.run({"backbone": make})["backbone"]
    run.record("backbone", outcome)
    if made:
        model = made[-1]
    elif outcome["artifact"] is None:
        model = run.setup.create_backbone()
    else:
        model = run.setup.bare_backbone()
        model.load_state_dict(run.download(outcome))
    run.same_digest("backbone", outcome, model.state_dict())
    return run.with_setup(run.setup.with_backbone(model))


def load_supernet(run: Run) -> Supernet:
    """Train the study's supernet, or get it from whoever has trained it.

    Under ``torchrun`` rank 0 sees to it, and the others train along when it does.
    """
    process_group = run.setup.process_group
    if not process_group.is_main:
        _follow(run)
        return fetch_supernet(run)
    try:
        outcome = run.stages.run({"supernet": partial(_train, run)})["supernet"]
    except BaseException:
        process_group.broadcast("leave")
        raise
    process_group.broadcast("go on")
    run.record("supernet", outcome)
    return fetch_supernet(run)


def fetch_supernet(run: Run) -> Supernet:
    """The study's supernet, which is trained."""
    outcome = run.stages.outcome("supernet")
    assert outcome is not None, "the supernet comes first"
    supernet = _new(run.setup)
    supernet.load_state_dict(run.download(outcome))
    supernet.model.eval()
    return supernet


def paths(setup: Setup) -> Callable[[np.random.Generator], dict[str, str]]:
    """What draws the path of each step of the supernet's training."""
    if setup.recipe.training.paths == "uniform":
        return setup.region.draw_uniform
    picked = initial_presets(setup)

    def draw(rng: np.random.Generator) -> dict[str, str]:
        # As a first generation is: about half of them, where there are enough.
        if picked and rng.random() < 0.5:
            return picked[rng.integers(len(picked))]
        return setup.drawn.draw(rng)

    return draw


def _new(setup: Setup) -> Supernet:
    return Supernet(setup.backbone(), setup.space.layer_choices(), seed=setup.recipe.seed)


def _follow(run: Run) -> None:
    """What the other ranks do while rank 0 sees to the supernet."""
    failure: BaseException | None = None
    while (order := run.setup.process_group.broadcast("")) != "go on":
        if order == "leave":
            raise failure or Stopped("Rank 0 has left.")
        try:
            _train_here(run, None)
        except BaseException as error:
            failure = error  # rank 0 knows of it, and says whether that is the end


def _train(run: Run, claim: Claim) -> dict[str, Any]:
    """Train the supernet and put it among the study's artifacts."""
    shared = _SharedCheckpoint(run, claim, run.checkpoint("supernet"))
    shared.take_over()
    run.setup.process_group.broadcast("train")
    supernet, result = _train_here(run, shared)
    return {
        **run.upload("supernet", supernet.state_dict()),
        "n_images": result.n_images,
        "seconds": round(result.seconds, 2),
        "losses": [round(loss, 5) for loss in result.losses],
        "process_group": run.setup.process_group.size,
    }


def _train_here(run: Run, shared: _SharedCheckpoint | None) -> tuple[Supernet, TrainingResult]:
    """Train together with all ranks; rank 0 has the checkpoint."""
    setup = run.setup
    recipe = setup.recipe
    supernet = _new(setup)
    draw = paths(setup)

    def next_path(rng: np.random.Generator) -> None:
        supernet.activate(setup.space.architecture(draw(rng)))

    with setup.progress.epochs("Train supernet", recipe.training.epochs) as on_epoch:
        result = train(
            supernet.model,
            supernet.trainable(),
            *setup.train,
            recipe.training,
            seed=recipe.seed,
            stage="supernet",
            before_step=next_path,
            identity=setup.identity,
            checkpoint=None if shared is None else shared.path,
            on_checkpoint=None if shared is None else lambda _: shared.publish(),
            on_epoch=on_epoch,
            stop=setup.stop,
            process_group=setup.process_group,
        )
    return supernet, result


class _SharedCheckpoint:
    """A training's checkpoint in the artifact store, so that another machine can go on with it.

    Args:
        run: The study.
        claim: The stage that trains.
        path: JSON file of the checkpoint on this machine.
    """

    share = 0.05
    """Of the training's time, the most that is spent on uploads."""

    def __init__(self, run: Run, claim: Claim, path: Path) -> None:
        self._run = run
        self._claim = claim
        self.path = path
        self._notes = [a["checkpoint"] for a in claim.earlier if "checkpoint" in a]
        self._mine: dict[str, Any] | None = None
        self._next = 0.0
        claim.afterwards.append(self._clear)

    def take_over(self) -> None:
        """Go on where another worker has come further than this machine."""
        # The later of equals: the earlier may have been replaced by it.
        for note in sorted(self._notes, key=_progress)[::-1]:
            if _progress(note) <= self._local():
                return
            artifacts = self._run.artifacts
            try:
                file = artifacts.fetch(ArtifactReference(**note["artifact"]))
                CheckpointFiles(file, note["record"]).place(self.path)
                artifacts.forget(file)
                return
            except CheckpointError as error:
                self._run.setup.progress.log(f"{error} Going on from an earlier one.")

    def _local(self) -> tuple[int, int]:
        try:
            return _progress({"record": CheckpointFiles.of(self.path).record})
        except (OSError, ValueError, KeyError):
            return (-1, 0)

    def publish(self) -> None:
        """Upload the checkpoint, if it is not too soon after the last time or is the last one."""
        stopping = self._run.setup.stop is not None and self._run.setup.stop()
        begin = time.monotonic()
        if begin < self._next and not stopping:
            return
        files = CheckpointFiles.of(self.path)
        reference = self._run.artifacts.store(files.weights)
        note = {"record": files.record, "artifact": reference._asdict()}
        self._claim.note("checkpoint", note)
        if self._mine is not None:
            self._remove(self._mine)
        self._mine = note
        end = time.monotonic()
        self._next = end + (end - begin) / self.share

    def _clear(self) -> None:
        """Remove all checkpoints: the supernet is there, and nobody will ask for them any more."""
        for note in [*self._notes, *([self._mine] if self._mine else [])]:
            self._remove(note)

    def _remove(self, note: dict[str, Any]) -> None:
        self._run.artifacts.remove(ArtifactReference(**note["artifact"]))


def _progress(note: dict[str, Any]) -> tuple[int, int]:
    """Epochs and steps of a checkpoint that was published."""
    state = note["record"]["state"]
    return len(state["losses"]), int(state.get("step", 0))
