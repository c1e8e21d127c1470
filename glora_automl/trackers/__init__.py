"""Trackers of experiments: MLflow, Weights & Biases and TensorBoard behind one protocol."""

from glora_automl.trackers._mlflow import MLflowTracker
from glora_automl.trackers._open import TRACKERS, open_tracker
from glora_automl.trackers._progress import TrackerProgress
from glora_automl.trackers._tensorboard import TensorBoardTracker
from glora_automl.trackers._tracker import GuardedTracker, Tracker
from glora_automl.trackers._wandb import WandbTracker

__all__ = [
    "TRACKERS",
    "GuardedTracker",
    "MLflowTracker",
    "TensorBoardTracker",
    "Tracker",
    "TrackerProgress",
    "WandbTracker",
    "open_tracker",
]
