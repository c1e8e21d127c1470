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
    ScoreFunction,
    batch_logits,
    efficient_batch_size,
    evaluate,
    temperature_scaled_loss,
)
from glora_automl.training._metrics import (
    METRICS,
    MetricName,
    ObjectiveName,
    is_minimized,
    metric_function,
    metric_value,
    takes_probabilities,
)
from glora_automl.training._process_group import ProcessGroup
from glora_automl.training._seeding import seeded, stage_rng
from glora_automl.training._settings import ClassWeight, TrainingSettings
from glora_automl.training._train import TrainingResult, train

__all__ = [
    "METRICS",
    "CheckpointFiles",
    "ClassWeight",
    "Converted",
    "ImageBatches",
    "Joined",
    "MetricName",
    "ObjectiveName",
    "ProcessGroup",
    "Reordered",
    "Score",
    "ScoreFunction",
    "TrainingResult",
    "TrainingSettings",
    "batch_logits",
    "batches",
    "efficient_batch_size",
    "evaluate",
    "is_minimized",
    "load_checkpoint",
    "load_tensors",
    "metric_function",
    "metric_value",
    "save_checkpoint",
    "save_tensors",
    "seeded",
    "stage_rng",
    "takes_probabilities",
    "temperature_scaled_loss",
    "tensor_digest",
    "train",
]
