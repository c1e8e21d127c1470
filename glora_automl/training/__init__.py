"""The training loop, evaluation and checkpoints."""

from glora_automl.training._batches import Converted, ImageBatches, Joined, Reordered, batches
from glora_automl.training._checkpoint import (
    CheckpointFiles,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    tensor_digest,
)
from glora_automl.training._evaluation import (
    Score,
    evaluate,
    paying_batch_size,
    temperature_scaled_loss,
)
from glora_automl.training._process_group import ProcessGroup
from glora_automl.training._train import (
    SupernetSettings,
    TrainingResult,
    TrainingSettings,
    seeded,
    stage_rng,
    train,
)

__all__ = [
    "CheckpointFiles",
    "Converted",
    "ImageBatches",
    "Joined",
    "ProcessGroup",
    "Reordered",
    "Score",
    "SupernetSettings",
    "TrainingResult",
    "TrainingSettings",
    "batches",
    "evaluate",
    "load_checkpoint",
    "load_tensors",
    "paying_batch_size",
    "save_checkpoint",
    "save_tensors",
    "seeded",
    "stage_rng",
    "temperature_scaled_loss",
    "tensor_digest",
    "train",
]
