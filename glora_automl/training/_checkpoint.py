"""Checkpoints: tensors in safetensors, the rest in JSON, written by rename, read with sha256."""

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
from glora_automl.errors import CheckpointError

__all__ = [
    "CheckpointFiles",
    "load_checkpoint",
    "load_tensors",
    "save_checkpoint",
    "save_tensors",
    "tensor_digest",
]


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


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as one safetensors file, whose sha256 is their :func:`tensor_digest`.

    Returns:
        The digest.

    Raises:
        StorageError: If it cannot be written.
    """
    data = _pack(dict(sorted(tensors.items())))
    write_atomic(path, lambda file: file.write_bytes(data))
    return hashlib.sha256(data).hexdigest()


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file whose digest was checked already.

    Raises:
        CheckpointError: If it is none.
    """
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"The file {str(path)!r} must be safetensors: {error}.") from None


class CheckpointFiles(NamedTuple):
    """A checkpoint as it goes to another machine: one file, and what the JSON says of it.

    Attributes:
        weights: The safetensors file.
        record: Content of the JSON file.
    """

    weights: Path
    record: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> CheckpointFiles:
        """The files of a checkpoint that :func:`save_checkpoint` has written."""
        record = json.loads(path.read_text(encoding="utf-8"))
        return cls(path.with_name(record["weights"]), record)

    def place(self, path: Path) -> None:
        """Put them where :func:`load_checkpoint` finds them, which checks the weights' sha256.

        Raises:
            CheckpointError: If the weights are gone.
            StorageError: If they cannot be written.
        """
        try:
            data = self.weights.read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"The checkpoint file {str(self.weights)!r} cannot be read: {error.strerror}."
            ) from None
        name = f"{path.stem}-{str(self.record['sha256'])[:16]}.safetensors"
        write_atomic(path.with_name(name), lambda file: file.write_bytes(data))
        text = json.dumps({**self.record, "weights": name})
        write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


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
