"""Stages ``baseline``: presets that are trained for comparison, and given architectures."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from optuna.trial import create_trial

from glora_automl.architecture import Architecture
from glora_automl.pipeline._context import Context
from glora_automl.pipeline._objective import trial_values
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._standalone import train_adapter
from glora_automl.presets import fitting_loras, glora, loras, preset_label, ssf
from glora_automl.study import (
    CONSTRAINT,
    AdapterOutcome,
    Selection,
    Stage,
    StageName,
    done_trials,
)
from glora_automl.workers import Claim, Work

__all__ = [
    "baseline_architectures",
    "baseline_stage",
    "baseline_work",
    "train_given",
    "uniform_architectures",
]


def baseline_architectures(context: Context) -> dict[str, Architecture | None]:
    """Return the baselines by name; None where nothing fits the budget.

    The linear probe; LoRA (arXiv 2106.09685) at the highest rank that fits in all layers, or in
    those of attention where rank 1 does not; BitFit (arXiv 2106.10199).
    """
    shapes = context.space.shapes
    fitting = fitting_loras(shapes, context.budget)
    name, highest = fitting[-1] if fitting else ("LoRA", None)
    bitfit = Architecture.uniform(shapes, E="vector")
    return {
        "linear probe": Architecture.uniform(shapes),
        name: highest,
        "BitFit": bitfit if bitfit.count(shapes) <= context.budget else None,
    }


def uniform_architectures(context: Context) -> dict[str, Architecture]:
    """Return the presets that fit the budget: the baselines and more.

    LoRA at all powers of two, SSF, and GLoRA with the same choices in every layer.
    """
    shapes = context.space.shapes
    found = {name: a for name, a in baseline_architectures(context).items() if a is not None}
    fitting = loras(shapes, context.budget)
    for rank in (2**i for i in range(len(fitting).bit_length())):
        found.setdefault(f"LoRA r={rank}", fitting[rank - 1])
    if ssf(shapes).count(shapes) <= context.budget:
        found["SSF-like"] = ssf(shapes)
    if (uniform := glora(shapes, context.budget)) is not None:
        found[uniform[0]] = uniform[1]
    return found


def baseline_stage(name: str) -> str:
    """Return the stage that trains a baseline.

    Example:
        >>> baseline_stage("LoRA r=2")
        'baseline-LoRA-r2'
    """
    return str(StageName(Stage.BASELINE, name))


def baseline_work(
    run: Run, name: str, architecture: Architecture | None
) -> dict[str, Work[AdapterOutcome]]:
    """Return the stage of a baseline, for :meth:`Stages.run`."""
    stage = baseline_stage(name)

    def do(claim: Claim) -> AdapterOutcome:
        return train_adapter(run, stage, name, architecture, title=f"Baseline: {name}")

    return {stage: Work(AdapterOutcome, do)}


def train_given(run: Run) -> AdapterOutcome:
    """Train the architecture that the recipe gives; it becomes the study's only trial."""
    return run.stages.run_one(Stage.SELECTION, Work(AdapterOutcome, partial(_train_given, run)))


def _train_given(run: Run, claim: Claim) -> AdapterOutcome:
    run.check_settings()
    context = run.context
    architecture = context.space.architecture({})
    name = preset_label(architecture, context.space.shapes)
    outcome = train_adapter(run, Stage.SELECTION, name, architecture, title=f"Train: {name}")
    score, n_params = outcome.row.validation, outcome.row.n_params  # such recipes hold images out
    assert score is not None
    assert n_params is not None
    # A worker may have died between this trial and the end of the stage.
    if not done_trials(run.study):
        recipe = context.recipe
        run.study.add_trial(
            create_trial(
                values=trial_values(
                    recipe.objective, score, n_params if recipe.search.is_multi_objective else None
                ),
                user_attrs={
                    CONSTRAINT: n_params,
                    "validation_accuracy": score.accuracy,
                    "validation_loss": score.loss,
                    "validation_images": score.n_images,
                    "worker": run.worker.name,
                },
                constraints={CONSTRAINT: n_params - context.budget},
            )
        )
    (trial,) = done_trials(run.study)
    selection = Selection(
        architecture=str(architecture),
        n_params=n_params,
        trained=score,
        trial=trial.number,
        candidates=(trial.number,),
        refit=context.recipe.selection.refit,
    )
    return replace(outcome, selection=selection)
