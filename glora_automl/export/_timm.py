"""A plain timm model: merged weights, and a configuration as timm's hub has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from timm.data.config import resolve_model_data_config
from timm.models import save_for_hf
from torch import nn

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture
from glora_automl.backbones import one_line
from glora_automl.errors import ExportError
from glora_automl.export._record import FILES, Record

__all__ = ["check_timm", "load_timm", "write_timm"]

_RUNTIME = ("pretrained_cfg_overlay", "drop_rate", "drop_path_rate", "drop_block_rate")
"""Arguments of ``timm.create_model`` that leave no trace in the weights."""

_DROPPED = ("test_input_size", "test_crop_pct", "label_offset", "label_names", "state_dict")
"""What a backbone's configuration says of its own classes, and of sizes to test it at."""


_OF_WEIGHTS = ("url", "file", "hf_hub_id", "hf_hub_filename", "tag", "license", "origin_url")
"""What it says of the weights that timm has, not of others for the same model."""


def check_timm(backbone: nn.Module, architecture: Architecture) -> None:
    """Refuse an adapter that gives layers a bias which timm's model has not.

    Raises:
        ExportError: If it does.
    """
    if layers := biases_given(backbone, architecture):
        raise ExportError(
            f"A plain timm model cannot carry a bias where its own layer has none, but C or E "
            f"gives one to {_shown(layers)}; take --to adapter or --to onnx, or search with C and "
            'E "none" there.'
        )


def biases_given(backbone: nn.Module, architecture: Architecture) -> list[str]:
    """The layers without bias that C or E gives one."""
    shapes = linear_shapes(backbone)
    return [
        name
        for name, choices in architecture.items()
        if not shapes[name].bias and (choices.C.kind != "none" or choices.E.kind != "none")
    ]


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def write_timm(folder: Path, model: nn.Module, record: Record) -> list[str]:
    """Write ``model.safetensors`` and ``config.json``, which timm loads without this package.

    Args:
        folder: Where to.
        model: The merged model; its configuration is changed to what the record says.
        record: What is exported.

    Returns:
        Names of the files.
    """
    seen = record.preprocessing
    known: Any = model.pretrained_cfg
    dropped = _DROPPED if record.backbone.pretrained else (*_DROPPED, *_OF_WEIGHTS)
    config: Any = {key: value for key, value in known.items() if key not in dropped}
    config |= {
        "num_classes": len(record.classes),
        "input_size": seen.size,
        "interpolation": seen.interpolation,
        "crop_pct": seen.crop_pct,
        "crop_mode": seen.resize,
        "mean": seen.mean,
        "std": seen.std,
        "custom_load": False,  # the weights are timm's own by now, whatever they were
    }
    model.pretrained_cfg = config
    kwargs = {k: v for k, v in record.backbone.kwargs.items() if k not in _RUNTIME}
    save_for_hf(
        model,
        str(folder),
        model_config={"label_names": list(record.classes)},
        model_args=kwargs,
        safe_serialization=True,
    )
    return list(FILES["timm"])


def load_timm(folder: Path, record: Record) -> nn.Module:
    """Load it as timm does.

    Raises:
        ExportError: If timm cannot load it, or would prepare images for it in another way than the
            record says.
    """
    try:
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # whatever timm raises, the cause is in the files
        raise ExportError(
            f"timm {timm.__version__} cannot load {str(folder)!r}: {one_line(error)}; export it "
            "again."
        ) from error
    seen = record.preprocessing
    config: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    wanted = {**seen.model_dump(exclude={"size", "resize"}), "input_size": seen.size}
    for key, value in {**wanted, "crop_mode": seen.resize}.items():
        found = tuple(config[key]) if isinstance(config[key], list) else config[key]
        if found != value:
            raise ExportError(
                f"timm would prepare images with {key} = {found}, the study has {value}; "
                "with this model and this version of timm, take --to adapter or --to onnx."
            )
    return model.eval()
