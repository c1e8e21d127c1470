"""What a recipe stands for on this machine: images, backbone, search space, budget."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

from glora_automl.adapters import classifiers, linear_shapes
from glora_automl.backbones import (
    check_backbone,
    check_pretraining,
    create_backbone,
    create_model,
    input_format,
)
from glora_automl.budget import FeasibleRegion, parse_budget
from glora_automl.errors import ArchitectureError, BudgetError, RecipeError, TaskError
from glora_automl.presets import resolve_architecture
from glora_automl.progress import Progress
from glora_automl.recipes import Recipe
from glora_automl.search_space import SearchSpace
from glora_automl.tasks import InputFormat, Task, load_task
from glora_automl.training import ImageBatches, Joined, ProcessGroup, tensor_digest

__all__ = ["Setup", "prepare", "resolve_device"]


CACHE = "backbones"
"""Folder of pretrained backbones in a runs folder; no study can have this name."""


def resolve_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one.

    Raises:
        TaskError: If it is no device or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("it is neither cpu nor cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TaskError(
            f"The device must be one that torch has here, got {name!r}: {reason}; use --device cpu."
        ) from None
    return device


@dataclass(frozen=True, eq=False)
class Setup:
    """A recipe on this machine.

    Attributes:
        recipe: The recipe.
        task: Its images.
        device: Where models and images are.
        format: What the backbone wants to see.
        space: The search space on the backbone's layers; of the one architecture that is given, if
            that is so.
        region: The architectures under the budget.
        backbone_parameters: How many the backbone has without its classifier, for budgets in %.
        cache: Folder of pretrained backbones.
        folder: Folder of the study's checkpoints.
        progress: Shows long work.
        process_group: The processes that train the supernet together.
        stop: Asked at safe points whether to stop.
        loaded: The backbone, once it is known which weights the study has.
    """

    recipe: Recipe
    task: Task
    device: torch.device
    format: InputFormat
    space: SearchSpace
    region: FeasibleRegion
    backbone_parameters: int
    cache: Path
    folder: Path
    progress: Progress
    process_group: ProcessGroup
    stop: Callable[[], bool] | None = None
    loaded: nn.Module | None = None

    @property
    def budget(self) -> int:
        """The budget as a plain count."""
        return self.region.budget

    @functools.cached_property
    def drawn(self) -> FeasibleRegion:
        """The region as random architectures are drawn from it: near the budget.

        That is where a search for accuracy alone ends. What a whole front needs to begin with are
        architectures of all sizes.
        """
        search = self.recipe.search
        least = 0 if search.is_multi_objective else search.min_budget_fraction * self.budget
        return FeasibleRegion(self.space, self.budget, least)

    @functools.cached_property
    def identity(self) -> dict[str, str]:
        """Digests of all that a training of this study depends on, besides its settings."""
        return {
            "data": self.task.digest(),
            "search space": self.space.digest,
            "backbone": tensor_digest(self.backbone().state_dict()),
            "budget": str(self.budget),
        }

    def create_backbone(self) -> nn.Module:
        """Create the backbone as the recipe says: download, pretrain, or take from the cache."""
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
        """The backbone's modules with weights that are to be replaced."""
        return _bare(self.recipe, self.task).to(self.device)

    def with_backbone(self, model: nn.Module) -> Setup:
        """The setup with the study's backbone, which stays as it is."""
        return replace(self, loaded=model)

    def backbone(self) -> nn.Module:
        """A copy of the study's backbone."""
        assert self.loaded is not None, "the backbone comes first"
        return copy.deepcopy(self.loaded)

    @functools.cached_property
    def train(self) -> tuple[ImageBatches, Tensor]:
        """Images and labels to train on, on the device."""
        return self.task.train.prepare(self.format, self.device)

    @functools.cached_property
    def validation(self) -> tuple[ImageBatches, Tensor]:
        """Images and labels that steer the search, on the device."""
        return self.task.validation.prepare(self.format, self.device)

    @functools.cached_property
    def labelled(self) -> tuple[ImageBatches, Tensor]:
        """Images and labels to train on, then those that steer the search, on the device."""
        (images, labels), (more, others) = self.train, self.validation
        return Joined(images, more), torch.cat([labels, others])

    def folds(self) -> list[Tensor]:
        """Indices of the validation images in each part of a cross-validation, stratified."""
        labels = self.task.validation.labels.numpy()
        parts = StratifiedKFold(
            self.recipe.selection.n_splits, shuffle=True, random_state=self.recipe.seed
        )
        return [torch.from_numpy(part) for _, part in parts.split(labels, labels)]

    @property
    def scoring_type(self) -> torch.dtype | None:
        """The type of weights in which trials are scored; None is the backbone's."""
        precision = self.recipe.search.precision
        if precision == "auto":
            precision = "bfloat16" if self.device.type == "cuda" else "float32"
        return torch.bfloat16 if precision == "bfloat16" else None

    def test(self) -> tuple[ImageBatches, Tensor]:
        """Images and labels of the final test. Only the end of a study asks for them."""
        return self.task.test.prepare(self.format, self.device)

    def domains(self) -> Iterator[tuple[str, tuple[ImageBatches, Tensor], Tensor | None]]:
        """Further test sets, one at a time: name, images and labels, classes to decide among.

        The end of a study asks for them, too.
        """
        for name, domain in self.task.domains.items():
            among = None if domain.among is None else domain.among.to(self.device)
            yield name, domain.images.prepare(self.format, self.device), among


def prepare(
    recipe: Recipe,
    *,
    runs: Path,
    name: str,
    device: str,
    progress: Progress,
    stop: Callable[[], bool] | None = None,
    arrays: tuple[np.ndarray, np.ndarray] | None = None,
) -> Setup:
    """Check a recipe against images and model, without training or writing anything.

    Raises:
        GLoRAError: If anything in the recipe does not fit.
    """
    process_group = ProcessGroup.from_environment(resolve_device(device))
    recipe = recipe.model_copy(update={"backbone": recipe.backbone.pinned()})
    task = load_task(recipe.task, recipe.seed, progress, arrays=arrays)
    check_pretraining(recipe.backbone, task)
    _check_folds(recipe, task)
    # The layers do not depend on the weights, which may cost a download or a training.
    model = _bare(recipe, task)
    target = task.format(input_format(model, recipe.backbone))
    check_backbone(model, recipe.backbone, target, len(task.classes))
    example, _ = task.train.subset(torch.arange(2)).prepare(target, torch.device("cpu"))
    shapes = linear_shapes(model, example=example[:])
    space = SearchSpace(recipe.search_space, shapes)
    head = {id(p) for module in classifiers(model) for p in module.parameters()}
    count = sum(p.numel() for p in model.parameters() if id(p) not in head)
    try:
        budget = parse_budget(recipe.budget, count)
        if recipe.architecture is not None:
            given = resolve_architecture(recipe.architecture, space.shapes, shapes, budget)
            space = SearchSpace.of(given, shapes)
        region = FeasibleRegion(space, budget)
    except (ArchitectureError, BudgetError) as error:
        raise type(error)(f"recipe {recipe.name}: {error}") from None
    for name_of_set, count in task.repeated().items():
        progress.log(
            f"{count} images of the test set {name_of_set!r} are also among those that are trained "
            "or validated on; its accuracy is flattered by them."
        )
    return Setup(
        recipe=recipe,
        task=task,
        device=process_group.device,
        format=target,
        space=space,
        region=region,
        backbone_parameters=count,
        cache=runs / CACHE,
        folder=runs / name,
        progress=progress,
        process_group=process_group,
        stop=stop,
    )


def _bare(recipe: Recipe, task: Task) -> nn.Module:
    bare = recipe.backbone.model_copy(update={"pretrained": False})
    return create_model(bare, len(task.classes), recipe.seed)


def _check_folds(recipe: Recipe, task: Task) -> None:
    """Refuse a cross-validation with a class that not every part has."""
    fewest = int(torch.bincount(task.validation.labels, minlength=len(task.classes)).min())
    if recipe.selection.n_splits > fewest:
        raise RecipeError(
            "selection.n_splits must be at most the validation images of each class, got "
            f"{recipe.selection.n_splits} for {fewest}; take fewer folds, or more images."
        )
