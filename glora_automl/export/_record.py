"""The record of an export: ``glora.json`` beside its files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator
from torch import nn

from glora_automl._declarations import (
    MAX_TEXT,
    Count,
    Declaration,
    Float,
    Int,
    Sha256,
    validate,
)
from glora_automl._files import file_digest, read_file, write_atomic
from glora_automl._messages import short
from glora_automl.adapters import adapted_layers, classifiers
from glora_automl.architecture import Architecture
from glora_automl.backbones import (
    PREFIX,
    BackboneSettings,
    Deviation,
    Mean,
    ModelKwargs,
    set_pretrained_cfg,
)
from glora_automl.errors import ArchitectureError, ExportError
from glora_automl.tasks import InputFormat, ValueRange, check_value_range
from glora_automl.training import tensor_digest

__all__ = [
    "BACKBONE",
    "FILES",
    "FORMAT",
    "KINDS",
    "RECORD",
    "Backbone",
    "Kind",
    "Preprocessing",
    "Record",
    "backbone_digest",
    "read_record",
    "write_record",
]

FORMAT = 1
"""Version of the record; raise it when a key changes its meaning."""

RECORD = "glora.json"

Kind = Literal["timm", "transformers", "adapter", "peft", "onnx", "pt2", "backbone"]
"""Formats of an export."""

KINDS: tuple[Kind, ...] = get_args(Kind)

FILES: dict[Kind, tuple[str, ...]] = {
    "timm": ("model.safetensors", "config.json"),
    "transformers": ("model.safetensors", "config.json"),
    "backbone": ("model.safetensors", "config.json"),
    "adapter": ("adapter.safetensors",),
    "peft": ("adapter_model.safetensors", "adapter_config.json"),
    "onnx": ("model.onnx",),
    "pt2": ("model.pt2",),
}
"""Files that are loaded for each kind; the record holds their sha256."""

BACKBONE = "backbone"
"""Folder in an adapter's export with a backbone that no hub has, an export of that kind."""

MAX_BYTES = 1 << 24
"""Largest record."""

Channels = Annotated[Int, Field(ge=1, le=64)]
Side = Annotated[Int, Field(ge=1, le=16_384)]


class Preprocessing(Declaration):
    """Preprocessing of images, in timm's words.

    Attributes:
        size: Channels, height and width.
        mean: Mean of each channel, for values in 0 to 1.
        std: Standard deviation of each channel.
        interpolation: Interpolation of the resizing.
        crop_pct: Fraction of the resized image that a center crop keeps.
        crop_mode: ``squash`` resizes the whole image, ``center`` keeps the aspect ratio and crops,
            ``border`` keeps the aspect ratio and pads.
        value_range: Values of black and white in images of more than 8 bits; None is 0 and 65,535.
    """

    size: tuple[Channels, Side, Side]
    mean: tuple[Mean, ...]
    std: tuple[Deviation, ...]
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    crop_pct: Float = Field(gt=0, le=1)
    crop_mode: Literal["squash", "center", "border"] = "squash"
    value_range: ValueRange = None

    @field_validator("value_range", mode="before")
    @classmethod
    def _check_range(cls, value: object) -> object:
        return check_value_range(value)

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if not len(self.mean) == len(self.std) == self.size[0]:
            raise ValueError(
                f"mean and std must have one value for each of the {self.size[0]} channels, got "
                f"{len(self.mean)} and {len(self.std)}."
            )
        return self

    @classmethod
    def of(
        cls,
        target: InputFormat,
        crop_mode: Literal["squash", "center", "border"] = "squash",
        value_range: ValueRange = None,
    ) -> Preprocessing:
        """Return the preprocessing for an input format.

        Example:
            >>> preprocessing = Preprocessing.of(InputFormat((3, 8, 8), (0.5,) * 3, (0.5,) * 3))
            >>> preprocessing.format.size, preprocessing.crop_mode
            ((3, 8, 8), 'squash')
        """
        table = {**target._asdict(), "crop_mode": crop_mode, "value_range": value_range}
        # A study applies crop_pct with "center" only.
        table["crop_pct"] = float(target.crop_pct) if crop_mode == "center" else 1.0
        return cls.model_validate(table)

    @property
    def format(self) -> InputFormat:
        """The input format that :mod:`glora_automl.tasks` takes."""
        return InputFormat(self.size, self.mean, self.std, self.interpolation, self.crop_pct)


class Backbone(Declaration):
    """Backbone of an adapter.

    Attributes:
        model: Model name for ``timm.create_model``, or ``transformers:`` and a repository.
        kwargs: Further keyword arguments of ``timm.create_model``, of those that shape a model.
        digest: :func:`backbone_digest` of the weights.
        pretrained: Whether timm or transformers downloads the weights.
        hub: Repository of the weights on the Hugging Face hub, empty without one.
        checkpoint: sha256 of the local file with the weights, None without one.
        license: Licence of the weights in the hub's words, empty if it is not known.
    """

    model: str = Field(min_length=1, max_length=300)
    kwargs: ModelKwargs = Field(default_factory=dict)
    digest: Sha256
    pretrained: bool = False
    hub: str = ""
    checkpoint: Sha256 | None = None
    license: str = Field(default="", max_length=100)

    @classmethod
    def of(cls, settings: BackboneSettings, model: nn.Module) -> Backbone:
        """Describe a backbone, which may be adapted but not merged."""
        config: Any = getattr(model, "pretrained_cfg", {})
        is_remote = settings.is_remote
        name = settings.model.removeprefix(PREFIX)
        hub = name if name != settings.model else config.get("hf_hub_id")
        return cls(
            model=settings.public_name,
            kwargs=settings.kwargs,
            digest=backbone_digest(model),
            pretrained=is_remote,
            hub=(hub or "") if is_remote else "",
            checkpoint=settings.sha256,
            license=(config.get("license") or "") if is_remote else "",
        )


class Record(Declaration):
    """Record of an export.

    Attributes:
        kind: Format of the export.
        classes: Class names, in the order of the logits.
        preprocessing: Preprocessing of images.
        backbone: The adapted backbone.
        architecture: The printed architecture, empty for a backbone.
        n_params: Trainable parameters of the adapter.
        input: Images of a graph: ``normalized`` floats of the model's size, or uint8 ``pixels`` of
            any size, for which the graph returns probabilities instead of logits.
        files: sha256 of the weight files, by file name.
        about: Metadata, such as study, trial and scores, as JSON values.
        format: Version of the record.
    """

    kind: Kind
    classes: tuple[str, ...] = Field(min_length=1)
    preprocessing: Preprocessing
    backbone: Backbone
    architecture: str = Field(default="", max_length=MAX_TEXT)
    n_params: Count = 0
    input: Literal["normalized", "pixels"] = "normalized"
    files: dict[str, Sha256] = Field(default_factory=dict, max_length=100)
    about: dict[str, Any] = Field(default_factory=dict)
    format: Int = FORMAT

    def configure(self, model: nn.Module) -> None:
        """Give a model this record's classes and preprocessing; see :func:`set_pretrained_cfg`."""
        set_pretrained_cfg(
            model,
            self.preprocessing.format,
            self.preprocessing.crop_mode,
            self.classes,
            is_remote=self.backbone.pretrained,
        )

    @field_validator("architecture")
    @classmethod
    def _check_architecture(cls, architecture: str) -> str:
        try:
            Architecture.parse(architecture)
        except ArchitectureError as error:
            raise ValueError(str(error)) from None  # of an export, whatever is wrong in it
        return architecture


def backbone_digest(model: nn.Module) -> str:
    """Return the sha256 of a model's weights, without its classifier and its adapter.

    It covers names, types, shapes and bytes of the state dict. The same backbone in half precision
    has another digest.

    Example:
        >>> import timm
        >>> model = timm.create_model("test_vit", num_classes=3)
        >>> before = backbone_digest(model)
        >>> model.reset_classifier(5)
        >>> backbone_digest(model) == before
        True
    """
    layers = adapted_layers(model)
    heads = {id(t) for head in classifiers(model) for t in (*head.parameters(), *head.buffers())}
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        owner, _, leaf = name.rpartition(".")
        frozen = owner.removesuffix(".linear")
        if id(tensor) in heads or owner in layers:
            continue
        state[f"{frozen}.{leaf}" if frozen in layers else name] = tensor
    return tensor_digest(state)


def write_record(folder: Path, record: Record, files: Iterable[str]) -> Record:
    """Write the record of an export and return it with the sha256 of its files.

    Raises:
        StorageError: If the record cannot be written.
    """
    digests = {name: file_digest(folder / name) for name in files}
    record = record.model_copy(update={"files": digests})
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / RECORD, lambda file: file.write_text(text, encoding="utf-8"))
    return record


def read_record(folder: Path, *kinds: Kind) -> Record:
    """Read the record of an export and check the sha256 of its files.

    Args:
        folder: Folder of the export.
        kinds: Allowed kinds; all without any.

    Raises:
        ExportError: If the folder is no export, has another kind or a newer format, or a file is
            missing, altered or not in the record.
    """
    path = folder / RECORD
    try:
        table = json.loads(read_file(path, MAX_BYTES))
    except OSError as error:
        raise ExportError(
            f"An export must be a folder with {RECORD!r}, got {str(folder)!r}: {error.strerror}. "
            "Choose a folder that 'glora export' wrote."
        ) from None
    except (ValueError, RecursionError):
        raise ExportError(
            f"The file {str(path)!r} must be JSON, got other text: altered or cut short. Export "
            "again."
        ) from None
    version = table.get("format") if isinstance(table, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ExportError(
            f"The format of the export {str(folder)!r} must be at most {FORMAT}, got "
            f"{short(version)}. Upgrade glora-automl."
        )
    # Classes are named by folders, whose names may have any character.
    record = validate(
        Record,
        table,
        f"export {short(str(folder))}",
        ExportError,
        control=True,
        hint="Export again.",
    )
    if kinds and record.kind not in kinds:
        raise ExportError(
            f"The export {str(folder)!r} must be of kind {' or '.join(kinds)}, got "
            f"{record.kind!r}. Export the study with `to` {kinds[0]!r}."
        )
    for name, expected in record.files.items():
        _check_file(folder, name, expected)
    # A loader that misses its file would look for another name, with an unchecked sha256.
    for name in FILES[record.kind]:
        if name not in record.files:
            raise ExportError(
                f"The record of the export {str(folder)!r} must hold the sha256 of {name!r}, got "
                "none. Export again."
            )
    return record


def _check_file(folder: Path, name: str, expected: str) -> None:
    if Path(name).name != name:  # a record must not reach other folders
        raise ExportError(
            f"The record of the export {str(folder)!r} must name files of its own folder, got "
            f"{name!r}. Export again."
        )
    try:
        if not (folder / name).is_file():  # a pipe would be waited for
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        found = file_digest(folder / name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(
            f"The file {str(folder / name)!r} must be readable, got: {reason}. Export again."
        ) from None
    if found != expected:
        raise ExportError(
            f"The file {str(folder / name)!r} must have sha256 {expected[:16]}..., got "
            f"{found[:16]}...: altered or cut short. Export again."
        )
