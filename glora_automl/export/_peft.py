"""An adapter for PEFT, which has one configuration for all layers.

A scalar is a vector of equal entries, and a vector, broadcast along the rows, is a product of rank
1. So any architecture is written exactly at the largest rank that one of its layers has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from glora_automl.adapters import classifiers, linear_shapes
from glora_automl.architecture import TENSORS, Architecture, LayerChoices
from glora_automl.backbones import one_line
from glora_automl.errors import ExportError
from glora_automl.export._adapter import Adapter
from glora_automl.export._extras import require
from glora_automl.export._record import FILES

__all__ = ["check_peft", "load_peft", "peft_choices", "require_peft", "write_peft"]

PathKind = Literal["lora", "vector", "constant", "none"]


def require_peft() -> Any:
    """Import PEFT.

    Raises:
        ExportError: If it is not installed, or has no GLoRA yet.
    """
    peft = require("peft", "peft")
    if not hasattr(peft, "GloraConfig"):
        raise ExportError(
            f"PEFT must have GLoRA, as from 0.20 on, got {peft.__version__}: pip install "
            '"peft>=0.20".'
        )
    return peft


def check_peft(backbone: nn.Module, architecture: Architecture, example: Tensor) -> None:
    """Refuse an architecture that PEFT's GLoRA layers cannot express.

    Args:
        backbone: The model that is adapted.
        architecture: The architecture.
        example: Images ``(batch, channels, height, width)``.

    Raises:
        ExportError: If a layer is no ``nn.Linear``, the model reads its weight without calling it,
            or C or E gives it a bias that it has not; or if no layer is adapted.
    """
    shapes = linear_shapes(backbone, example=example)
    adapted = _adapted(architecture)
    if not adapted:
        raise ExportError(
            "A PEFT adapter must adapt a layer, but of this architecture the head alone is "
            "trained; take --to timm or --to adapter."
        )
    for name in adapted:
        layer, choices = backbone.get_submodule(name), architecture[name]
        reason = None
        if type(layer) is not nn.Linear:
            reason = f"it is of class {type(layer).__name__}, PEFT takes nn.Linear"
        elif not shapes[name].takes_bias:
            reason = "the model reads its weight without calling it"
        elif not shapes[name].bias and (choices.C.kind != "none" or choices.E.kind != "none"):
            reason = "it has no bias, and C or E gives it one"
        if reason is not None:
            raise ExportError(
                f"PEFT's GLoRA cannot express the layer {name!r}: {reason}; take --to "
                "adapter or --to onnx."
            )


def _adapted(architecture: Architecture) -> list[str]:
    return [name for name, choices in architecture.items() if choices != LayerChoices()]


def peft_choices(architecture: Architecture) -> tuple[int, PathKind, PathKind, PathKind]:
    """The smallest configuration that expresses all layers: rank, A and B, C, D and E.

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
    # PEFT keeps zeros as large as the weight for A and B that are "none", and one number for these.
    of_weight: PathKind = "constant"
    if kinds & {"lora", "vector"}:
        of_weight = "lora" if "lora" in kinds else "vector"
    of_bias: PathKind = "none"
    if biases != {"none"}:
        of_bias = "vector" if "vector" in biases else "constant"
    of_coupling: PathKind = "none" if all(layer.C.kind == "none" for layer in layers) else "vector"
    return max(1, *(choice.rank for choice in weights)), of_weight, of_coupling, of_bias


def write_peft(folder: Path, backbone: nn.Module, adapter: Adapter) -> list[str]:
    """Write a folder that ``peft.PeftModel.from_pretrained`` loads onto the backbone.

    Args:
        folder: Where to.
        backbone: The backbone with a head of the adapter's size; it is used up.
        adapter: The adapter.

    Returns:
        Names of the files.

    Raises:
        ExportError: As :func:`require_peft` does.
    """
    peft = require_peft()
    rank, of_weight, of_coupling, of_bias = peft_choices(adapter.architecture)
    adapted = _adapted(adapter.architecture)
    heads = {id(module) for module in classifiers(backbone)}
    saved = [name for name, module in backbone.named_modules() if id(module) in heads]
    config = peft.GloraConfig(
        r=rank,
        # A pattern: a name in a list stands for all layers whose names end so.
        target_modules="|".join(map(re.escape, adapted)),
        modules_to_save=saved,
        config_A_B=of_weight,
        config_C=of_coupling,
        config_D_E=of_bias,
        inference_mode=True,
    )
    backbone.name_or_path = adapter.record.backbone.hub or adapter.record.backbone.model  # type: ignore[assignment]
    model = peft.get_peft_model(backbone, config)
    for name in adapted:
        for tensor in TENSORS:
            paths: Any = getattr(backbone.get_submodule(name), f"glora_{tensor}")
            _fill(paths["default"], _parts(adapter.tensors, f"{name}.{tensor}_"))
    for name in saved:
        copies: Any = backbone.get_submodule(name).modules_to_save
        copies["default"].load_state_dict(_parts(adapter.tensors, f"{name}."), strict=False)
    # Without a look at the hub for whether it has embeddings to save.
    model.save_pretrained(folder, save_embedding_layers=False)
    return list(FILES["peft"])


def _parts(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


@torch.no_grad()
def _fill(path: Any, parts: Mapping[str, Tensor]) -> None:
    """Write a support tensor into PEFT's parameterisation of it.

    Args:
        path: ``Xd (out, r)`` and ``Xu (r, in)``; or ``X``, a column, a vector or one number.
        parts: ``left`` and ``right``, ``vector`` or ``scalar``; nothing is zero.
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
    """Load it as PEFT does.

    Args:
        folder: The export.
        backbone: The backbone with a head of the adapter's size; it is used up.
        merge: Whether its layers become plain ones.

    Raises:
        ExportError: As :func:`require_peft` does, or if PEFT cannot load it.
    """
    peft = require_peft()
    try:
        model = peft.PeftModel.from_pretrained(backbone, str(folder))
    except Exception as error:  # whatever PEFT raises, the cause is in the files
        raise ExportError(
            f"PEFT {peft.__version__} cannot load {str(folder)!r}: {one_line(error)}; export it "
            "again."
        ) from error
    plain: nn.Module = model.merge_and_unload() if merge else model
    return plain.eval()
