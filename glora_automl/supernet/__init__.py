"""Activate, train, evaluate and checkpoint the weight-shared supernet."""

from glora_automl.supernet._batches import ImageBatches, Joined, Reordered, batches
from glora_automl.supernet._checkpoint import (
    CheckpointFiles,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    tensor_digest,
)
from glora_automl.supernet._evaluation import Score, calibrated_loss, evaluate
from glora_automl.supernet._ranks import Ranks
from glora_automl.supernet._scorer import Scorer
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
    "CheckpointFiles",
    "ImageBatches",
    "Joined",
    "Ranks",
    "Reordered",
    "Score",
    "Scorer",
    "Supernet",
    "SupernetSettings",
    "TrainingResult",
    "TrainingSettings",
    "batches",
    "calibrated_loss",
    "evaluate",
    "load_checkpoint",
    "load_tensors",
    "save_checkpoint",
    "save_tensors",
    "seeded",
    "stage_rng",
    "tensor_digest",
    "train",
]
