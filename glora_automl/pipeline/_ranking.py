"""Stage ``backbones``: the best of the candidates for the backbone.

It is done before the study is created, as search space and budget depend on the model. Its key is
the digest of what it depends on, which the study's settings name.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any, NamedTuple

import torch
from optuna.storages import BaseStorage

from glora_automl._messages import one_line, short
from glora_automl.backbones import (
    CandidateBackbone,
    create_backbone,
    forward_latency,
    frozen_features,
    leave_one_out_accuracy,
)
from glora_automl.errors import GLoRAError, RecipeError, TaskError
from glora_automl.pipeline._context import bare_backbone, fit_region
from glora_automl.pipeline._device import resolve_device
from glora_automl.pipeline._workspace import CACHE, Workspace
from glora_automl.recipes import Recipe
from glora_automl.study import (
    RankedBackbone,
    RankingOutcome,
    Spent,
    Stage,
    get_attribute,
    get_setting,
    is_glora_study,
    load_study,
    read_recipe,
)
from glora_automl.tasks import Task
from glora_automl.training import ProcessGroup
from glora_automl.workers import Claim, Stages, Work, Worker

__all__ = ["Chosen", "choose_backbone"]

MAX_IMAGES = 2000
"""Most training images that a candidate sees."""

SECTIONS = ("architecture", "backbone", "budget", "search_space", "seed")
"""Parts of a recipe that a ranking depends on."""


class Chosen(NamedTuple):
    """A recipe whose backbone a ranking chose.

    Attributes:
        recipe: The recipe, without candidates.
        key: Key of the ranking.
    """

    recipe: Recipe
    key: str


def choose_backbone(
    recipe: Recipe, task: Task, workspace: Workspace, name: str, worker: Worker
) -> Chosen:
    """Return the recipe with the best of its candidates as backbone.

    The first worker ranks them; other workers wait and take its choice.

    Args:
        recipe: A recipe with candidates and the digests of their checkpoints.
        task: The images.
        workspace: The environment.
        name: Name of the study, which need not exist.
        worker: The worker of this process.

    Raises:
        TaskError: If no candidate can be used.
        RecipeError: If the study has another backbone.
        Stopped: If the workspace asked to stop.
    """
    group = ProcessGroup.from_environment(resolve_device(workspace.device))
    key = _key(recipe, task)

    def rank_once() -> RankingOutcome:
        _refuse_other(worker.storage, name, key)
        stages = Stages(
            name,
            worker.storage,
            worker,
            workspace.folder / name,
            workspace.progress,
            key,
            group.device,
        )
        ranking = _Ranking(recipe, task, workspace, group.device, worker)
        return stages.run_one(Stage.BACKBONES, Work(RankingOutcome, ranking.run))

    outcome = group.from_main(rank_once)
    return Chosen(_with_candidate(recipe, recipe.backbone.candidates[outcome.chosen]), key)


def _key(recipe: Recipe, task: Task) -> str:
    settings = {k: v for k, v in recipe.identity().items() if k.split(".")[0] in SECTIONS}
    text = json.dumps([settings, task.digest()], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _with_candidate(recipe: Recipe, candidate: CandidateBackbone) -> Recipe:
    return recipe.model_copy(update={"backbone": recipe.backbone.chosen(candidate)})


def _refuse_other(storage: BaseStorage, name: str, key: str) -> None:
    """Refuse candidates for a study that has results on another backbone.

    Raises:
        RecipeError: If the study exists and did not rank these candidates.
    """
    if not is_glora_study(storage, name):
        return
    study = load_study(storage, name)
    if get_setting(study, "ranking") == key:
        return
    # A study without results starts over with the corrected recipe.
    results = get_attribute(study, "supernet"), get_attribute(study, "selection")
    if any(results) or study.get_trials(deepcopy=False):
        raise RecipeError(
            f"backbone.model must be {read_recipe(study).backbone.model!r}, as in the study "
            f"{name!r}, got other candidates or images. Choose another `name`."
        )


class _Ranking:
    """Ranking of a recipe's candidates on this machine."""

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        workspace: Workspace,
        device: torch.device,
        worker: Worker,
    ) -> None:
        self._recipe = recipe
        self._task = task
        self._device = device
        self._cache = workspace.folder / CACHE
        self._progress = workspace.progress
        self._worker = worker
        n_images = len(task.train)
        size = min(n_images, MAX_IMAGES)
        self._images = task.train.subset(torch.linspace(0, n_images - 1, size).round().long())

    def run(self, claim: Claim) -> RankingOutcome:
        """Rank the candidates; those that an interrupted attempt has ranked keep their rows."""
        candidates = self._recipe.backbone.candidates
        kept: dict[int, RankedBackbone] = {}
        for attributes in claim.earlier:
            for place, values in attributes.get("rows", {}).items():
                kept[int(place)] = RankedBackbone(**values)
        with self._progress.stage("Rank backbones", len(candidates), "models") as advance:
            for place, candidate in enumerate(candidates):
                is_kept = place in kept
                if not is_kept:
                    advance(0, f"now {candidate.label}")  # it may take minutes
                    kept[place] = self._rank(candidate)
                advance(1, _note(kept[place]), earlier=is_kept)
                # Another attempt may succeed where this one failed, such as a download.
                usable = {i: row._asdict() for i, row in kept.items() if row.accuracy is not None}
                claim.note("rows", usable)
        rows = tuple(kept[place] for place in range(len(candidates)))
        return self._outcome(rows)

    def _outcome(self, rows: tuple[RankedBackbone, ...]) -> RankingOutcome:
        """Choose the best row.

        Raises:
            TaskError: If no candidate can be used.
        """
        usable = [place for place, row in enumerate(rows) if row.accuracy is not None]
        if not usable:
            reasons = "; ".join(f"{row.name} ({row.reason})" for row in rows[:3])
            more = f"; {len(rows) - 3} more" if len(rows) > 3 else ""
            raise TaskError(
                f"backbone.candidates must have a model that can be used, got none: {reasons}"
                f"{more}. Set other `backbone.candidates`, or higher limits."
            )
        chosen = max(usable, key=lambda i: (rows[i].accuracy, -(rows[i].n_params or 0)))
        for row in rows:
            if row.reason is not None:
                self._progress.log(f"Backbone {row.name} is left out: {row.reason}.")
        self._progress.log(f"Backbone: {_note(rows[chosen])}, best of {len(usable)}.")
        n_evaluated = len(usable) * len(self._images)
        seconds = round(sum(row.seconds for row in rows), 3)
        return RankingOutcome(
            rows, chosen, len(self._images), self._device.type, Spent(0, n_evaluated, seconds)
        )

    def _rank(self, candidate: CandidateBackbone) -> RankedBackbone:
        """Return the row of a candidate."""
        self._worker.check_stop()
        begin = time.monotonic()
        facts: dict[str, Any] = {}
        try:
            facts["reason"] = self._fill(facts, _with_candidate(self._recipe, candidate))
        # PyTorch raises RuntimeError where memory runs out.
        except (GLoRAError, RuntimeError, MemoryError) as error:
            # The package's message of a failed download or checkpoint begins with its settings.
            facts["reason"] = one_line(error.__cause__ or error)
        seconds = round(time.monotonic() - begin, 3)
        return RankedBackbone(candidate.label, seconds=seconds, **facts)

    def _fill(self, facts: dict[str, Any], recipe: Recipe) -> str | None:
        """Measure a candidate, the cheap figures first.

        Returns:
            The reason that the candidate cannot be used.
        """
        limits = self._recipe.backbone
        model, target = bare_backbone(recipe, self._task)
        n_params = facts["n_params"] = fit_region(recipe, self._task, model, target).n_params
        if limits.max_params is not None and n_params > limits.max_params.resolve(n_params):
            return f"{n_params:,} parameters, above max_params = {limits.max_params}"
        images, labels = self._images.prepare(target, self._device)
        latency = round(forward_latency(model.to(self._device), images[0:1]), 3)
        facts["latency_ms"] = latency
        if limits.max_latency_ms is not None and latency > limits.max_latency_ms:
            return f"{latency:.3g} ms, above max_latency_ms = {limits.max_latency_ms:g}"
        del model  # memory for the same model with its weights
        model = create_backbone(
            recipe.backbone,
            self._task,
            seed=recipe.seed,
            device=self._device,
            cache=self._cache,
            progress=self._progress,
            stop=self._worker.wants_stop,
        )
        features = frozen_features(model, images, len(labels), self._worker.check_stop)
        if features is None:
            return "its classifier must be one linear layer on one vector per image"
        if not features.isfinite().all():
            return "its features are not finite"
        facts["accuracy"] = round(leave_one_out_accuracy(features, labels), 6)
        return None


def _note(row: RankedBackbone) -> str:
    if row.accuracy is None:
        return f"{row.name}: {short(row.reason or '', 60)[1:-1]}"
    return f"{row.name}, leave-one-out accuracy {row.accuracy:.1%}"
