"""Exported subnet of a study: one architecture with its weights."""

from __future__ import annotations

from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState
from torch import nn

from glora_automl.architecture import Architecture
from glora_automl.budget import Budget
from glora_automl.errors import StudyError
from glora_automl.export._adapter import Adapter
from glora_automl.export._record import Backbone, Preprocessing, Record
from glora_automl.pipeline import (
    Run,
    baseline_stage,
    fetch_supernet,
    standalone,
    subnet_of,
    subnet_stage,
)
from glora_automl.presets import preset_label, read_architecture, resolve_architecture
from glora_automl.storages import ArtifactReference
from glora_automl.study import (
    AdapterOutcome,
    ClassReport,
    Row,
    Selection,
    SelectOutcome,
    Stage,
    StageName,
    TestOutcome,
    get_attribute,
    get_setting,
    parse_trial,
)
from glora_automl.supernet import Supernet
from glora_automl.training import Score

__all__ = ["Subnet", "backbone_record", "create_adapter", "find_subnet", "load_subnet"]


class Subnet(NamedTuple):
    """Subnet of a study.

    Attributes:
        architecture: The architecture.
        origin: Source of the architecture in words, such as ``trial 7`` or ``LoRA r=2``.
        weights: ``inherited`` from the supernet, ``trained`` on the training images, or ``refit``
            on training and validation images.
        validation: Score on the validation images.
        test: Score on the test images; None without a test.
        trial: Number of the trial; None for a baseline.
        preset: Name of a baseline, or of the preset that the recipe sets.
        budget: Budget of the selection; None for the study's.
        artifact: The weights; None for inherited ones.
        classes: The test by class; None without a test.
    """

    architecture: Architecture
    origin: str
    weights: str
    validation: Score | None
    test: Score | None = None
    trial: int | None = None
    preset: str | None = None
    budget: int | None = None
    artifact: ArtifactReference | None = None
    classes: ClassReport | None = None


def find_subnet(
    run: Run,
    trial: str,
    budget: Budget | int | str | None = None,
    architecture: str | None = None,
) -> Subnet:
    """Find a subnet by trial, or by the budget or the architecture of a selection.

    Args:
        run: The study.
        trial: ``best`` for the winner, or the number of a trial.
        budget: Budget of an earlier selection; None for the study's.
        architecture: Architecture of an earlier selection.

    Raises:
        StudyError: If the study is not finished, or has no such trial or selection.
    """
    if budget is not None or architecture is not None:
        if trial != "best" or None not in (budget, architecture):
            raise StudyError(
                "One of trial, budget and architecture must be given, got more. Leave out `trial`, "
                "`budget` or `architecture`."
            )
        if architecture is not None:
            return _find_given(run, architecture)
        assert budget is not None
        return _find_selected(run, Budget.parse(budget).resolve(run.context.n_backbone_params))
    number = parse_trial(trial)
    # A study without a search has no supernet, so only its winner can be exported.
    if number is None or run.context.recipe.architecture is not None:
        run.check_finished()
    if run.stages.is_done(Stage.TEST):
        winner = _find_winner(run)
        if number is None or number == winner.trial:
            return winner
    assert number is not None, "check_finished has raised without a winner"
    found = _complete_trial(run, number)
    attrs, score = found.user_attrs, None
    if run.context.holds_out:
        score = Score(
            attrs["validation_accuracy"], attrs["validation_loss"], attrs["validation_images"]
        )
    return Subnet(
        run.context.space.architecture(found.params),
        f"trial {found.number}",
        "inherited",
        score,
        trial=found.number,
    )


def _find_winner(run: Run) -> Subnet:
    """Return the winner of a finished study."""
    selection = Selection.from_json(get_attribute(run.study, "selection"))
    tested = run.stages.outcome(Stage.TEST, TestOutcome)
    assert tested is not None, "the study is finished"
    return _tested_winner(run, selection, tested)._replace(classes=tested.classes)


def _tested_winner(run: Run, selection: Selection, tested: TestOutcome) -> Subnet:
    if run.context.recipe.architecture is not None:
        label = preset_label(Architecture.parse(selection.architecture), run.context.space.shapes)
        return _from_selection(run, selection, tested.rows[0], Stage.SELECTION, preset=label)
    if selection.preset is not None:
        row = next(row for row in tested.rows if row.name == selection.preset)
        return _from_selection(run, selection, row, baseline_stage(selection.preset))
    return _from_selection(run, selection, tested.rows[0], selection.weights_stage)


def _find_given(run: Run, text: str) -> Subnet:
    """Return the subnet of an architecture that ``glora select`` has trained on."""
    shapes = run.context.space.shapes
    architecture = resolve_architecture(read_architecture(text), shapes, shapes, run.context.budget)
    tested = run.stages.outcome(f"{subnet_stage(architecture)}-result", SelectOutcome)
    if tested is None:
        name = run.study.study_name
        raise StudyError(
            f"`architecture` must be one that was selected from the study {name!r}, got another "
            f"one. Run 'glora select {name}' with this `architecture`."
        )
    subnet = _from_selection(run, tested.selection, tested.row, tested.selection.weights_stage)
    return subnet._replace(classes=tested.classes)


def _find_selected(run: Run, budget: int) -> Subnet:
    """Return the subnet that was selected for a smaller budget."""
    stages = [StageName(kind, f"{budget}-result") for kind in (Stage.SELECT, Stage.LADDER)]
    found = (run.stages.outcome(str(stage), SelectOutcome) for stage in stages)
    tested = next((outcome for outcome in found if outcome is not None), None)
    if tested is None:
        name = run.study.study_name
        raise StudyError(
            f"`budget` must be one that an adapter of the study {name!r} was selected for, got "
            f"{budget}. Run 'glora select {name}' with this `budget`."
        )
    selection = tested.selection
    subnet = _from_selection(run, selection, tested.row, selection.weights_stage)
    return subnet._replace(budget=budget, classes=tested.classes)


def _from_selection(
    run: Run, selection: Selection, row: Row, stage: str, preset: str | None = None
) -> Subnet:
    """Return a selected subnet.

    Args:
        run: The study.
        selection: The selection.
        row: Its row in the result table.
        stage: The stage of its weights.
        preset: Name of the preset, if the selection has none.
    """
    outcome = run.stages.outcome(stage, AdapterOutcome)
    assert outcome is not None, "the stage comes before the test"
    preset = selection.preset or preset
    origin = preset
    if origin is None:
        origin = "a truncation of the supernet" if selection.trial is None else selection.origin
    return Subnet(
        Architecture.parse(selection.architecture),
        origin,
        selection.weights,
        row.validation,
        row.test,
        selection.trial,
        preset,
        artifact=outcome.artifact,
    )


def _complete_trial(run: Run, number: int) -> FrozenTrial:
    trials = run.study.get_trials(deepcopy=False)
    name = run.study.study_name
    if number >= len(trials):
        known = f"0 to {len(trials) - 1}" if trials else "none"
        raise StudyError(
            f"`trial` must be one of the study {name!r} ({known}), got {number}. Choose another "
            "`trial`."
        )
    if trials[number].state != TrialState.COMPLETE:
        raise StudyError(
            f"`trial` must be complete, got trial {number} of the study {name!r}, which is "
            f"{trials[number].state.name.lower()}. Choose another `trial`."
        )
    return trials[number]


def load_subnet(run: Run, subnet: Subnet) -> Supernet:
    """Load a subnet with its weights, not merged, on the CPU and in evaluation mode.

    Args:
        run: The study, with its backbone.
        subnet: The subnet.

    Raises:
        CheckpointError: If an artifact is missing or altered.
    """
    if subnet.artifact is not None:
        loaded = standalone(run.context, subnet.architecture)
        loaded.load_state_dict(run.download(subnet.artifact))
    else:
        loaded = subnet_of(run.context, fetch_supernet(run).supernet, subnet.architecture)
    loaded.model.cpu().eval()
    return loaded


def create_adapter(run: Run, subnet: Subnet, loaded: Supernet) -> Adapter:
    """Return a loaded subnet as an adapter, with its metadata."""
    record = backbone_record(run, loaded.model)
    about = {
        **record.about,
        "origin": subnet.origin,
        "trial": subnet.trial,
        "preset": subnet.preset,
        "weights": subnet.weights,
        "budget": run.context.budget if subnet.budget is None else subnet.budget,
        "validation": _score_json(subnet.validation),
        "test": _score_json(subnet.test),
    }
    return Adapter.of(loaded, record.backbone, record.classes, record.preprocessing, about)


def _score_json(score: Score | None) -> dict[str, Any] | None:
    return None if score is None else score._asdict()


def backbone_record(run: Run, model: nn.Module) -> Record:
    """Return the record of a study's backbone.

    Args:
        run: The study.
        model: The backbone, which may be adapted but not merged.
    """
    context = run.context
    return Record(
        kind="backbone",
        classes=context.task.classes,
        # Images of arrays are squashed.
        preprocessing=Preprocessing.of(
            context.format,
            getattr(context.recipe.task, "crop_mode", "squash"),
            getattr(context.recipe.task, "value_range", None),
        ),
        backbone=Backbone.of(context.recipe.backbone, model),
        about={
            "study": run.study.study_name,
            "n_backbone_params": context.n_backbone_params,
            "digests": get_setting(run.study, "digests"),
            "versions": get_setting(run.study, "versions"),
        },
    )
