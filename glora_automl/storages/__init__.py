"""Storages of studies and their artifacts, without torch."""

from glora_automl.storages._artifacts import (
    ArtifactReference,
    Artifacts,
    default_artifacts,
    open_artifacts,
)
from glora_automl.storages._location import absolute_url, full_location, portable_location
from glora_automl.storages._open import (
    GRACE,
    default_url,
    hold_writes,
    last_trouble,
    open_storage,
    quiet_optuna,
    record_heartbeat,
    set_heartbeat,
    shown_location,
    storage_errors,
)
from glora_automl.storages._patience import PatientStorage
from glora_automl.storages._view import Projection, StudyView

__all__ = [
    "GRACE",
    "ArtifactReference",
    "Artifacts",
    "PatientStorage",
    "Projection",
    "StudyView",
    "absolute_url",
    "default_artifacts",
    "default_url",
    "full_location",
    "hold_writes",
    "last_trouble",
    "open_artifacts",
    "open_storage",
    "portable_location",
    "quiet_optuna",
    "record_heartbeat",
    "set_heartbeat",
    "shown_location",
    "storage_errors",
]
