"""Ways of spending the budget: the searched adapter and the controls beside it."""

from __future__ import annotations

from typing import Any

from optuna.trial import create_trial
from torch import nn

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.pipeline._context import Setup
from glora_automl.pipeline._objective import trial_values
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._standalone import standalone, train_standalone
from glora_automl.presets import attention, glora, loras, preset_label, ssf
from glora_automl.study import CONSTRAINT, Row, Selection, done_trials
from glora_automl.supernet import Supernet
from glora_automl.workers import Claim

__all__ = [
    "adapter_outcome",
    "baseline_architectures",
    "baseline_stage",
    "load_adapted",
    "train_baseline",
    "train_preset",
    "uniform_architectures",
]


def baseline_architectures(setup: Setup) -> dict[str, Architecture | None]:
    """What anybody would try first, under the same budget; None where nothing fits.

    The linear probe, LoRA at the highest rank that fits when every layer has the same (or its
    size, if that is less) or, where not even rank 1 does, when the layers of attention alone have
    it (as in arXiv 2106.09685), and BitFit (arXiv 2106.10199).
    """
    shapes = setup.space.shapes
    name, fitting = "LoRA r={}", loras(shapes, setup.budget)
    if not fitting and (attended := attention(shapes)):
        name, fitting = "LoRA r={} in attention", loras(attended, setup.budget)
    bitfit = Architecture.uniform(shapes, E="vector")
    return {
        "linear probe": Architecture.uniform(shapes),
        name.format(len(fitting)) if fitting else "LoRA": fitting[-1] if fitting else None,
        "BitFit": bitfit if bitfit.count(shapes) <= setup.budget else None,
    }


def uniform_architectures(setup: Setup) -> dict[str, Architecture]:
    """What fits the budget with the same choices in every layer: the controls, and more.

    LoRA at the ranks that are powers of two, too, what SSF does, and GLoRA unsearched.
    """
    shapes = setup.space.shapes
    found = {name: a for name, a in baseline_architectures(setup).items() if a is not None}
    fitting = loras(shapes, setup.budget)
    for rank in (2**i for i in range(len(fitting).bit_length())):
        found.setdefault(f"LoRA r={rank}", fitting[rank - 1])
    if ssf(shapes).count(shapes) <= setup.budget:
        found["SSF-like"] = ssf(shapes)
    if (unsearched := glora(shapes, setup.budget)) is not None:
        found[unsearched[0]] = unsearched[1]
    return found


def baseline_stage(name: str) -> str:
    """The stage that trains a control.

    Example:
        >>> baseline_stage("LoRA r=2")
        'control-LoRA-r2'
    """
    return f"control-{name.replace(' ', '-').replace('=', '')}"


def adapter_outcome(
    run: Run, file: str, row: Row, supernet: Supernet, architecture: Architecture
) -> dict[str, Any]:
    """What a stage leaves of a trained arm: its row, and its adapter and head as an artifact."""
    return {
        **run.upload(file, supernet.active_state_dict()),
        "row": row.to_json(),
        "architecture": str(architecture),
    }


def load_adapted(run: Run, outcome: dict[str, Any]) -> nn.Module | None:
    """The arm as a plain, merged model; none where nothing fits the budget.

    Raises:
        CheckpointError: If its artifact is missing or altered.
    """
    if outcome["artifact"] is None:
        return None
    supernet = standalone(run.setup, Architecture.parse(outcome["architecture"]))
    supernet.load_state_dict(run.download(outcome))
    merge(supernet.model)
    return supernet.model.eval()


def train_baseline(
    run: Run, stage: str, name: str, architecture: Architecture | None, claim: Claim
) -> dict[str, Any]:
    """Train a control, which is an arm like the searched one."""
    if architecture is None:
        return {"artifact": None, "row": Row(name).to_json()}
    supernet, row = train_standalone(run, stage, name, architecture, title=f"Control: {name}")
    return adapter_outcome(run, stage, row, supernet, architecture)


def train_preset(run: Run, claim: Claim) -> dict[str, Any]:
    """Train the architecture that the recipe gives, in the place of a search and a selection.

    It becomes the one trial of the study. It is trained like a control: one that is a control of a
    search ends with the same figures.

    Returns:
        The stage's outcome: an arm and its selection.
    """
    run.check_settings()
    shapes = run.setup.space.shapes
    architecture = run.setup.space.architecture({})
    name = preset_label(architecture, shapes)
    supernet, row = train_standalone(run, "selection", name, architecture, title=f"Train: {name}")
    assert row.n_params is not None
    assert row.validation is not None
    # A worker may have died between this trial and the end of the stage.
    if not done_trials(run.study):
        run.study.add_trial(
            create_trial(
                values=trial_values(run.setup.recipe.search, row.validation, row.n_params),
                user_attrs={
                    CONSTRAINT: row.n_params,
                    "validation_accuracy": row.validation.accuracy,
                    "validation_loss": row.validation.loss,
                    "validation_images": row.validation.n_images,
                    "worker": run.worker.name,
                },
                constraints={CONSTRAINT: row.n_params - run.setup.budget},
            )
        )
    (trial,) = done_trials(run.study)
    selection = Selection(
        trial=trial.number,
        architecture=str(architecture),
        n_params=row.n_params,
        inherited=row.validation,
        finetuned=None,
        candidates=(trial.number,),
    )
    outcome = adapter_outcome(run, "selection", row, supernet, architecture)
    return {**outcome, "selection": selection.to_json()}
