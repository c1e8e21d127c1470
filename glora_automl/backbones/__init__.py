"""Backbones: creation, checkpoints, input format and layers that can be adapted."""

from typing import TYPE_CHECKING

from glora_automl._lazy import lazy_names

if TYPE_CHECKING:
    from glora_automl.backbones._candidates import LISTS, CandidateBackbone, in_folder
    from glora_automl.backbones._create import create_backbone, create_from_checkpoint
    from glora_automl.backbones._head import fit_head, frozen_features
    from glora_automl.backbones._kwargs import ModelKwargs, check_kwargs
    from glora_automl.backbones._layers import LayerGroup, list_layers
    from glora_automl.backbones._model import (
        check_backbone,
        check_name,
        create_model,
        input_format,
        set_pretrained_cfg,
    )
    from glora_automl.backbones._module import (
        check_outputs,
        copy_module,
        module_format,
        name_head,
        prepare_module,
        restore_module,
    )
    from glora_automl.backbones._names import PREFIX
    from glora_automl.backbones._pretraining import check_pretraining
    from glora_automl.backbones._ridge import forward_latency, leave_one_out_accuracy
    from glora_automl.backbones._settings import AUTO, BackboneSettings
    from glora_automl.backbones._source import BackboneSource, Deviation, Mean
    from glora_automl.backbones._transformers import (
        as_transformers,
        is_transformers,
        logits_model,
        quiet_transformers,
        transformers_config,
    )

__all__ = [
    "AUTO",
    "LISTS",
    "PREFIX",
    "BackboneSettings",
    "BackboneSource",
    "CandidateBackbone",
    "Deviation",
    "LayerGroup",
    "Mean",
    "ModelKwargs",
    "as_transformers",
    "check_backbone",
    "check_kwargs",
    "check_name",
    "check_outputs",
    "check_pretraining",
    "copy_module",
    "create_backbone",
    "create_from_checkpoint",
    "create_model",
    "fit_head",
    "forward_latency",
    "frozen_features",
    "in_folder",
    "input_format",
    "is_transformers",
    "leave_one_out_accuracy",
    "list_layers",
    "logits_model",
    "module_format",
    "name_head",
    "prepare_module",
    "quiet_transformers",
    "restore_module",
    "set_pretrained_cfg",
    "transformers_config",
]

__getattr__, __dir__ = lazy_names(__name__)
