"""Ways of spending the budget: the searched adapter and the controls beside it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from glora_automl.adapters import merge
from glora_automl.architecture import TENSORS, Architecture, Choice, LayerChoices
from glora_automl.study._result import Row
from glora_automl.study._run import Run
from glora_automl.study._setup import Setup
from glora_automl.study._stages import Claim
from glora_automl.supernet import ImageBatches, Supernet, TrainingResult, evaluate, train

__all__ = [
    "alone",
    "arm_outcome",
    "control_architectures",
    "control_stage",
    "load_arm",
    "train_alone",
    "train_control",
    "uniform_architectures",
]


def control_architectures(setup: Setup) -> dict[str, Architecture | None]:
    """What anybody would try first, under the same budget; None where nothing fits.

    The linear probe, LoRA at the highest rank that fits when every layer has the same (or its
    size, if that is less), and BitFit (arXiv 2106.10199).
    """
    shapes = setup.space.shapes
    loras = _loras(setup)
    bitfit = Architecture.uniform(shapes, E="vector")
    return {
        "linear probe": Architecture.uniform(shapes),
        f"LoRA r={len(loras)}" if loras else "LoRA": loras[-1] if loras else None,
        "BitFit": bitfit if bitfit.count(shapes) <= setup.budget else None,
    }


def uniform_architectures(setup: Setup) -> dict[str, Architecture]:
    """What fits the budget with the same choices in every layer: the controls, and more.

    LoRA at the ranks that are powers of two, too, and a scale and a shift of each layer's outputs,
    which is what SSF (arXiv 2210.08823) does to linear layers.
    """
    shapes = setup.space.shapes
    found = {name: a for name, a in control_architectures(setup).items() if a is not None}
    loras = _loras(setup)
    for rank in (2**i for i in range(len(loras).bit_length())):
        found.setdefault(f"LoRA r={rank}", loras[rank - 1])
    ssf = Architecture.uniform(shapes, A="vector", E="vector")
    if ssf.count(shapes) <= setup.budget:
        found["SSF-like"] = ssf
    return found


def _loras(setup: Setup) -> list[Architecture]:
    """LoRA of the same rank in every layer, of all ranks that fit the budget, from 1 on.

    A layer that is smaller than the rank has its size for a rank.
    """
    shapes = setup.space.shapes
    found: list[Architecture] = []
    for rank in range(1, max(min(shape[:2]) for shape in shapes.values()) + 1):
        larger = Architecture(
            {
                name: LayerChoices(B=Choice("lora", min(rank, *shape[:2])))
                for name, shape in shapes.items()
            }
        )
        if larger.count(shapes) > setup.budget:
            break
        found.append(larger)
    return found


def control_stage(name: str) -> str:
    """The stage that trains a control.

    Example:
        >>> control_stage("LoRA r=2")
        'control-LoRA-r2'
    """
    return f"control-{name.replace(' ', '-').replace('=', '')}"


def alone(setup: Setup, architecture: Architecture) -> Supernet:
    """A fresh backbone with the parameters of one architecture alone, which is active."""
    only = {
        layer: {t: (choice,) for t, choice in zip(TENSORS, choices, strict=True)}
        for layer, choices in architecture.items()
    }
    supernet = Supernet(setup.backbone(), only, seed=setup.recipe.seed)
    supernet.activate(architecture)
    return supernet


def arm_outcome(
    run: Run, file: str, row: Row, supernet: Supernet, architecture: Architecture
) -> dict[str, Any]:
    """What a stage leaves of a trained arm: its row, and its adapter and head as an artifact."""
    return {
        **run.upload(file, supernet.active_state_dict()),
        "row": row.to_json(),
        "architecture": str(architecture),
    }


def load_arm(run: Run, outcome: dict[str, Any]) -> nn.Module | None:
    """The arm as a plain, merged model; none where nothing fits the budget.

    Raises:
        CheckpointError: If its artifact is missing or altered.
    """
    if outcome["artifact"] is None:
        return None
    supernet = alone(run.setup, Architecture.parse(outcome["architecture"]))
    supernet.load_state_dict(run.download(outcome))
    merge(supernet.model)
    return supernet.model.eval()


def train_control(
    run: Run, stage: str, name: str, architecture: Architecture | None, claim: Claim
) -> dict[str, Any]:
    """Train a control, which is an arm like the searched one."""
    if architecture is None:
        return {"artifact": None, "row": Row(name).to_json()}
    supernet, row = train_alone(run, stage, name, architecture, title=f"Control: {name}")
    return arm_outcome(run, stage, row, supernet, architecture)


def train_alone(
    run: Run, stage: str, name: str, architecture: Architecture, *, title: str
) -> tuple[Supernet, Row]:
    """Train one architecture alone: same loop, same settings, as many images as the search's.

    Args:
        run: The study.
        stage: The stage that this is.
        name: Names the row, and the training, whose random numbers are its own.
        architecture: What is trained.
        title: What is said of it while it trains.
    """
    recipe = run.setup.recipe
    supernet = alone(run.setup, architecture)
    result = _train(run, stage, name, supernet, *run.setup.fit, title=title)
    with merge(supernet.model, share=True) as model:
        score = evaluate(model, *run.setup.validation)
    images, seconds = result.images, result.seconds
    if recipe.selection.refit:
        supernet = alone(run.setup, architecture)
        title = f"{title}, on all labelled images"
        result = _train(run, f"{stage}-all", name, supernet, *run.setup.labelled, title=title)
        images, seconds = images + result.images, seconds + result.seconds
    row = Row(
        name,
        parameters=architecture.count(run.setup.space.shapes),
        validation=score,
        images=images,
        seconds=round(seconds, 2),
    )
    return supernet, row


def _train(
    run: Run,
    stage: str,
    name: str,
    supernet: Supernet,
    images: ImageBatches,
    labels: Tensor,
    *,
    title: str,
) -> TrainingResult:
    recipe = run.setup.recipe
    epochs = recipe.training.epochs + recipe.selection.finetune_epochs
    with run.setup.progress.epochs(title, epochs) as on_epoch:
        return train(
            supernet.model,
            supernet.trainable(),
            images,
            labels,
            recipe.training.model_copy(update={"epochs": epochs}),
            seed=recipe.seed,
            stage=name,
            identity=run.setup.identity,
            checkpoint=run.checkpoint(stage),
            on_epoch=on_epoch,
            stop=run.setup.stop,
        )
