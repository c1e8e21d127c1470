"""Export as a plain timm model: merged weights, and a configuration in the format of timm's hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
from timm.data.config import resolve_model_data_config
from timm.models import save_for_hf
from torch import nn

from glora_automl._files import read_file
from glora_automl._messages import one_line, short
from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture
from glora_automl.backbones import check_kwargs
from glora_automl.errors import ExportError
from glora_automl.export._record import FILES, MAX_BYTES, Record

__all__ = ["check_timm", "load_timm", "write_timm"]

_RUNTIME = ("pretrained_cfg_overlay", "drop_rate", "drop_path_rate", "drop_block_rate")
"""Arguments of ``timm.create_model`` that do not change the weights."""


def check_timm(backbone: nn.Module, architecture: Architecture) -> None:
    """Refuse an architecture that adds a bias to a layer of the backbone without one.

    Raises:
        ExportError: If C or E of such a layer is not ``none``.
    """
    if layers := added_biases(backbone, architecture):
        raise ExportError(
            "C and E must be none for layers without bias in a plain model of timm or "
            f"transformers, got one for {_shortened(layers)}. Choose `to` 'adapter' or 'onnx'."
        )


def added_biases(backbone: nn.Module, architecture: Architecture) -> list[str]:
    """Return the names of layers without bias to which C or E adds one."""
    shapes = linear_shapes(backbone)
    return [
        name
        for name, choices in architecture.items()
        if not shapes[name].bias and (choices.C.kind != "none" or choices.E.kind != "none")
    ]


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def write_timm(folder: Path, model: nn.Module, record: Record) -> list[str]:
    """Write ``model.safetensors`` and ``config.json``, which timm and transformers load.

    Args:
        folder: Folder to write to.
        model: The merged model; its configuration is changed in place.
        record: Record of the export.

    Returns:
        Names of the files.
    """
    record.configure(model)
    kwargs = {k: v for k, v in record.backbone.kwargs.items() if k not in _RUNTIME}
    names = dict(enumerate(record.classes))
    labels = {
        "label_names": list(record.classes),
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
    }
    save_for_hf(model, str(folder), model_config=labels, model_args=kwargs, safe_serialization=True)
    weights, path = (folder / name for name in FILES["timm"])
    # transformers reads safetensors of this format alone.
    safetensors.torch.save_file(model.state_dict(), weights, metadata={"format": "pt"})
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["pretrained_cfg"].pop("label_names", None)  # they are beside it
    # transformers passes both the arguments and the number of labels to timm.
    config.get("model_args", {}).pop("num_classes", None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return list(FILES["timm"])


def _check_config(path: Path) -> None:
    """Check that a configuration names no other files than those beside it.

    Raises:
        ExportError: If it does, or is no JSON.
    """
    try:
        config = json.loads(read_file(path, MAX_BYTES))
        check_kwargs(dict(config.get("model_args") or {}))
        known = config.get("pretrained_cfg") or {}
        if foreign := [key for key in ("file", "state_dict") if known.get(key)]:
            raise ValueError(f"pretrained_cfg.{foreign[0]} is set")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ExportError(
            f"The file {short(str(path), 120)} must be the configuration of an export, got: "
            f"{one_line(error)}. Export again."
        ) from None


def load_timm(folder: Path, record: Record) -> nn.Module:
    """Load the export by timm and check its preprocessing.

    Raises:
        ExportError: If timm cannot load it, or if timm's preprocessing differs from the record's.
    """
    _check_config(folder / FILES["timm"][1])
    try:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # timm's exceptions have no common class
        raise ExportError(
            f"timm {timm.__version__} cannot load {str(folder)!r}: {one_line(error)}. Export again."
        ) from error
    preprocessing = record.preprocessing
    config: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    expected = {
        **preprocessing.model_dump(exclude={"size", "value_range"}),
        "input_size": preprocessing.size,
    }
    for key, value in expected.items():
        found = tuple(config[key]) if isinstance(config[key], list) else config[key]
        if found != value:
            raise ExportError(
                f"{key} of timm's preprocessing must be the study's {value}, got {found} for this "
                "model and version of timm. Choose `to` 'adapter' or 'onnx'."
            )
    return model.eval()
