"""Loading of an export for prediction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glora_automl._declarations import validate
from glora_automl._files import user_path
from glora_automl.backbones import PREFIX, BackboneSettings, create_from_checkpoint, create_model
from glora_automl.errors import ExportError
from glora_automl.export._adapter import check_backbone_digest, load_adapter
from glora_automl.export._onnx import load_onnx
from glora_automl.export._peft import load_peft
from glora_automl.export._record import BACKBONE, FILES, RECORD, Record, read_record
from glora_automl.export._timm import load_timm
from glora_automl.export._transformers import load_transformers

__all__ = ["LoadedExport", "create_backbone", "open_export"]


class LoadedExport(NamedTuple):
    """Loaded export.

    Attributes:
        record: Record of the export.
        logits: Images ``(batch, channels, height, width)`` to logits ``(batch, classes)``, both on
            :attr:`device`.
        device: Device of the model.
    """

    record: Record
    logits: Callable[[Tensor], Tensor]
    device: torch.device


def open_export(path: Path, *, backbone: str | None, device: torch.device) -> LoadedExport:
    """Check an export and load it, merged.

    Args:
        path: Folder of the export.
        backbone: Weights of an adapter's backbone, see :func:`create_backbone`.
        device: Device of the model; graphs run on the CPU.

    Raises:
        ExportError: If the folder is no export or a program, a file is altered, or the backbone is
            missing or another one.
        TaskError: If the backbone cannot be read.
    """
    record = read_record(path, "timm", "adapter", "peft", "onnx", "pt2", "transformers")
    if record.kind == "pt2":
        # Its sizes and guards are texts that torch evaluates as Python.
        raise ExportError(
            "`path` must be an export that runs no code of its file, got the program "
            f"{str(path)!r}. Export to 'timm' or 'onnx'. torch.export.load loads your own programs."
        )
    if record.kind not in ("adapter", "peft") and backbone is not None:
        raise ExportError(
            f"`backbone` must be None for an export of kind {record.kind!r}, which holds all "
            f"weights, got {backbone!r}. Leave out `backbone`."
        )
    if record.kind == "onnx":
        return LoadedExport(record, load_onnx(path, record), torch.device("cpu"))
    if record.kind == "timm":
        model = load_timm(path, record)
    elif record.kind == "transformers":
        model = load_transformers(path)
    else:
        if backbone is None and (path / BACKBONE / RECORD).is_file():
            backbone = str(path / BACKBONE)
        model = create_backbone(record, backbone)
        if record.kind == "adapter":
            model = load_adapter(model, path, merge=True)
        else:
            check_backbone_digest(model, record, str(path))
            model = load_peft(path, model, merge=True)
    return LoadedExport(record, model.to(device), device)


def create_backbone(record: Record, backbone: str | None) -> nn.Module:
    """Create the backbone of an adapter, with a head for the adapter's classes.

    Args:
        record: Record of the adapter.
        backbone: Weight file, as ``backbone.checkpoint`` of a recipe takes it, or folder of a
            ``backbone`` export. None lets timm or transformers download the weights.

    Raises:
        ExportError: If the weights are missing.
        TaskError: If timm cannot create or read the backbone.
    """
    known, n_classes = record.backbone, len(record.classes)
    settings = validate(
        BackboneSettings,
        {"model": known.model, "kwargs": known.kwargs},
        "the backbone of the export",
        ExportError,
    )
    if backbone is None:
        if not known.pretrained:
            raise ExportError(
                f"`backbone` must be weights of {known.model!r} with digest "
                f"{known.digest[:16]}..., which timm cannot download, got None. Set `backbone` to "
                "their file, or to an export of the study with `to` 'backbone'."
            )
        return create_model(settings.model_copy(update={"pretrained": True}), n_classes, 0)
    path = user_path(backbone, "backbone", ExportError)
    if path.is_dir():
        read_record(path, "backbone")
        if known.model.startswith(PREFIX):
            return create_model(
                BackboneSettings(model=f"{PREFIX}{path}", pretrained=True), n_classes, 0
            )
    file = path / FILES["backbone"][0] if path.is_dir() else path
    # Validated like a recipe's checkpoint, which refuses pickles.
    table = {**settings.model_dump(), "checkpoint": str(file)}
    return create_from_checkpoint(
        validate(BackboneSettings, table, "`backbone`", ExportError), n_classes, 0
    )
