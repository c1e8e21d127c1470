"""Export of a backbone of transformers with merged weights, as transformers saves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from glora_automl._extras import require
from glora_automl._messages import one_line
from glora_automl.backbones import (
    as_transformers,
    logits_model,
    quiet_transformers,
    transformers_config,
)
from glora_automl.errors import ExportError
from glora_automl.export._record import FILES, Record

__all__ = ["check_processor", "load_transformers", "write_transformers"]

PROCESSOR = "preprocessor_config.json"


def check_processor(record: Record) -> None:
    """Check that an image processor of transformers can prepare images as the study does.

    Raises:
        ExportError: If it cannot.
    """
    if record.preprocessing.crop_mode == "border":
        raise ExportError(
            "`task.crop_mode` must be squash or center for transformers, got border. Choose `to` "
            "'onnx' or 'adapter'."
        )


def write_transformers(folder: Path, model: nn.Module, record: Record) -> list[str]:
    """Write weights, configuration and image processor for transformers.

    Args:
        folder: Folder to write to.
        model: The merged model of transformers; its configuration is changed in place.
        record: Record of the export.

    Returns:
        Names of the files.
    """
    plain: Any = as_transformers(model)
    try:
        plain.config.id2label = dict(enumerate(record.classes))
        plain.config.label2id = {name: index for index, name in enumerate(record.classes)}
        with quiet_transformers():
            plain.save_pretrained(folder)
    finally:
        logits_model(plain)
    table = transformers_config(record.preprocessing.format, record.preprocessing.crop_mode)
    (folder / PROCESSOR).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    return [*FILES["transformers"], PROCESSOR]


def load_transformers(folder: Path) -> nn.Module:
    """Load the export by transformers and return images to logits.

    Raises:
        ExportError: If transformers is not installed or cannot load it.
    """
    transformers = require("transformers", "transformers", ExportError)
    try:
        with quiet_transformers():
            model = transformers.AutoModelForImageClassification.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False
            )
    except Exception as error:  # the exceptions of transformers have no common class
        raise ExportError(
            f"transformers {transformers.__version__} cannot load {str(folder)!r}: "
            f"{one_line(error)}. Export again."
        ) from error
    return logits_model(model).eval()
