"""An export on this machine: ready to compute logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glora_automl._declarations import validate
from glora_automl.backbones import BackboneSettings, create_from_checkpoint, create_model
from glora_automl.errors import ExportError
from glora_automl.export._adapter import check_backbone_digest, load_adapter
from glora_automl.export._onnx import load_onnx
from glora_automl.export._peft import load_peft
from glora_automl.export._record import FILES, Record, read_record
from glora_automl.export._timm import load_timm

__all__ = ["Opened", "create_backbone", "open_export"]


class Opened(NamedTuple):
    """An export that is ready.

    Attributes:
        record: What it says of itself.
        logits: Images ``(batch, channels, height, width)`` to logits ``(batch, classes)``, both on
            :attr:`device`.
        device: Where it computes.
    """

    record: Record
    logits: Callable[[Tensor], Tensor]
    device: torch.device


def open_export(path: Path, *, backbone: str | None, device: torch.device) -> Opened:
    """Check an export and load it, merged.

    Args:
        path: Its folder.
        backbone: Weights of an adapter's backbone, if timm does not download them; see
            :func:`create_backbone`.
        device: Where it is to compute; an ONNX graph computes on the CPU.

    Raises:
        ExportError: If it is none, altered or cut short, or its backbone is another one or
            missing.
        TaskError: If the backbone cannot be read.
    """
    record = read_record(path, "timm", "adapter", "peft", "onnx")
    if record.kind in ("timm", "onnx") and backbone is not None:
        raise ExportError(
            f"An export of kind {record.kind!r} has its weights with it, got --backbone "
            f"{backbone!r}; leave it out."
        )
    if record.kind == "onnx":
        return Opened(record, load_onnx(path), torch.device("cpu"))
    if record.kind == "timm":
        model = load_timm(path, record)
    else:
        model = create_backbone(record, backbone)
        if record.kind == "adapter":
            model = load_adapter(model, path, merge=True)
        else:
            check_backbone_digest(model, record, str(path))
            model = load_peft(path, model, merge=True)
    return Opened(record, model.to(device), device)


def create_backbone(record: Record, backbone: str | None) -> nn.Module:
    """The backbone of an adapter, with a head of the adapter's size.

    Args:
        record: The adapter's.
        backbone: A file of its weights, as ``backbone.checkpoint`` of a recipe takes it, or the
            folder that ``glora export --to backbone`` writes. None lets timm download them.

    Raises:
        ExportError: If it is to be given.
        TaskError: If timm cannot create or read it.
    """
    known, classes = record.backbone, len(record.classes)
    settings = BackboneSettings(model=known.model, kwargs=known.kwargs)
    if backbone is None:
        if not known.pretrained:
            raise ExportError(
                f"The weights of the backbone {known.model!r} with digest {known.digest[:16]}... "
                "must be given, as timm does not have them: add --backbone with their file, or "
                f"with what 'glora export {record.about.get('study', 'NAME')} --to backbone' "
                "writes."
            )
        return create_model(settings.model_copy(update={"pretrained": True}), classes, 0)
    path = Path(backbone)
    file = path / FILES["backbone"][0] if path.is_dir() else path
    # Through the checks that a recipe's checkpoint goes through.
    given = {**settings.model_dump(), "checkpoint": str(file)}
    return create_from_checkpoint(
        validate(BackboneSettings, given, "--backbone", ExportError), classes, 0
    )
