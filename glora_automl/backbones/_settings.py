"""Settings of the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from glora_automl._declarations import Float
from glora_automl.backbones._candidates import LISTS, CandidateBackbone, expand_lists
from glora_automl.backbones._names import transformers_folder
from glora_automl.backbones._source import BackboneSource
from glora_automl.budget import Budget
from glora_automl.training import TrainingSettings

__all__ = ["AUTO", "BackboneSettings"]

AUTO = "auto"
"""Name in place of a model that a study is to choose."""


Candidate = Annotated[CandidateBackbone, Field(description="a model, as text or as a table")]


class BackboneSettings(BackboneSource):
    """The model of a study with its source of weights, or candidates for it.

    For the keys of a model see :class:`BackboneSource`.

    Attributes:
        pretraining: Trains the model from scratch on the task's pretraining images. The weights are
            cached by the digest of all their inputs.
        head_init: Initial classifier head: ``random`` values, or a ``logistic`` regression on the
            frozen features of the images that the supernet is trained on.
        candidates: Models of which the study takes the best for ``model = "auto"``: names,
            ``name=path`` with a local checkpoint, tables with the keys of a model, or the lists
            ``auto-small``, ``auto-medium`` and ``auto-large``. By default ``auto-medium``.
        max_params: Most parameters of a candidate without its classifier, such as ``"30M"``.
        max_latency_ms: Longest forward pass of a candidate on this machine, in milliseconds at
            batch size 1.
    """

    pretraining: TrainingSettings | None = None
    head_init: Literal["random", "logistic"] = "random"
    candidates: Annotated[
        tuple[Candidate, ...], Field(max_length=100, description="a list of at most 100 models")
    ] = ()
    max_params: Budget | None = None
    max_latency_ms: Float | None = Field(default=None, gt=0, le=1e6)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        model, candidates = table.get("model"), table.get("candidates")
        if isinstance(model, str) and model in LISTS and not candidates:
            return {**table, "model": AUTO, "candidates": expand_lists([model])}
        if isinstance(candidates, list | tuple):
            return {**table, "candidates": expand_lists(candidates)}
        return table

    @field_validator("max_params")
    @classmethod
    def _check_count(cls, value: Budget | None) -> Budget | None:
        if value is not None and value.is_percentage:
            raise ValueError(
                f"max_params must be a count such as 30M, got {value}. Correct "
                "`backbone.max_params`."
            )
        return value

    @model_validator(mode="after")
    def _check_candidates(self) -> Self:
        if not self.candidates:
            for key in ("max_params", "max_latency_ms"):
                if getattr(self, key) is not None:
                    raise ValueError(
                        f"{key} must come with the model 'auto', got the model {self.model!r}. Set "
                        f"`backbone.model = auto` or remove `backbone.{key}`."
                    )
            return self
        if self.model != AUTO:
            raise ValueError(
                f"model must be 'auto' with candidates, got {self.model!r}. Set "
                "`backbone.model = auto` or remove `backbone.candidates`."
            )
        for key in ("checkpoint", "kwargs", "mean", "std", "pretraining"):
            if getattr(self, key):
                raise ValueError(
                    f"{key} must be unset with candidates, got a value. Set it in a table of "
                    f"`backbone.candidates` or remove `backbone.{key}`."
                )
        texts = [repr(candidate) for candidate in self.candidates]
        for candidate, text in zip(self.candidates, texts, strict=True):
            if texts.count(text) > 1:
                raise ValueError(
                    f"candidates must be different models, got {candidate.label!r} twice. Remove "
                    "one from `backbone.candidates`."
                )
        return self

    def sources(self) -> dict[str, bool]:
        """Return which sources of weights are set."""
        return {**super().sources(), "pretraining": self.pretraining is not None}

    @property
    def is_local(self) -> bool:
        """Whether the weights exist only on this machine, so that a study keeps a copy."""
        if self.checkpoint is not None or self.pretraining is not None:
            return True
        return self.pretrained and (
            self.model.startswith("local-dir:") or transformers_folder(self.model) is not None
        )

    @property
    def is_remote(self) -> bool:
        """Whether timm or transformers downloads the weights from their hub."""
        return self.pretrained and not self.is_local

    def pinned(self) -> Self:
        """Return a copy with the digests of all checkpoint files.

        Raises:
            TaskError: If a checkpoint cannot be read.
        """
        if not self.candidates:
            return super().pinned()
        candidates = tuple(candidate.pinned() for candidate in self.candidates)
        return self.model_copy(update={"candidates": candidates})

    def chosen(self, candidate: CandidateBackbone) -> Self:
        """Return the settings with a candidate as the model, and without candidates.

        Example:
            >>> settings = BackboneSettings(model="auto", candidates=["resnet18", "resnet34"])
            >>> settings.chosen(settings.candidates[1]).model
            'resnet34'
        """
        source = {key: getattr(candidate, key) for key in BackboneSource.model_fields}
        cleared = {"candidates": (), "max_params": None, "max_latency_ms": None}
        return self.model_copy(update=source | cleared)
