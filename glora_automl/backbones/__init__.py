"""Backbones: creation, checkpoints, input format and layers that can be adapted."""

from glora_automl.backbones._create import create_backbone, create_from_checkpoint
from glora_automl.backbones._head import fit_head
from glora_automl.backbones._kwargs import ModelKwargs, check_kwargs
from glora_automl.backbones._layers import LayerGroup, list_layers
from glora_automl.backbones._model import check_backbone, create_model, input_format
from glora_automl.backbones._module import check_outputs, module_format, name_head
from glora_automl.backbones._pretraining import check_pretraining
from glora_automl.backbones._settings import BackboneSettings, Deviation, Mean

__all__ = [
    "BackboneSettings",
    "Deviation",
    "LayerGroup",
    "Mean",
    "ModelKwargs",
    "check_backbone",
    "check_kwargs",
    "check_outputs",
    "check_pretraining",
    "create_backbone",
    "create_from_checkpoint",
    "create_model",
    "fit_head",
    "input_format",
    "list_layers",
    "module_format",
    "name_head",
]
