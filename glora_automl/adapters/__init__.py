"""What one adapted layer computes; attach, activate, merge, detach. Needs torch alone."""

from glora_automl.adapters._attach import (
    activate,
    adapted_layers,
    attach,
    classifiers,
    detach,
    is_adaptable,
    linear_shapes,
)
from glora_automl.adapters._layer import GLoRALinear
from glora_automl.adapters._merge import MergeHandle, merge

__all__ = [
    "GLoRALinear",
    "MergeHandle",
    "activate",
    "adapted_layers",
    "attach",
    "classifiers",
    "detach",
    "is_adaptable",
    "linear_shapes",
    "merge",
]
