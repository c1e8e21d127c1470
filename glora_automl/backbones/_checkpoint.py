"""Local checkpoints of a backbone: digest, tensors, and loading of original ``.npz`` files."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import timm.models
import torch
from torch import Tensor, nn

from glora_automl._messages import one_line, short
from glora_automl.backbones._source import file_sha256
from glora_automl.errors import TaskError

__all__ = ["check_sha256", "load_npz", "read_weights"]


def check_sha256(path: Path, expected: str | None) -> None:
    """Check that a checkpoint file exists and has the expected digest, if there is one.

    Raises:
        TaskError: If it is missing or another file.
    """
    if expected is not None and not path.is_file():
        raise TaskError(
            f"backbone.checkpoint must be the file with sha256 {expected}, got no file at "
            f"{str(path)!r}. Copy the file there, or let a worker that has it create the backbone."
        )
    found = file_sha256(path)
    if expected is not None and found != expected:
        raise TaskError(
            f"backbone.checkpoint must be the file with sha256 {expected}, got {str(path)!r} with "
            f"{found}. Restore the original file."
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file by name, without executing code in it.

    Training wrappers are removed as in timm: the exponential moving average takes precedence,
    ``state_dict`` or ``model`` is unwrapped, and the prefix of a distributed model is cut.

    Raises:
        TaskError: If the file is altered or holds other objects than tensors.
    """
    try:
        # weights_only refuses pickles that execute code.
        state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # the file formats raise any exception on a damaged file
        is_safetensors = path.suffix == ".safetensors"
        content = "safetensors" if is_safetensors else "only tensors"
        if is_safetensors and _is_pickle(path):
            reason, hint = "it is a pickle", "Rename a file of torch.save to end in .pth."
        elif any(isinstance(e, pickle.UnpicklingError) for e in (error, error.__cause__)):
            reason, hint = "it is a pickle that executes code", "Save only model.state_dict()."
        else:
            reason = f"it is altered or truncated ({one_line(error)})"
            hint = "Restore the original file."
        raise TaskError(
            f"backbone.checkpoint must be a file of {content}, got {str(path)!r}: {reason}. {hint}"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise TaskError(
            f"backbone.checkpoint must be a file of tensors by name, got {str(path)!r} with other "
            "objects. Save only model.state_dict()."
        )
    return state


def _is_pickle(path: Path) -> bool:
    """Return whether a file starts like a pickle or the zip archive of ``torch.save``."""
    with path.open("rb") as file:
        return file.read(2) in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")


@torch.no_grad()
def load_npz(model: nn.Module, path: Path) -> None:
    """Load an original ``.npz`` (ViT, MLP-Mixer, BiT) with the model's ``load_pretrained``.

    Raises:
        TaskError: If the model has no such method, or the file is of another model.
    """
    load: Any = getattr(model, "load_pretrained", None)
    if load is None:
        raise TaskError(
            "backbone.checkpoint must not be an .npz file for a model without load_pretrained, got "
            f"{str(path)!r} for {type(model).__name__}. Convert the file to safetensors."
        )
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is altered or truncated")
        with np.load(str(path), allow_pickle=False) as arrays:
            found = re.findall(r"(?:encoderblock|MixerBlock)_(\d+)/", "\n".join(arrays.files))
        # load_pretrained reads the model's number of blocks and ignores the others in the file.
        n_blocks = len({*found})
        if found and n_blocks != len(model.blocks):  # type: ignore[arg-type]
            raise ValueError(f"it has {n_blocks} blocks, the model {len(model.blocks)}")  # type: ignore[arg-type]
        load(str(path))
    except Exception as error:  # NumPy and timm raise any exception on a wrong file
        raise TaskError(
            f"backbone.checkpoint must be an original .npz of {type(model).__name__}, got "
            f"{short(str(path), 80)}: {one_line(error)}. Correct `backbone.model` or "
            "`backbone.kwargs`."
        ) from None
