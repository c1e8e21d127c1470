"""An adapter search as an ordinary Optuna problem."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import optuna
import torch
from optuna.samplers import BaseSampler
from torch import nn

from glora_automl._files import file_lock, make_folder
from glora_automl.adapters import classifiers, merge
from glora_automl.architecture import Architecture
from glora_automl.backbones import BackboneSettings, create_model, input_format
from glora_automl.budget import Budget
from glora_automl.errors import RecipeError, TaskError
from glora_automl.pipeline import (
    Context,
    Objective,
    Trained,
    TrainingJob,
    Workspace,
    draw_region,
    first_proposals,
    new_supernet,
    prepare,
    prepare_task,
    preset_proposals,
    sampler_of,
    subnet_of,
    supernet_choices,
    train_supernet,
)
from glora_automl.recipes import Recipe, load_recipe
from glora_automl.search_space import SearchSpace
from glora_automl.storages import Artifacts
from glora_automl.supernet import Scorer
from glora_automl.tasks import Images, InputFormat, Task, images_of
from glora_automl.training import ScoreFunction, load_tensors, save_tensors

__all__ = ["AdapterProblem"]


class AdapterProblem:
    """A model, its images and a budget, as an objective for ``study.optimize``.

    The supernet is trained at the first evaluation. Its weights stay in the artifact store under
    the digest of everything that they depend on, so another process or machine finds them again.

    Args:
        model: A timm name, whose pretrained weights are adapted, or any ``torch.nn.Module`` with
            linear layers that gives logits ``(n, classes)``. It is not changed.
        train: Training images and labels: a pair of arrays or tensors, or a torch data set. See
            :func:`glora_automl.tasks.images_of`.
        validation: Validation images and labels, likewise.
        search_space: Name or path of a search space.
        budget: The most trainable parameters: 12000, ``"12k"`` or ``"1%"``.
        score: Value of a trial on the validation images: ``loss`` (minimized), ``accuracy`` or a
            function of labels and class probabilities (both maximized).
        seed: Seed of all randomness but the sampler's.
        settings: Changes to the recipe ``own``, such as ``{"training": {"epochs": 50}}``.
        head: Dotted name of the classifier of a module without timm's ``get_classifier``; by
            default its last linear layer. It is always trained and has no adapter.
        workspace: The environment: device, artifacts, display.

    Raises:
        GLoRAError: If an argument is invalid.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x, y = torch.randn(40, 1, 4, 4), torch.arange(40) % 2
        >>> problem = AdapterProblem(
        ...     net, (x[:20], y[:20]), (x[20:], y[20:]), budget=40,
        ...     settings={"training": {"epochs": 2, "warmup_epochs": 0}},
        ...     workspace=Workspace(runs=tempfile.mkdtemp()),
        ... )
        >>> sampler = problem.sampler(seed=0)
        >>> study = optuna.create_study(direction=problem.direction, sampler=sampler)
        >>> study.optimize(problem.objective, n_trials=3)
        >>> best = problem.architecture(study.best_trial)
        >>> best.count(problem.space.shapes) <= 40
        True
        >>> type(problem.build(best)).__name__
        'Sequential'
    """

    def __init__(
        self,
        model: nn.Module | str,
        train: Any,
        validation: Any,
        *,
        search_space: str = "lean",
        budget: int | str | Budget = "1%",
        score: Literal["loss", "accuracy"] | ScoreFunction = "loss",
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        head: str | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        workspace = workspace or Workspace()
        parts = images_of(train, "train"), images_of(validation, "validation")
        n_classes = 1 + int(max(part.labels.max() for part in parts))
        changes = dict(settings or {})
        recipe = load_recipe("own").replace(
            search_space=search_space,
            budget=Budget.parse(budget).written,
            seed=seed,
            task={"source": "arrays"},
            **{**changes, "selection": {"refit": False, **changes.get("selection", {})}},
        )
        backbone, target = _backbone(model, parts[0], n_classes, seed, head)
        task = Task(
            "data", tuple(map(str, range(n_classes))), *parts, parts[0].subset(torch.arange(0))
        )
        context = prepare_task(recipe, task, backbone, target, workspace, "problem")
        self._init(replace(context, loaded=backbone.to(context.device)), score, workspace)

    def _init(
        self,
        context: Context,
        score: Literal["loss", "accuracy"] | ScoreFunction,
        workspace: Workspace,
    ) -> None:
        if not (callable(score) or score in ("loss", "accuracy")):
            raise RecipeError(f"score must be loss, accuracy or a function, got {score!r}.")
        self._context = context
        self._score = score
        self._workspace = workspace
        self._trained: Trained | None = None
        self._lock = threading.RLock()
        self.objective = Objective(
            context.space,
            context.budget,
            self._scorer,
            "custom" if callable(score) else score,
            multi_objective=context.recipe.search.is_multi_objective,
            device=context.device,
        )

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe | str,
        *,
        score: Literal["loss", "accuracy"] | ScoreFunction | None = None,
        workspace: Workspace | None = None,
    ) -> Self:
        """Return the problem of a recipe: its images, model, search space and budget.

        Args:
            recipe: A recipe, or the name or path of one.
            score: As for the class; by default the recipe's first objective.
            workspace: The environment.

        Raises:
            GLoRAError: If a part of the recipe does not fit.
        """
        workspace = workspace or Workspace()
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        context = prepare(recipe, workspace, recipe.name)
        problem = cls.__new__(cls)
        context = context.with_backbone(context.create_backbone())
        problem._init(context, score or recipe.search.metric, workspace)
        return problem

    @property
    def space(self) -> SearchSpace:
        """The search space on the model's layers."""
        return self._context.space

    @property
    def budget(self) -> int:
        """The most trainable parameters."""
        return self._context.budget

    @property
    def direction(self) -> optuna.study.StudyDirection:
        """Direction of the first objective."""
        return self.directions[0]

    @property
    def directions(self) -> list[optuna.study.StudyDirection]:
        """Directions of all objectives."""
        return self.objective.directions

    @property
    def distributions(self) -> dict[str, optuna.distributions.CategoricalDistribution]:
        """Optuna's distributions, by parameter."""
        return self.space.distributions()

    def sampler(self, seed: int | None = None, **changes: Any) -> BaseSampler:
        """Return the evolutionary sampler, whose proposals are feasible.

        Args:
            seed: Seed of the sampler; None is the problem's.
            **changes: Changes to the search settings, such as ``population_size=10`` or
                ``sampler="tpe"``, whose proposals are then repaired into the budget.
        """
        recipe = self._context.recipe.replace(search=changes)
        search = recipe.search
        with self._lock:
            trained = self._load()
        context = replace(self._context, recipe=recipe)
        allowed = supernet_choices(context, trained)
        region = draw_region(self.space, self.budget, search, allowed)
        presets = preset_proposals(self.space, self.budget) if search.initial_presets else ()
        initial = first_proposals(context, trained, presets[: search.population_size // 2])
        own = self._context.recipe.seed if seed is None else seed
        return sampler_of(search, self.space, region, initial, own)

    def architecture(self, trial: optuna.trial.FrozenTrial | Mapping[str, Any]) -> Architecture:
        """Return the architecture of a trial or of its parameters.

        Raises:
            SearchSpaceError: If the parameters are not those of the search space.
        """
        params = trial if isinstance(trial, Mapping) else trial.params
        return self.space.architecture(params)

    def params(self, architecture: Architecture) -> dict[str, str]:
        """Return the parameters of an architecture, for ``study.enqueue_trial``."""
        return self.space.params(architecture)

    def build(self, architecture: Architecture, *, train: bool = True) -> nn.Module:
        """Return a plain model of an architecture, with its adapters merged.

        Args:
            architecture: An architecture of the search space.
            train: Whether the subnet is trained on from inherited weights, as at the end of a
                search. Without, it keeps the supernet's weights.
        """
        context = self._context
        with self._lock:
            supernet = self._load().supernet
            subnet = subnet_of(context, supernet, architecture)
        if train:
            selection = context.recipe.selection
            TrainingJob(
                context,
                f"build-{architecture.digest[:16]}",
                "Train the subnet",
                context.train,
                selection.epochs_ratio,
                selection.lr_ratio,
            ).run(subnet)
        merge(subnet.model)
        return subnet.model.eval()

    def _scorer(self) -> Scorer:
        context = self._context
        with self._lock:
            return Scorer(
                self._load().supernet,
                *context.validation,
                dtype=context.scoring_dtype,
                score_function=self._score if callable(self._score) else None,
            )

    def _load(self) -> Trained:
        """Return the trained supernet: from memory, the artifact store, or a training."""
        if self._trained is None:
            context = self._context
            artifacts = self._workspace.open_artifacts()
            key = self._key()
            make_folder(context.folder)
            # Processes of one machine train once; several machines may train the same weights.
            with file_lock(context.folder / f".supernet-{key}.lock"):
                self._trained = self._fetch(artifacts, key) or self._train(artifacts, key)
        return self._trained

    def _key(self) -> str:
        """Return the digest of everything that the supernet depends on."""
        recipe = self._context.recipe
        parts = [
            self._context.identity,
            recipe.training.model_dump(mode="json"),
            recipe.supernet.model_dump(mode="json"),
            recipe.selection.lr_ratio,
            recipe.seed,
            torch.__version__,
        ]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _train(self, artifacts: Artifacts, key: str) -> Trained:
        context = self._context
        folder = context.folder / f"supernet-{key}"
        make_folder(folder)
        trained, _ = train_supernet(
            context, "problem", context.train, lambda part: folder / f"{part}.json"
        )
        path = folder / "supernet.safetensors"
        save_tensors(path, trained.supernet.state_dict())
        last = None if trained.architecture is None else str(trained.architecture)
        note = {"architecture": last, "shrinks": [str(a) for a in trained.shrinks]}
        artifacts.publish(f"supernet-{key}", path, note)
        shutil.rmtree(folder)
        return trained

    def _fetch(self, artifacts: Artifacts, key: str) -> Trained | None:
        found = artifacts.find(f"supernet-{key}")
        if found is None:
            return None
        path, note = found
        supernet = new_supernet(self._context)
        supernet.load_state_dict(load_tensors(path))
        supernet.model.eval()
        last = note["architecture"]
        return Trained(
            supernet,
            None if last is None else Architecture.parse(last),
            tuple(map(Architecture.parse, note["shrinks"])),
        )


def _backbone(
    model: nn.Module | str, images: Images, n_classes: int, seed: int, head: str | None
) -> tuple[nn.Module, InputFormat]:
    """Return a copy of the model with a head for the classes, and its input format.

    Raises:
        TaskError: If the model has no classifier.
    """
    if isinstance(model, str):
        settings = BackboneSettings(model=model, pretrained=True)
        created = create_model(settings, n_classes, seed)
        return created, input_format(created, settings)
    copied = copy.deepcopy(model)
    if classifiers(copied):
        settings = BackboneSettings(model=type(model).__name__)
        return copied, input_format(copied, settings)
    linear = [name for name, module in copied.named_modules() if isinstance(module, nn.Linear)]
    name = head or (linear[-1] if linear else None)
    if name is None or name not in dict(copied.named_modules()):
        raise TaskError(
            f"head must name a module of the model, got {name!r}. Name its classifier with `head`."
        )
    # timm's convention, by which the rest of the package knows the head.
    copied.get_classifier = lambda: copied.get_submodule(name)  # type: ignore[assignment]
    shape = images.prepare(InputFormat((3, 1, 1), (0.0,) * 3, (1.0,) * 3), torch.device("cpu"))
    channels, height, width = shape[0][0:1].shape[1:]
    return copied, InputFormat((channels, height, width), (0.0,) * channels, (1.0,) * channels)
