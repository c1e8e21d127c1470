"""Export as a PEFT adapter, with one configuration for all layers.

A scalar is a vector of equal entries, and a broadcast vector is a product of rank 1. The largest
rank of all layers therefore expresses any architecture exactly.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from glora_automl._extras import require
from glora_automl._messages import one_line
from glora_automl.adapters import classifiers, linear_shapes
from glora_automl.architecture import TENSORS, Architecture, LayerChoices
from glora_automl.errors import ExportError
from glora_automl.export._adapter import Adapter
from glora_automl.export._record import FILES

__all__ = ["check_peft", "load_peft", "peft_choices", "require_peft", "write_peft"]

PathKind = Literal["lora", "vector", "constant", "none"]


def require_peft() -> Any:
    """Import PEFT.

    Raises:
        ExportError: If it is not installed or has no GLoRA.
    """
    peft = require("peft", "peft", ExportError)
    if not hasattr(peft, "GloraConfig"):
        raise ExportError(
            f"PEFT must be 0.20 or later, which has GLoRA, got {peft.__version__}. Run pip install "
            '"peft>=0.20".'
        )
    return peft


def check_peft(backbone: nn.Module, architecture: Architecture, example: Tensor) -> None:
    """Refuse an architecture that PEFT's GLoRA layers cannot express.

    Args:
        backbone: The backbone.
        architecture: The architecture.
        example: Images ``(batch, channels, height, width)``.

    Raises:
        ExportError: If no layer is adapted, or if an adapted layer is no ``nn.Linear``, is never
            called by the model, or has no bias while C or E adds one.
    """
    shapes = linear_shapes(backbone, example=example)
    adapted = _adapted(architecture)
    if not adapted:
        raise ExportError(
            "A PEFT adapter must adapt at least one layer, got an architecture without any. Choose "
            "`to` 'timm' or 'adapter'."
        )
    for name in adapted:
        layer, choices = backbone.get_submodule(name), architecture[name]
        reason = None
        if type(layer) is not nn.Linear:
            reason = f"class {type(layer).__name__}"
        elif not shapes[name].takes_bias:
            reason = "the model reads its weight without calling it"
        elif not shapes[name].bias and (choices.C.kind != "none" or choices.E.kind != "none"):
            reason = "C or E adds a bias to a layer without one"
        if reason is not None:
            raise ExportError(
                "Layers of a PEFT adapter must be nn.Linear, called by the model, without added "
                f"bias, got {name!r}: {reason}. Choose `to` 'adapter' or 'onnx'."
            )


def _adapted(architecture: Architecture) -> list[str]:
    return [name for name, choices in architecture.items() if choices != LayerChoices()]


def peft_choices(architecture: Architecture) -> tuple[int, PathKind, PathKind, PathKind]:
    """Return the smallest PEFT configuration that expresses all layers.

    Returns:
        ``r``, ``config_A_B``, ``config_C`` and ``config_D_E`` of ``peft.GloraConfig``.

    Example:
        >>> peft_choices(Architecture.parse('''
        ... blocks.0.attn.qkv: B=lora-4 E=vector
        ... blocks.0.attn.proj: A=scalar
        ... '''))
        (4, 'lora', 'none', 'vector')
        >>> peft_choices(Architecture.parse("blocks.0.attn.qkv: A=scalar C=lora-2"))
        (1, 'constant', 'vector', 'none')
    """
    layers = list(architecture.values())
    weights = [choice for layer in layers for choice in (layer.A, layer.B)]
    biases = {choice.kind for layer in layers for choice in (layer.D, layer.E)}
    kinds = {choice.kind for choice in weights}
    # "constant" stores one number per tensor, "none" stores zeros of the weight's size.
    config_ab: PathKind = "constant"
    if kinds & {"lora", "vector"}:
        config_ab = "lora" if "lora" in kinds else "vector"
    config_de: PathKind = "none"
    if biases != {"none"}:
        config_de = "vector" if "vector" in biases else "constant"
    config_c: PathKind = "none" if all(layer.C.kind == "none" for layer in layers) else "vector"
    return max(1, *(choice.rank for choice in weights)), config_ab, config_c, config_de


def write_peft(folder: Path, backbone: nn.Module, adapter: Adapter) -> list[str]:
    """Write a folder that ``peft.PeftModel.from_pretrained`` loads onto the backbone.

    Args:
        folder: Folder to write to.
        backbone: The backbone with a head for the adapter's classes; changed in place.
        adapter: The adapter.

    Returns:
        Names of the files.

    Raises:
        ExportError: As :func:`require_peft` does.
    """
    peft = require_peft()
    rank, config_ab, config_c, config_de = peft_choices(adapter.architecture)
    adapted = _adapted(adapter.architecture)
    heads = {id(module) for module in classifiers(backbone)}
    saved = [name for name, module in backbone.named_modules() if id(module) in heads]
    config = peft.GloraConfig(
        r=rank,
        # A regular expression, because a list would match every name with such an ending.
        target_modules="|".join(map(re.escape, adapted)),
        modules_to_save=saved,
        config_A_B=config_ab,
        config_C=config_c,
        config_D_E=config_de,
        inference_mode=True,
    )
    backbone.name_or_path = adapter.record.backbone.hub or adapter.record.backbone.model  # type: ignore[assignment]
    with warnings.catch_warnings():
        # PEFT reads an attribute that transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        model = peft.get_peft_model(backbone, config)
    for name in adapted:
        for tensor in TENSORS:
            paths: Any = getattr(backbone.get_submodule(name), f"glora_{tensor}")
            _fill(paths["default"], _parts(adapter.tensors, f"{name}.{tensor}_"))
    for name in saved:
        copies: Any = backbone.get_submodule(name).modules_to_save
        copies["default"].load_state_dict(_parts(adapter.tensors, f"{name}."), strict=False)
    # Otherwise PEFT would ask the hub for embeddings to save.
    model.save_pretrained(folder, save_embedding_layers=False)
    return list(FILES["peft"])


def _parts(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors with a name prefix, by the rest of their names."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


@torch.no_grad()
def _fill(path: Any, parts: Mapping[str, Tensor]) -> None:
    """Copy a support tensor into PEFT's parameters.

    Args:
        path: Module with ``Xd (out, r)`` and ``Xu (r, in)``, or with ``X``, which is a column, a
            vector or one number.
        parts: ``left`` and ``right``, ``vector`` or ``scalar``; zero without any.
    """
    for parameter in path.parameters():
        parameter.zero_()
    if not parts:
        return
    if not hasattr(path, "Xd"):
        if "left" in parts:
            path.X.copy_(parts["left"] @ parts["right"])
        else:
            (value,) = parts.values()
            path.X.copy_(value.reshape(path.X.shape) if value.ndim else value.expand_as(path.X))
    elif "left" in parts:
        rank = parts["left"].shape[1]
        path.Xd[:, :rank] = parts["left"]
        path.Xu[:rank] = parts["right"]
    else:
        (value,) = parts.values()
        path.Xd[:, 0] = value
        path.Xu[0] = 1


def load_peft(folder: Path, backbone: nn.Module, *, merge: bool) -> nn.Module:
    """Load the export by PEFT.

    Args:
        folder: Folder of the export.
        backbone: The backbone with a head for the adapter's classes; changed in place.
        merge: Whether the adapter is merged into plain layers.

    Raises:
        ExportError: As :func:`require_peft` does, or if PEFT cannot load it.
    """
    peft = require_peft()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # as in write_peft
            model = peft.PeftModel.from_pretrained(backbone, str(folder))
    except Exception as error:  # PEFT's exceptions have no common class
        raise ExportError(
            f"PEFT {peft.__version__} cannot load {str(folder)!r}: {one_line(error)}. Export again."
        ) from error
    plain: nn.Module = model.merge_and_unload() if merge else model
    return plain.eval()
