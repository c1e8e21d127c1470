"""The weight-shared supernet: activation, merging, truncation and scoring of architectures."""

from glora_automl.supernet._scorer import Scorer
from glora_automl.supernet._supernet import Supernet
from glora_automl.supernet._truncation import (
    allowed_choices,
    component_norms,
    is_truncation,
    order_factors,
    truncate,
    widest_architecture,
)

__all__ = [
    "Scorer",
    "Supernet",
    "allowed_choices",
    "component_norms",
    "is_truncation",
    "order_factors",
    "truncate",
    "widest_architecture",
]
