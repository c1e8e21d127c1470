"""Attributes of a study, checked when they are read back from a storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import optuna
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field

from glora_automl._declarations import Count, Float, Int, Sha256, validate
from glora_automl._messages import short
from glora_automl.architecture import Architecture, LayerShape
from glora_automl.errors import GLoRAError, StudyError
from glora_automl.samplers import is_feasible
from glora_automl.study._classes import ClassReport
from glora_automl.study._comparison import Comparison
from glora_automl.study._ladder import Ladder
from glora_automl.study._outcomes import BackboneOutcome, Done, SelectOutcome, SupernetOutcome
from glora_automl.study._ranking import CONSTRAINT
from glora_automl.study._record import Record
from glora_automl.study._result import Row, Selection
from glora_automl.study._stages import StageName

__all__ = [
    "RECORDS",
    "KeptSettings",
    "TrialAttributes",
    "check_attributes",
    "check_settings",
    "check_stage_trials",
]

ALTERED = "The study was altered or comes from another version."

Text = Annotated[str, Field(max_length=4096)]
Usage = Annotated[Float, Field(ge=0, le=1e18)] | None


class _Kept(BaseModel):
    """Base of the models; a later version may have further keys."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class KeptSettings(_Kept):
    """The attribute ``settings``, see :class:`Settings`."""

    recipe: dict[str, Any]
    budget: Count
    target: Count
    digests: dict[Text, Text]
    versions: dict[Text, Text]
    heartbeat: Annotated[Float, Field(ge=1, le=1e6)]
    artifacts: Text
    layers: dict[Text, LayerShape]
    key: Text
    initial: list[Text]
    warm_start: Text | None
    ranking: Text | None
    reopened: Count


class _Usage(_Kept):
    """Memory and energy of a stage or trial."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    peak_mib: Usage = None
    gpu_mib: Usage = None
    joules: Usage = None


class TrialAttributes(_Kept):
    """Attributes of a trial.

    Attributes:
        worker: Name of the worker that evaluated it.
        trainable_params: Trainable parameters of its architecture.
        validation_images: Images that its scores are means over.
        validation_accuracy: Fraction of correct validation images. Without held-out images the
            supernet has learnt from them.
        validation_loss: Mean cross-entropy on the validation images, in nats.
        peak_mib: Peak memory of the worker's process, in MiB.
        gpu_mib: Most memory that torch allocated on the GPU, in MiB.
        joules: Energy of the GPU, other processes included.
    """

    worker: Text = ""
    trainable_params: Count | None = None
    validation_images: Count = 0
    validation_accuracy: Annotated[Float, Field(ge=0, le=1)] | None = None
    validation_loss: float | None = None
    peak_mib: Usage = None
    gpu_mib: Usage = None
    joules: Usage = None


class _Artifact(_Kept):
    id: Annotated[str, Field(max_length=300)]
    sha256: Sha256
    size: Count


class _State(_Kept):
    losses: list[float]
    step: Int = 0


class _CheckpointRecord(_Kept):
    weights: Text
    sha256: Sha256
    state: _State


class _Checkpoint(_Kept):
    """A training's checkpoint, which other workers continue."""

    record: _CheckpointRecord
    artifact: _Artifact


class _StageTrial(_Kept):
    """Attributes of an attempt at a stage."""

    worker: Text
    stage: Text
    key: Text
    cost: _Usage = _Usage()
    checkpoint: _Checkpoint | None = None
    outcome: dict[str, Any] | None = None


def check_settings(study: optuna.Study | FrozenStudy) -> KeptSettings:
    """Check the settings that a study was created with.

    Raises:
        StudyError: If one is missing or altered; the message names it.
    """
    where = f"The study {short(study.study_name)}: settings"
    found = study.user_attrs.get("glora:settings")
    return validate(KeptSettings, found, where, StudyError, hint=ALTERED)


def check_attributes(study: optuna.Study | FrozenStudy, trials: Sequence[FrozenTrial]) -> None:
    """Check the attributes of a study and its trials that this package reads.

    Args:
        study: A study of this package.
        trials: Its trials.

    Raises:
        StudyError: If one is missing or altered; the message names it.
    """
    where = f"The study {short(study.study_name)}"
    found = {k.removeprefix("glora:"): v for k, v in study.user_attrs.items()}
    settings = check_settings(study)
    for key, kind in RECORDS.items():
        if (value := found.get(key)) is not None:
            kind.from_json(value)
    if (rows := found.get("result")) is not None:
        if not isinstance(rows, list) or not rows:
            raise StudyError(f"{where}: result must be a list of rows, got {short(rows)}.")
        for row in rows:
            Row.from_json(row)
    if (selection := found.get("selection")) is not None:
        architecture = Architecture.parse(Selection.from_json(selection).architecture)
        if unknown := sorted(set(architecture) - set(settings.layers)):
            raise StudyError(
                f"{where}: the selected architecture must have layers of the study, got "
                f"{short(unknown[0])}."
            )
    for trial in trials:
        name = f"{where}: trial {trial.number}"
        kept = validate(TrialAttributes, trial.user_attrs, name, StudyError, hint=ALTERED)
        complete = trial.state == TrialState.COMPLETE
        if complete and kept.trainable_params is None and is_feasible(trial):
            raise StudyError(f"{name}: the key {CONSTRAINT!r} is required and missing.")


RECORDS: dict[str, type[Record]] = {
    "backbone": BackboneOutcome,
    "supernet": SupernetOutcome,
    "selection": Selection,
    "ladder": Ladder,
    "classes": ClassReport,
    "comparison": Comparison,
}
"""Records among the attributes of a study, by name."""


def check_stage_trials(name: str, trials: Sequence[FrozenTrial]) -> None:
    """Check the attributes of the attempts at a study's stages.

    Args:
        name: Name of the study.
        trials: The attempts.

    Raises:
        StudyError: If one is missing or altered; the message names it.
    """
    for trial in trials:
        where = f"The study {short(name)}: stage attempt {trial.number}"
        kept = validate(_StageTrial, trial.user_attrs, where, StudyError, hint=ALTERED)
        try:
            StageName.parse(kept.stage)
        except ValueError:
            raise StudyError(f"{where}: stage must be known, got {short(kept.stage)}.") from None
        if kept.outcome is None:
            if trial.state == TrialState.COMPLETE:
                raise StudyError(f"{where}: the key 'outcome' is required and missing.")
            continue
        try:
            Done.from_json({"spent": kept.outcome.get("spent", {})})
            if "budget" in kept.outcome:
                SelectOutcome.from_json(kept.outcome)
        except GLoRAError as error:
            raise StudyError(f"{where}: {error}") from None
