"""Checkpoints: tensors in safetensors and state in JSON, renamed into place, with sha256."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from glora_automl._files import write_atomic
from glora_automl.errors import CheckpointError, GLoRAError

__all__ = [
    "CheckpointFiles",
    "load_checkpoint",
    "load_tensors",
    "save_checkpoint",
    "save_tensors",
    "tensor_digest",
]


def _pack(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    # safetensors refuses tensors with common memory or non-contiguous strides.
    copies = {k: t.detach().cpu().clone().contiguous() for k, t in tensors.items()}
    return safetensors.torch.save(copies, metadata)


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors: names, types, shapes and bytes, in any order.

    Example:
        >>> import torch
        >>> tensor_digest({"a": torch.zeros(2)}) == tensor_digest({"a": torch.zeros(2)})
        True
        >>> tensor_digest({"a": torch.zeros(2)}) == tensor_digest({"a": torch.zeros(1, 2)})
        False
    """
    return hashlib.sha256(_pack(dict(sorted(tensors.items())))).hexdigest()


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> str:
    """Write one safetensors file, whose sha256 without metadata is the :func:`tensor_digest`.

    Args:
        path: The file.
        tensors: The tensors.
        metadata: Texts in the file's header.

    Returns:
        The sha256 of the file.

    Raises:
        StorageError: If the file cannot be written.
    """
    data = _pack(dict(sorted(tensors.items())), metadata)
    write_atomic(path, lambda file: file.write_bytes(data))
    return hashlib.sha256(data).hexdigest()


def load_tensors(
    path: Path, error: type[GLoRAError] = CheckpointError, hint: str = "Replace the file."
) -> dict[str, Tensor]:
    """Read a safetensors file without a check of its digest.

    Args:
        path: The file.
        error: Class of the exception.
        hint: End of its message.

    Raises:
        GLoRAError: As ``error``, if the file is not safetensors.
    """
    try:
        return safetensors.torch.load_file(path)
    # Python's own are those of a damaged header.
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, MemoryError) as fault:
        raise error(f"The file {str(path)!r} must be safetensors, got: {fault}. {hint}") from None


class CheckpointFiles(NamedTuple):
    """Files of a checkpoint, to be copied to another machine.

    Attributes:
        weights: Safetensors file.
        record: Content of the JSON file.
    """

    weights: Path
    record: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> CheckpointFiles:
        """Read the JSON file of a checkpoint that :func:`save_checkpoint` wrote."""
        record = json.loads(path.read_text(encoding="utf-8"))
        return cls(path.with_name(record["weights"]), record)

    def place(self, path: Path) -> None:
        """Copy the files to ``path``, for :func:`load_checkpoint`, which checks their sha256.

        Raises:
            CheckpointError: If the weights cannot be read.
            StorageError: If the copies cannot be written.
        """
        try:
            data = self.weights.read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint file {str(self.weights)!r} must be readable, got "
                f"{error.strerror}. Restore the file."
            ) from None
        name = f"{path.stem}-{str(self.record['sha256'])[:16]}.safetensors"
        write_atomic(path.with_name(name), lambda file: file.write_bytes(data))
        text = json.dumps({**self.record, "weights": name})
        write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """Write a checkpoint: ``path`` (JSON) and a safetensors file beside it.

    The JSON holds the name and the sha256 of the safetensors file. It is renamed into place last,
    so its weights are always complete. The weights of earlier checkpoints are then deleted.

    Returns:
        The sha256 of the safetensors file.

    Raises:
        StorageError: If a file cannot be written.
    """
    data = _pack(tensors)
    digest = hashlib.sha256(data).hexdigest()
    weights = path.with_name(f"{path.stem}-{digest[:16]}.safetensors")
    write_atomic(weights, lambda file: file.write_bytes(data))
    record = {"weights": weights.name, "sha256": digest, "state": dict(state)}
    write_atomic(path, lambda file: file.write_text(json.dumps(record), encoding="utf-8"))
    # A full match, as the weights of "a-b.json" begin like those of "a.json".
    pattern = re.compile(re.escape(path.stem) + r"-[0-9a-f]{16}\.safetensors")
    for old in path.parent.iterdir():
        if old != weights and pattern.fullmatch(old.name):
            old.unlink(missing_ok=True)
    return digest


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the tensors and the state of a checkpoint; return None if it does not exist.

    Raises:
        CheckpointError: If the checkpoint is altered, cut short or no checkpoint.
    """
    if not path.exists():
        return None
    hint = "Delete the checkpoint to restart the training."
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        # .name: a checkpoint names a file beside it and reads no other.
        weights = path.with_name(Path(record["weights"]).name)
        digest, state = str(record["sha256"]), dict(record["state"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"The checkpoint {str(path)!r} must be readable, got {type(error).__name__}. {hint}"
        ) from None
    if not weights.is_file():
        raise CheckpointError(
            f"The weights of the checkpoint {str(path)!r} must exist, got no file "
            f"{weights.name!r}. {hint}"
        )
    data = weights.read_bytes()
    data_digest = hashlib.sha256(data).hexdigest()
    if data_digest != digest:
        raise CheckpointError(
            f"The weights of the checkpoint {str(path)!r} must have sha256 {digest[:16]}..., got "
            f"{data_digest[:16]}... (altered or cut short). {hint}"
        )
    try:
        return safetensors.torch.load(data), state
    except safetensors.SafetensorError:
        raise CheckpointError(
            f"The weights of the checkpoint {str(path)!r} must be safetensors, got "
            f"{weights.name!r}. {hint}"
        ) from None
