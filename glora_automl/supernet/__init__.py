"""The weight-shared supernet: activate, merge, score."""

from glora_automl.supernet._scorer import Scorer
from glora_automl.supernet._supernet import Supernet

__all__ = [
    "Scorer",
    "Supernet",
]
