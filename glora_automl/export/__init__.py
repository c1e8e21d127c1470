"""Taking an adapter home: verified files for timm, PEFT, ONNX Runtime and this package."""

from glora_automl.export._adapter import (
    Adapter,
    attach_adapter,
    load_adapter,
    load_adapters,
    read_adapter,
    save_adapter,
)
from glora_automl.export._apply import Applied, apply
from glora_automl.export._export import Export, export_model
from glora_automl.export._record import Backbone, Preprocessing, Record, backbone_digest

__all__ = [
    "Adapter",
    "Applied",
    "Backbone",
    "Export",
    "Preprocessing",
    "Record",
    "apply",
    "attach_adapter",
    "backbone_digest",
    "export_model",
    "load_adapter",
    "load_adapters",
    "read_adapter",
    "save_adapter",
]
