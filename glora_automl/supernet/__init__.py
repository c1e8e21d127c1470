"""Activate, train, evaluate and checkpoint the weight-shared supernet."""

from glora_automl.supernet._checkpoint import load_checkpoint, save_checkpoint, tensor_digest
from glora_automl.supernet._evaluation import Score, evaluate
from glora_automl.supernet._supernet import Supernet
from glora_automl.supernet._training import (
    SupernetSettings,
    TrainingResult,
    TrainingSettings,
    seeded,
    stage_rng,
    train,
)

__all__ = [
    "Score",
    "Supernet",
    "SupernetSettings",
    "TrainingResult",
    "TrainingSettings",
    "evaluate",
    "load_checkpoint",
    "save_checkpoint",
    "seeded",
    "stage_rng",
    "tensor_digest",
    "train",
]
