"""Model and source of its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from glora_automl._declarations import Bool, Declaration, Float, Sha256
from glora_automl._files import file_digest
from glora_automl.backbones._kwargs import ModelKwargs
from glora_automl.backbones._names import PREFIX
from glora_automl.errors import TaskError

__all__ = ["BackboneSource", "Deviation", "Mean", "file_sha256"]

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".pth.tar", ".bin")
"""Suffixes of supported checkpoint files."""

Mean = Annotated[Float, Field(ge=-1e6, le=1e6)]
"""Mean of a channel."""

Deviation = Annotated[Float, Field(gt=1e-6, le=1e6)]
"""Standard deviation of a channel, by which pixels are divided."""


class BackboneSource(Declaration):
    """Model and source of its weights.

    Attributes:
        model: Name of the model in ``timm.create_model``; or ``transformers:`` with a repository
            of the hub or a folder of an image classifier of transformers.
        pretrained: Whether timm or transformers loads its pretrained weights.
        kwargs: Further keyword arguments of ``timm.create_model``, of those that shape a model.
            A model of transformers has its configuration instead.
        checkpoint: File of weights: safetensors, an original ``.npz``, or only tensors from
            ``torch.save``. Its classifier may be missing or have other classes; the backbone gets a
            new classifier.
        sha256: Digest of the checkpoint file. A study records it and refuses any other file.
        mean: Mean per channel for pixels from 0 to 1; None is the model's.
        std: Standard deviation per channel for pixels from 0 to 1; None is the model's.
    """

    model: str = Field(min_length=1, max_length=300)
    pretrained: Bool = False
    kwargs: ModelKwargs = Field(default_factory=dict)
    checkpoint: str | None = None
    sha256: Sha256 | None = None
    mean: Annotated[tuple[Mean, ...], Field(max_length=64)] | None = None
    std: Annotated[tuple[Deviation, ...], Field(max_length=64)] | None = None

    @property
    def public_name(self) -> str:
        """The model without the place of a folder on this machine.

        Example:
            >>> BackboneSource(model="transformers:/home/me/vit").public_name
            'transformers:vit'
        """
        prefix, colon, place = self.model.partition(":")
        is_local = prefix in ("local-dir", "transformers") and (
            os.path.isabs(place) or os.path.isdir(place)
        )
        return f"{prefix}{colon}{os.path.basename(place.rstrip('/'))}" if is_local else self.model

    def sources(self) -> dict[str, bool]:
        """Return which sources of weights are set."""
        return {"pretrained": self.pretrained, "checkpoint": self.checkpoint is not None}

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        sources = self.sources()
        names = [name for name, is_set in sources.items() if is_set]
        if len(names) > 1:
            raise ValueError(
                f"at most one of {', '.join(sources)} must be set, got {' and '.join(names)}. "
                f"Remove `backbone.{names[0]}` or `backbone.{names[1]}`."
            )
        for key in ("kwargs", "checkpoint"):
            if getattr(self, key) and self.model.startswith(PREFIX):
                raise ValueError(
                    f"{key} must be unset for a model of transformers, got a value. Name a folder "
                    f"with its configuration and weights, and remove `backbone.{key}`."
                )
        if self.checkpoint is not None and not self.checkpoint.endswith(SUFFIXES):
            raise ValueError(
                f"checkpoint must end in one of {', '.join(SUFFIXES)}, got {self.checkpoint!r}. "
                "Choose another `backbone.checkpoint`."
            )
        if self.sha256 is not None and self.checkpoint is None:
            raise ValueError(
                f"sha256 must come with a checkpoint, got {self.sha256!r} without one. "
                "Set `backbone.checkpoint`."
            )
        return self

    def pinned(self) -> Self:
        """Return a copy with the digest of the checkpoint file, if it has none.

        Raises:
            TaskError: If the checkpoint cannot be read.
        """
        if self.checkpoint is None or self.sha256 is not None:
            return self
        return self.model_copy(update={"sha256": file_sha256(Path(self.checkpoint))})


def file_sha256(path: Path) -> str:
    """Return the sha256 of a checkpoint file.

    Raises:
        TaskError: If the file cannot be read.
    """
    try:
        return file_digest(path)
    except OSError as error:
        raise TaskError(
            f"backbone.checkpoint must be a readable file, got {str(path)!r}: {error.strerror}. "
            "Choose another `backbone.checkpoint`."
        ) from None
