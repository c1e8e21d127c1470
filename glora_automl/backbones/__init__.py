"""Where backbones come from, and which of their layers can be adapted."""

from glora_automl.backbones._backbone import (
    BackboneSettings,
    check_backbone,
    check_pretraining,
    create_backbone,
    create_from_checkpoint,
    create_model,
    input_format,
)
from glora_automl.backbones._layers import LayerGroup, list_layers
from glora_automl.backbones._local import one_line

__all__ = [
    "BackboneSettings",
    "LayerGroup",
    "check_backbone",
    "check_pretraining",
    "create_backbone",
    "create_from_checkpoint",
    "create_model",
    "input_format",
    "list_layers",
    "one_line",
]
