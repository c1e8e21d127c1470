"""Verified exports of adapters for timm, PEFT, ONNX Runtime and this package, and predictions."""

from glora_automl.export._adapter import (
    Adapter,
    attach_adapter,
    load_adapter,
    load_adapters,
    read_adapter,
    save_adapter,
)
from glora_automl.export._export import Export, export_model
from glora_automl.export._predict import Predictions, predict
from glora_automl.export._record import Backbone, Preprocessing, Record, backbone_digest

__all__ = [
    "Adapter",
    "Backbone",
    "Export",
    "Predictions",
    "Preprocessing",
    "Record",
    "attach_adapter",
    "backbone_digest",
    "export_model",
    "load_adapter",
    "load_adapters",
    "predict",
    "read_adapter",
    "save_adapter",
]
