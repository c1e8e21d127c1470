"""Taking an adapter home: verified files for timm, PEFT, ONNX Runtime and this package."""

from glora_automl.export._adapter import (
    Adapter,
    attach_adapter,
    load_adapter,
    load_adapters,
    read_adapter,
    save_adapter,
)
from glora_automl.export._record import Backbone, Preprocessing, Record, backbone_digest

__all__ = [
    "Adapter",
    "Backbone",
    "Preprocessing",
    "Record",
    "attach_adapter",
    "backbone_digest",
    "load_adapter",
    "load_adapters",
    "read_adapter",
    "save_adapter",
]
