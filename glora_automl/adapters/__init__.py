"""Adapted layers: attach, activate, merge, detach. It needs torch only."""

from glora_automl.adapters._adaptable import classifiers, linear_shapes, unadaptable
from glora_automl.adapters._attach import activate, activate_layers, adapted_layers, attach, detach
from glora_automl.adapters._layer import GLoRALinear, is_scaling
from glora_automl.adapters._merge import MergeHandle, merge
from glora_automl.adapters._merged import MergedModel
from glora_automl.adapters._modes import evaluation_mode

__all__ = [
    "GLoRALinear",
    "MergeHandle",
    "MergedModel",
    "activate",
    "activate_layers",
    "adapted_layers",
    "attach",
    "classifiers",
    "detach",
    "evaluation_mode",
    "is_scaling",
    "linear_shapes",
    "merge",
    "unadaptable",
]
