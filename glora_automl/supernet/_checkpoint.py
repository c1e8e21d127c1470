"""Checkpoints: tensors in safetensors, the rest in JSON, written by rename, read with sha256."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from glora_automl._files import write_atomic
from glora_automl.errors import CheckpointError

__all__ = ["load_checkpoint", "save_checkpoint", "tensor_digest"]


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    # safetensors refuses views that share memory, and other strides than the plain ones.
    plain = {k: t.detach().cpu().clone().contiguous() for k, t in tensors.items()}
    return safetensors.torch.save(plain)


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of tensors: names, types, shapes and bytes, in whatever order they are given.

    Example:
        >>> import torch
        >>> tensor_digest({"a": torch.zeros(2)}) == tensor_digest({"a": torch.zeros(2)})
        True
        >>> tensor_digest({"a": torch.zeros(2)}) == tensor_digest({"a": torch.zeros(1, 2)})
        False
    """
    return hashlib.sha256(_pack(dict(sorted(tensors.items())))).hexdigest()


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """Write a checkpoint: ``path`` (JSON) and a safetensors file beside it.

    The JSON names the safetensors file with its sha256 and is renamed last, so what it names is
    always whole; then the weights of earlier checkpoints are removed.

    Returns:
        The sha256 of the safetensors file.

    Raises:
        StorageError: If it cannot be written.
    """
    data = _pack(tensors)
    digest = hashlib.sha256(data).hexdigest()
    weights = path.with_name(f"{path.stem}-{digest[:16]}.safetensors")
    write_atomic(weights, lambda file: file.write_bytes(data))
    record = {"weights": weights.name, "sha256": digest, "state": dict(state)}
    write_atomic(path, lambda file: file.write_text(json.dumps(record), encoding="utf-8"))
    # Exactly ours: the weights of "a-b.json" begin like those of "a.json".
    ours = re.compile(re.escape(path.stem) + r"-[0-9a-f]{16}\.safetensors")
    for old in path.parent.iterdir():
        if old != weights and ours.fullmatch(old.name):
            old.unlink(missing_ok=True)
    return digest


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a checkpoint: its tensors and its state, or None where there is none.

    Raises:
        CheckpointError: If it is there but altered, cut short or no checkpoint.
    """
    if not path.exists():
        return None
    way_out = f"delete {str(path)!r} to train anew."
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        # .name: a checkpoint names a file beside it and reaches nothing else.
        weights = path.with_name(Path(record["weights"]).name)
        digest, state = str(record["sha256"]), dict(record["state"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"The checkpoint {str(path)!r} cannot be read; {way_out}") from None
    if not weights.is_file():
        raise CheckpointError(
            f"The checkpoint {str(path)!r} names {weights.name!r}, which is missing; {way_out}"
        )
    data = weights.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise CheckpointError(
            f"The checkpoint file {str(weights)!r} must have sha256 {digest[:16]}..., got "
            f"{found[:16]}...: it was altered or cut short; {way_out}"
        )
    try:
        return safetensors.torch.load(data), state
    except safetensors.SafetensorError:
        raise CheckpointError(
            f"The checkpoint file {str(weights)!r} must be safetensors and is not; {way_out}"
        ) from None
