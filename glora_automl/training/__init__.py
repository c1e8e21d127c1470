"""The training loop, evaluation and checkpoints."""

from typing import TYPE_CHECKING

from glora_automl._lazy import lazy_names

if TYPE_CHECKING:
    from glora_automl.training._batches import (
        Converted,
        ImageBatches,
        Joined,
        Reordered,
        Weighted,
        batches,
        weights_of,
    )
    from glora_automl.training._checkpoint import (
        CheckpointFiles,
        load_checkpoint,
        load_tensors,
        save_checkpoint,
        save_tensors,
        tensor_digest,
    )
    from glora_automl.training._evaluation import (
        batch_logits,
        batch_outputs,
        efficient_batch_size,
        evaluate,
        temperature_scaled_loss,
    )
    from glora_automl.training._memory import MicroBatching
    from glora_automl.training._metrics import metric_function
    from glora_automl.training._precision import Precision, half_dtype, resolve_precision
    from glora_automl.training._process_group import ProcessGroup
    from glora_automl.training._score import (
        METRICS,
        MetricName,
        ObjectiveName,
        Score,
        ScoreFunction,
        is_minimized,
        metric_value,
        takes_probabilities,
    )
    from glora_automl.training._seeding import seeded, stage_rng
    from glora_automl.training._settings import ClassWeight, TrainingSettings
    from glora_automl.training._train import PRETRAINING, TrainingResult, train

__all__ = [
    "METRICS",
    "PRETRAINING",
    "CheckpointFiles",
    "ClassWeight",
    "Converted",
    "ImageBatches",
    "Joined",
    "MetricName",
    "MicroBatching",
    "ObjectiveName",
    "Precision",
    "ProcessGroup",
    "Reordered",
    "Score",
    "ScoreFunction",
    "TrainingResult",
    "TrainingSettings",
    "Weighted",
    "batch_logits",
    "batch_outputs",
    "batches",
    "efficient_batch_size",
    "evaluate",
    "half_dtype",
    "is_minimized",
    "load_checkpoint",
    "load_tensors",
    "metric_function",
    "metric_value",
    "resolve_precision",
    "save_checkpoint",
    "save_tensors",
    "seeded",
    "stage_rng",
    "takes_probabilities",
    "temperature_scaled_loss",
    "tensor_digest",
    "train",
    "weights_of",
]

__getattr__, __dir__ = lazy_names(__name__)
