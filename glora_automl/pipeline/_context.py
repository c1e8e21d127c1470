"""The context of a recipe on this machine: images, backbone, search space, budget."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from glora_automl._signals import call_stoppable
from glora_automl.adapters import classifiers, linear_shapes
from glora_automl.backbones import (
    check_backbone,
    check_name,
    check_pretraining,
    create_backbone,
    create_model,
    fit_head,
    input_format,
    set_pretrained_cfg,
)
from glora_automl.budget import FeasibleRegion
from glora_automl.errors import ArchitectureError, BudgetError, RecipeError
from glora_automl.pipeline._data import check_class_weights, check_metric, summarize_data
from glora_automl.pipeline._device import resolve_device
from glora_automl.pipeline._images import Images, PreparedImages, at_indices
from glora_automl.pipeline._workspace import CACHE, Workspace
from glora_automl.presets import resolve_architecture
from glora_automl.progress import Progress
from glora_automl.recipes import Recipe
from glora_automl.search_space import SearchSpace
from glora_automl.study import DataSummary
from glora_automl.tasks import CropMode, InputFormat, Task, load_task
from glora_automl.training import (
    Precision,
    ProcessGroup,
    half_dtype,
    resolve_precision,
    tensor_digest,
)

__all__ = [
    "Context",
    "bare_backbone",
    "fit_region",
    "load_images",
    "prepare",
    "prepare_model",
    "prepare_task",
]


@dataclass(frozen=True, eq=False)
class Context:
    """A recipe on this machine.

    Attributes:
        recipe: The recipe.
        task: Its images.
        images: Those of training and validation, prepared once for all contexts of a study.
        data: What the study keeps about them.
        device: Device of models and images.
        format: Input format of the backbone.
        space: The search space on the backbone's layers, or the space of the given architecture.
        region: The architectures within the budget.
        n_backbone_params: Parameters of the backbone without its classifier.
        cache: Folder of pretrained backbones.
        folder: Folder of the study's checkpoints.
        progress: Display of long work.
        process_group: Processes that train the supernet together.
        stop: Asked at safe points whether to stop.
        loaded: The backbone with the study's weights, once it is loaded.
    """

    recipe: Recipe
    task: Task
    images: PreparedImages
    data: DataSummary
    device: torch.device
    format: InputFormat
    space: SearchSpace
    region: FeasibleRegion
    n_backbone_params: int
    cache: Path
    folder: Path
    progress: Progress
    process_group: ProcessGroup
    stop: Callable[[], bool] | None = None
    loaded: nn.Module | None = None

    @property
    def budget(self) -> int:
        """The most trainable adapter parameters."""
        return self.region.budget

    @functools.cached_property
    def identity(self) -> dict[str, str]:
        """Digests of everything that a training depends on, besides its settings."""
        return {
            "data": self.task.digest(),
            "search space": self.space.digest,
            "backbone": tensor_digest(self.backbone().state_dict()),
            "budget": str(self.budget),
        }

    def create_backbone(self) -> nn.Module:
        """Create the backbone of the recipe: download, pretrain, or load from the cache."""
        return create_backbone(
            self.recipe.backbone,
            self.task,
            seed=self.recipe.seed,
            device=self.device,
            cache=self.cache,
            progress=self.progress,
            stop=self.stop,
        )

    def bare_backbone(self) -> nn.Module:
        """Return the backbone's modules, whose weights are to be replaced."""
        return _bare(self.recipe, self.task).to(self.device)

    def with_backbone(self, model: nn.Module) -> Context:
        """Return the context with the study's backbone, which gets its ``pretrained_cfg``."""
        # Images of arrays are squashed.
        crop_mode: CropMode = getattr(self.recipe.task, "crop_mode", "squash")
        remote = self.recipe.backbone.is_remote
        set_pretrained_cfg(model, self.format, crop_mode, self.task.classes, is_remote=remote)
        return replace(self, loaded=model)

    def with_recipe(self, recipe: Recipe) -> Context:
        """Return the context with other settings of training and head."""
        found = replace(self, recipe=recipe)
        kept = ["identity"]
        head, own = ((r.backbone.head_init, r.training.class_weight) for r in (recipe, self.recipe))
        if head == own:
            kept.append("_initial_model")
        found.__dict__.update({key: self.__dict__[key] for key in kept if key in self.__dict__})
        return found

    def fold(self, train: np.ndarray, validation: np.ndarray) -> Context:
        """Return the context with other training and validation images.

        Args:
            train: Indices of the training images in :attr:`labelled`.
            validation: Indices of the validation images there.
        """
        parts = (partial(at_indices, self.labelled, indices) for indices in (train, validation))
        return replace(self.holding_out(), images=PreparedImages(*parts))

    def holding_out(self) -> Context:
        """Return the context with held-out validation images, whatever the recipe says."""
        return self if self.holds_out else replace(self, data=replace(self.data, holds_out=True))

    def backbone(self) -> nn.Module:
        """Return a copy of the study's backbone."""
        assert self.loaded is not None, "load the backbone first"
        return copy.deepcopy(self.loaded)

    @functools.cached_property
    def _initial_model(self) -> nn.Module:
        model = self.backbone()
        if self.recipe.backbone.head_init == "logistic":
            fit_head(model, *self.seen, class_weight=self.recipe.training.class_weight)
        return model

    def initial_model(self) -> nn.Module:
        """Return a copy of the backbone with the initial head, from which trainings start."""
        return copy.deepcopy(self._initial_model)

    @property
    def train(self) -> Images:
        """Training images and their labels, on the device."""
        return self.images.train

    @property
    def validation(self) -> Images:
        """Validation images and their labels, on the device."""
        return self.images.validation

    @property
    def labelled(self) -> Images:
        """Training images, then validation images, and their labels, on the device."""
        return self.images.labelled

    @property
    def holds_out(self) -> bool:
        """Whether the validation images are held out until the refit."""
        return self.data.holds_out

    @property
    def seen(self) -> Images:
        """Images and labels of the supernet's training: all but the held-out ones."""
        return self.train if self.holds_out else self.labelled

    @property
    def precision(self) -> Precision:
        """Data type of the products in training, and of the weights that score trials."""
        return resolve_precision(self.recipe.training.precision, self.device)

    @property
    def scoring_dtype(self) -> torch.dtype | None:
        """Data type of the weights that score trials; None is the backbone's."""
        return half_dtype(self.precision)

    def with_precision(self, kept: Recipe | None = None) -> Context:
        """Return the context with ``training.precision`` set, where it is ``auto``.

        Args:
            kept: Recipe of the study, which has it already: the losses of all of its workers must
                compare. None takes what suits the device.
        """
        if self.recipe.training.precision != "auto":
            return self
        precision, own = kept.training.precision if kept else self.precision, self.precision
        if precision != own:
            self.progress.log(f"Precision {precision}, as in the study; this device suits {own}.")
        return self.with_recipe(self.recipe.replace(training={"precision": precision}))

    def test(self) -> Images:
        """Return test images and labels. Only the end of a study calls this."""
        return self.task.test.prepare(self.format, self.device)

    def domains(self) -> Iterator[tuple[str, Images, Tensor | None]]:
        """Yield the test sets of other domains: name, images and labels, classes to decide among.

        Only the end of a study calls this.
        """
        for name, domain in self.task.domains.items():
            among = None if domain.among is None else domain.among.to(self.device)
            yield name, domain.images.prepare(self.format, self.device), among


def load_images(
    recipe: Recipe,
    workspace: Workspace,
    arrays: tuple[np.ndarray, ...] | None = None,
) -> tuple[Recipe, Task]:
    """Load the images of a recipe.

    Args:
        recipe: The recipe.
        workspace: The environment.
        arrays: Images and labels of a task with ``source = "arrays"``.

    Returns:
        The recipe with the digests of its checkpoints, and its images.

    Raises:
        GLoRAError: If images or checkpoints cannot be read, timm does not know a candidate, or
            class weights or metric do not fit the images.
    """
    for candidate in recipe.backbone.candidates:
        check_name(candidate.model)
    recipe = recipe.model_copy(update={"backbone": recipe.backbone.pinned()})
    load = partial(load_task, recipe.task, recipe.seed, workspace.progress, arrays=arrays)
    task = call_stoppable(load, workspace.stop)  # a data set may have to be downloaded
    check_pretraining(recipe.backbone, task)
    check_class_weights(recipe, task)
    check_metric(recipe, task)
    return recipe, task


def prepare(recipe: Recipe, workspace: Workspace, name: str) -> Context:
    """Check a recipe against images and model, without any training or writing.

    Args:
        recipe: The recipe, with one model.
        workspace: The environment.
        name: Name of the study.

    Raises:
        GLoRAError: If a part of the recipe does not fit.
    """
    return prepare_model(*load_images(recipe, workspace), workspace, name)


def prepare_model(recipe: Recipe, task: Task, workspace: Workspace, name: str) -> Context:
    """Check a recipe against its images, of :func:`load_images`, as :func:`prepare` does."""
    if recipe.backbone.candidates:
        raise RecipeError(
            f"backbone.model must be one model here, got {recipe.backbone.model!r}. Set "
            "`backbone.model`, or run a search, which chooses one."
        )
    # The layers do not depend on the weights, which may cost a download or a training.
    return prepare_task(recipe, task, *bare_backbone(recipe, task), workspace, name)


def prepare_task(
    recipe: Recipe,
    task: Task,
    model: nn.Module,
    target: InputFormat,
    workspace: Workspace,
    name: str,
) -> Context:
    """Return the context of a task and a model that are there already.

    Args:
        recipe: The recipe, of which task and backbone are not read.
        task: The images.
        model: The backbone, or one with the same layers.
        target: Its input format.
        workspace: The environment.
        name: Name of the study.

    Raises:
        GLoRAError: If search space, budget or architecture do not fit the model.
    """
    process_group = ProcessGroup.from_environment(resolve_device(workspace.device))
    fit = fit_region(recipe, task, model, target)
    data = summarize_data(recipe, task)
    for note in data.notes():
        workspace.progress.log(note)
    device = process_group.device
    return Context(
        recipe=recipe,
        task=task,
        images=PreparedImages(
            partial(task.train.prepare, target, device),
            partial(task.validation.prepare, target, device),
        ),
        data=data,
        device=device,
        format=target,
        space=fit.space,
        region=fit.region,
        n_backbone_params=fit.n_params,
        cache=workspace.folder / CACHE,
        folder=workspace.folder / name,
        progress=workspace.progress,
        process_group=process_group,
        stop=workspace.stop,
    )


class Fit(NamedTuple):
    """Search space and budget on a model.

    Attributes:
        space: The search space, or the space of the given architecture.
        region: The architectures within the budget.
        n_params: Parameters of the model without its classifier.
    """

    space: SearchSpace
    region: FeasibleRegion
    n_params: int


def fit_region(recipe: Recipe, task: Task, model: nn.Module, target: InputFormat) -> Fit:
    """Return search space and budget of a recipe on a model.

    Args:
        recipe: The recipe, of which task and backbone are not read.
        task: The images.
        model: The backbone, or one with the same layers.
        target: Its input format.

    Raises:
        GLoRAError: If search space, budget or architecture do not fit the model.
    """
    own = next(model.parameters()).device
    example, _ = task.train.subset(torch.arange(2)).prepare(target, own)
    shapes = linear_shapes(model, example=example[:])
    space = SearchSpace(recipe.search_space, shapes)
    head = {id(p) for module in classifiers(model) for p in module.parameters()}
    n_params = sum(p.numel() for p in model.parameters() if id(p) not in head)
    try:
        budget = recipe.budget.resolve(n_params)
        if recipe.architecture is not None:
            given = resolve_architecture(recipe.architecture, space.shapes, shapes, budget)
            space = SearchSpace.of(given, shapes)
        return Fit(space, FeasibleRegion(space, budget), n_params)
    except (ArchitectureError, BudgetError) as error:
        raise type(error)(f"recipe {recipe.name}: {error}") from None


def bare_backbone(recipe: Recipe, task: Task) -> tuple[nn.Module, InputFormat]:
    """Return the modules of a recipe's backbone without its weights, and its input format.

    Raises:
        TaskError: If it is no classifier for such images.
    """
    model = _bare(recipe, task)
    target = task.format(input_format(model, recipe.backbone))
    check_backbone(model, recipe.backbone, target, len(task.classes))
    return model, target


def _bare(recipe: Recipe, task: Task) -> nn.Module:
    bare = recipe.backbone.model_copy(update={"pretrained": False})
    return create_model(bare, len(task.classes), recipe.seed)
