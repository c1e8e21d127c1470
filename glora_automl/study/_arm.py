"""Ways of spending the budget: the searched adapter and the controls beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn

from glora_automl.adapters import merge
from glora_automl.architecture import TENSORS, Architecture
from glora_automl.errors import ArchitectureError
from glora_automl.study._result import Row
from glora_automl.study._setup import Setup
from glora_automl.supernet import Supernet, evaluate, train

__all__ = ["Arm", "alone", "control_architectures", "train_control"]


class Arm(NamedTuple):
    """A trained arm: its row and its plain, merged model; no model where nothing fits."""

    row: Row
    model: nn.Module | None

    def tested(self, images: Tensor, labels: Tensor) -> Row:
        """The row with its test score."""
        if self.model is None:
            return self.row
        return replace(self.row, test=evaluate(self.model, images, labels))


def control_architectures(setup: Setup) -> dict[str, Architecture | None]:
    """What anybody would try first, under the same budget; None where nothing fits.

    The linear probe, LoRA at the highest rank that fits when every layer has the same, and BitFit
    (arXiv 2106.10199).
    """
    shapes = setup.space.shapes
    bitfit = Architecture.uniform(shapes, E="vector")
    lora, rank = None, 1
    try:
        while (larger := Architecture.uniform(shapes, B=f"lora-{rank}")).count(
            shapes
        ) <= setup.budget:
            lora, rank = larger, rank + 1
    except ArchitectureError:
        pass  # the rank has reached the size of the smallest layer
    return {
        "linear probe": Architecture.uniform(shapes),
        f"LoRA r={rank - 1}" if lora is not None else "LoRA": lora,
        "BitFit": bitfit if bitfit.count(shapes) <= setup.budget else None,
    }


def alone(setup: Setup, architecture: Architecture) -> Supernet:
    """A fresh backbone with the parameters of one architecture alone, which is active."""
    only = {
        layer: {t: (choice,) for t, choice in zip(TENSORS, choices, strict=True)}
        for layer, choices in architecture.items()
    }
    supernet = Supernet(setup.backbone(), only, seed=setup.recipe.seed)
    supernet.activate(architecture)
    return supernet


def train_control(setup: Setup, name: str, architecture: Architecture | None) -> Arm:
    """Train one architecture alone: same loop, same settings, as many images as the search's."""
    if architecture is None:
        return Arm(Row(name), None)
    recipe = setup.recipe
    supernet = alone(setup, architecture)
    epochs = recipe.training.epochs + recipe.selection.finetune_epochs
    with setup.progress.epochs(f"Control: {name}", epochs) as on_epoch:
        result = train(
            supernet.model,
            supernet.trainable(),
            *setup.fit,
            recipe.training.model_copy(update={"epochs": epochs}),
            seed=recipe.seed,
            stage=name,
            identity=setup.identity,
            checkpoint=setup.folder / f"{name.replace(' ', '-').replace('=', '')}.json",
            on_epoch=on_epoch,
        )
    merge(supernet.model)
    row = Row(
        name,
        parameters=architecture.count(setup.space.shapes),
        validation=evaluate(supernet.model, *setup.validation),
        images=result.images,
        seconds=round(result.seconds, 2),
    )
    return Arm(row, supernet.model)
