"""Weights of a backbone in a local file: what it is, what is in it, and into a timm model."""

from __future__ import annotations

import hashlib
import pickle
import re
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import timm.models
import torch
from torch import Tensor, nn

from glora_automl.errors import TaskError

__all__ = ["SUFFIXES", "check_sha256", "file_sha256", "load_npz", "one_line", "read_weights"]

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".pth.tar", ".bin")
"""How the names of the files end that can be read."""


def file_sha256(path: Path) -> str:
    """sha256 of a checkpoint's bytes.

    Raises:
        TaskError: If there is none.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TaskError(
            f"backbone.checkpoint must be a file that can be read, got {str(path)!r}: "
            f"{error.strerror}."
        ) from None


def check_sha256(path: Path, expected: str | None) -> None:
    """Refuse a checkpoint that is missing or that is another file than the one meant.

    Raises:
        TaskError: If it is.
    """
    if expected is not None and not path.is_file():
        raise TaskError(
            f"backbone.checkpoint: the file {str(path)!r} with sha256 {expected} is wanted and not "
            "here; put it there, or let a worker that has it make the backbone first."
        )
    found = file_sha256(path)
    if expected is not None and found != expected:
        raise TaskError(
            f"backbone.checkpoint must be the file with sha256 {expected}, {str(path)!r} has "
            f"{found}: it is another one, altered or cut short."
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors by their names, without running anything that is in it.

    What training wraps around them is taken off as timm does: the exponential moving average is
    preferred, ``state_dict`` or ``model`` opened, the prefix of a distributed model cut.

    Raises:
        TaskError: If it is no such file.
    """
    try:
        # weights_only: a pickle that would run anything is refused.
        state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # whatever the formats raise, the cause is in the file
        safe = path.suffix == ".safetensors"
        rule = "safetensors" if safe else "tensors alone, as torch.save(model.state_dict()) writes"
        if safe and _is_pickle(path):
            reason = "it is a pickle, as torch.save writes; those end in .pth"
        elif any(isinstance(e, pickle.UnpicklingError) for e in (error, error.__cause__)):
            reason = "it is a pickle that asks to run code"
        else:
            reason = f"it was altered or cut short ({one_line(error)})"
        raise TaskError(
            f"backbone.checkpoint: the file {str(path)!r} must hold {rule}: {reason}."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise TaskError(
            f"backbone.checkpoint: the file {str(path)!r} must hold tensors by their names, and "
            "holds other things; save model.state_dict() alone."
        )
    return state


def _is_pickle(path: Path) -> bool:
    """Whether a file begins like a pickle or the zip archive that torch puts it into."""
    with path.open("rb") as file:
        return file.read(2) in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")


@torch.no_grad()
def load_npz(model: nn.Module, path: Path) -> None:
    """Load an original ``.npz`` (ViT, MLP-Mixer, BiT) by the model's own loader.

    Raises:
        TaskError: If the model has none, or the file is not of this model.
    """
    load: Any = getattr(model, "load_pretrained", None)
    if load is None:
        raise TaskError(
            f"backbone.checkpoint: a .npz file is loaded by timm's load_pretrained, which "
            f"{type(model).__name__} has not; convert {str(path)!r} to safetensors."
        )
    file = str(path)
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it was altered or cut short")
        with np.load(file, allow_pickle=False) as arrays:
            found = re.findall(r"(?:encoderblock|MixerBlock)_(\d+)/", "\n".join(arrays.files))
        # The loader reads as many blocks as the model has, and would leave others unread.
        depth = len({*found})
        if found and depth != len(model.blocks):  # type: ignore[arg-type]
            raise ValueError(f"it has {depth} blocks, the model {len(model.blocks)}")  # type: ignore[arg-type]
        load(file)
    except Exception as error:  # whatever numpy and timm raise, the cause is in the file
        raise TaskError(
            f"backbone.checkpoint: the file {str(path)!r} must be an original .npz of this "
            f"{type(model).__name__}: {one_line(error)}."
        ) from None


def one_line(error: BaseException) -> str:
    """The message of an error, short and in one line; of tensors that do not fit, the first."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("Error(s) in loading state_dict"):
        faults = [textwrap.shorten(line, 160, placeholder=" ...").rstrip(".") for line in lines[1:]]
        more = f"; {len(faults) - 2} more" if len(faults) > 2 else ""
        return "; ".join(faults[:2]) + more
    text = textwrap.shorten(lines[0], 200, placeholder=" ...").rstrip(".")
    return text if not isinstance(error, KeyError) else f"{text} is missing"
