"""An adapter search as an ordinary Optuna problem."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import optuna
import torch
from optuna.samplers import BaseSampler
from torch import nn

from glora_automl._declarations import suggest
from glora_automl._files import file_lock, make_folder
from glora_automl._version import __version__
from glora_automl.adapters import classifiers, merge
from glora_automl.architecture import Architecture
from glora_automl.backbones import prepare_module, restore_module
from glora_automl.budget import Budget
from glora_automl.errors import RecipeError
from glora_automl.pipeline import (
    Context,
    Objective,
    Trained,
    TrainingJob,
    Workspace,
    check_score,
    create_scorer,
    draw_region,
    first_proposals,
    prepare,
    prepare_task,
    preset_proposals,
    repaired,
    restore_supernet,
    sampler_of,
    subnet_of,
    supernet_choices,
    train_supernet,
)
from glora_automl.recipes import Recipe, load_recipe
from glora_automl.search_space import SearchSpace
from glora_automl.storages import Artifacts
from glora_automl.supernet import Scorer
from glora_automl.tasks import Task, splits_of
from glora_automl.training import (
    METRICS,
    ObjectiveName,
    ScoreFunction,
    load_tensors,
    metric_function,
    save_tensors,
)

__all__ = ["AdapterProblem"]

SECTIONS = ("backbone", "training", "supernet", "search", "selection")
"""Sections of a recipe that a problem's settings may change."""


class AdapterProblem:
    """A model, its images and a budget, as an objective for ``study.optimize``.

    The first call that needs the supernet trains it: an evaluation, :meth:`sampler`,
    :meth:`proposals` or :meth:`build`. Its weights stay in the artifact store under the digest of
    everything that they depend on, so another process or machine finds them again.

    Args:
        model: A timm name, whose pretrained weights are adapted, or any ``torch.nn.Module`` with
            linear layers that gives logits ``(n, classes)``. It is not changed.
        train: Training images and labels: a pair of arrays or tensors, or a torch data set. See
            :func:`glora_automl.tasks.images_of`.
        validation: Validation images and labels, likewise.
        search_space: Name or path of a search space.
        budget: The most trainable parameters: 12000, ``"12k"`` or ``"1%"``.
        score: Value of a trial on the validation images: ``loss``, a metric, or a function of
            labels ``(n,)`` and class probabilities ``(n, classes)``, which is maximized. None is
            the first of ``search.objectives`` in the settings, by default ``loss``.
        seed: Seed of all randomness but the sampler's.
        settings: Changes to the recipe ``own``, such as ``{"training": {"epochs": 50}}``. With a
            timm name, ``backbone`` has its sources and keyword arguments.
        head: Dotted name of the classifier of a module: no linear layer is between it and the
            logits. It is always trained and has no adapter. None finds it where the module returns
            its output.
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
        score: ObjectiveName | ScoreFunction | None = None,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        head: str | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        _check_score(score)
        workspace = workspace or Workspace()
        parts = splits_of(train, validation)
        n_classes = 1 + int(max(part.labels.max() for part in parts))
        changes = _checked_settings(settings)
        if isinstance(model, str):
            changes["backbone"] = {"model": model, **changes.get("backbone", {})}
        recipe = load_recipe("own").replace(
            search_space=search_space,
            budget=Budget.parse(budget).written,
            seed=seed,
            task={"source": "arrays"},
            **changes,
        )
        backbone, target = prepare_module(
            model, head, recipe.backbone, *parts, n_classes=n_classes, seed=recipe.seed
        )
        names, none = tuple(map(str, range(n_classes))), parts[0].subset(torch.arange(0))
        task = Task("data", names, *parts, none)
        context = prepare_task(recipe, task, backbone, target, workspace, "problem")
        backbone = context.create_backbone() if isinstance(model, str) else backbone
        context = context.with_backbone(backbone.to(context.device))
        self._init(context, score or recipe.objective, workspace)

    def _init(
        self, context: Context, score: ObjectiveName | ScoreFunction, workspace: Workspace
    ) -> None:
        check_score(score, context.task)
        self._context = context = context.with_precision().holding_out()
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

    def __getstate__(self) -> tuple[Context, ObjectiveName | ScoreFunction, Workspace]:
        """Return the state without the supernet, which another process finds in the store."""
        return self._context, self._score, self._workspace

    def __setstate__(self, state: tuple[Context, ObjectiveName | ScoreFunction, Workspace]) -> None:
        self._init(*state)

    @classmethod
    def from_recipe(
        cls,
        recipe: Recipe | str,
        *,
        score: ObjectiveName | ScoreFunction | None = None,
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
        _check_score(score)
        workspace = workspace or Workspace()
        recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
        problem, context = cls.__new__(cls), prepare(recipe, workspace, recipe.name)
        context = context.with_backbone(context.create_backbone())
        problem._init(context, score or recipe.objective, workspace)
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
    def recipe(self) -> Recipe:
        """The settings, as a recipe."""
        return self._context.recipe

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
            **changes: Changes to the search settings, such as ``population_size=10``. A
                ``sampler``, by name or as one of Optuna's, is repaired into the budget.
        """
        named = {k: v for k, v in changes.items() if not isinstance(v, BaseSampler)}
        recipe = self._context.recipe.replace(search=named)
        search, trained = recipe.search, self._load()
        context = replace(self._context, recipe=recipe)
        region = draw_region(self.space, self.budget, search, supernet_choices(context, trained))
        own = recipe.seed if seed is None else recipe.replace(seed=seed).seed
        if "sampler" not in named and "sampler" in changes:
            return repaired(changes["sampler"], self.space, region, own)
        return sampler_of(search, self.space, region, self._proposals(context, trained), own)

    def proposals(self) -> list[dict[str, str]]:
        """Return the parameters that the evolutionary sampler begins with, all within the budget.

        Other samplers rarely propose an architecture within a tight budget. Give them these first,
        by ``study.enqueue_trial``.
        """
        return self._proposals(self._context, self._load())

    def _proposals(self, context: Context, trained: Trained) -> list[dict[str, str]]:
        search = context.recipe.search
        presets = preset_proposals(self.space, self.budget) if search.initial_presets else ()
        with trained.supernet.lock:  # trials of another thread activate architectures, too
            found = first_proposals(context, trained, presets[: search.population_size // 2])
        return [dict(params) for params in found]

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

    def build(
        self, architecture: Architecture, *, train: bool = True, refit: bool = False
    ) -> nn.Module:
        """Return a plain model of an architecture, with its adapters merged.

        Its parameters require gradients as those of the given model. A layer without bias gets one
        where ``C`` or ``E`` of the architecture is not ``none``. A plain model then does not load
        the weights, unless the search space leaves both out. The ``pretrained_cfg`` of a timm model
        has the preprocessing of the training.

        Args:
            architecture: An architecture of the search space.
            train: Whether the subnet is trained on from inherited weights, with the steps of a
                candidate and of the refit. Without, it keeps the supernet's weights.
            refit: Whether it is trained on training and validation images.
        """
        context = self._context
        supernet = self._load().supernet
        with supernet.lock:
            subnet = subnet_of(context, supernet, architecture)
        if train:
            selection = context.recipe.selection
            ratio = selection.epochs_ratio + selection.refit * selection.refit_epochs_ratio
            images = context.labelled if refit else context.train
            name = f"build-{architecture.digest[:16]}"
            TrainingJob(context, name, "Train the subnet", images, ratio).run(subnet)
        merge(subnet.model)
        model = restore_module(subnet.model).eval()
        given = dict(context.backbone().named_parameters())
        for key, parameter in model.named_parameters():  # an added bias is not among the given
            parameter.requires_grad_(key not in given or given[key].requires_grad)
        return model

    def _scorer(self) -> Scorer:
        context, score = self._context, self._score
        return create_scorer(
            context,
            self._load(),
            compiled=context.recipe.search.compile,
            score_function=score if callable(score) else metric_function(score),
        )

    def _load(self) -> Trained:
        """Return the trained supernet: from memory, the artifact store, or a training."""
        with self._lock:
            if self._trained is not None:
                return self._trained
            context, key = self._context, self._key()
            artifacts = self._workspace.open_artifacts()
            make_folder(context.folder)
            # Processes of one machine train once; several machines may train the same weights.
            lock, log = context.folder / f".supernet-{key}.lock", context.progress.log
            with file_lock(lock, stop=context.stop, log=log, holder="which trains the supernet"):
                self._trained = self._fetch(artifacts, key) or self._train(artifacts, key)
            return self._trained

    def _key(self) -> str:
        """Return the digest of everything that the supernet depends on."""
        context, recipe = self._context, self._context.recipe
        model = context.backbone()
        heads = classifiers(model)
        parts = [
            context.identity,
            context.format,
            # Weights alone do not tell the activation functions, or which layer is the head.
            repr(model),
            [name for name, module in model.named_modules() if module in heads],
            recipe.backbone.head_init,
            recipe.training.model_dump(mode="json", exclude={"checkpoint_every"}),
            recipe.supernet.model_dump(mode="json"),
            recipe.seed,
            [__version__, torch.__version__],
        ]
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _train(self, artifacts: Artifacts, key: str) -> Trained:
        context = self._context
        folder = context.folder / f"supernet-{key}"
        make_folder(folder)
        trained = train_supernet(context, folder / "training.json")
        path = folder / "supernet.safetensors"
        save_tensors(path, trained.supernet.state_dict())
        artifacts.publish(f"supernet-{key}", path)
        shutil.rmtree(folder)
        return trained

    def _fetch(self, artifacts: Artifacts, key: str) -> Trained | None:
        path = artifacts.find(f"supernet-{key}")
        return None if path is None else restore_supernet(self._context, load_tensors(path))


def _check_score(score: object) -> None:
    """Raise a RecipeError for an unknown score; None is that of the settings."""
    known = ("loss", *METRICS)
    if not (score is None or callable(score) or score in known):
        raise RecipeError(
            f"score must be one of {', '.join(known)}, or a function of labels and class "
            f"probabilities, got {score!r}. Correct `score`."
        )


def _checked_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the changes of a recipe's sections.

    Raises:
        RecipeError: If there are others.
    """
    for key, value in (settings or {}).items():
        if key not in SECTIONS or not isinstance(value, Mapping):
            hint = suggest(key, list(SECTIONS)) if key not in SECTIONS else f"Correct `{key}`."
            raise RecipeError(
                f"settings must be tables of a recipe's sections, got {key} = {value!r}. {hint}"
            )
    return dict(settings or {})
