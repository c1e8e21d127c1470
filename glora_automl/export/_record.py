"""What an export says of itself: ``glora.json`` beside its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from torch import nn

from glora_automl._declarations import Declaration, Float, Int, validate
from glora_automl._files import write_atomic
from glora_automl.adapters import adapted_layers, classifiers
from glora_automl.backbones import BackboneSettings
from glora_automl.errors import ExportError
from glora_automl.tasks import InputFormat
from glora_automl.training import tensor_digest

__all__ = [
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
"""Version of what is written; raise it when a key changes its meaning."""

RECORD = "glora.json"

Kind = Literal["timm", "backbone", "adapter", "peft", "onnx"]
"""What an export is."""

KINDS: tuple[Kind, ...] = get_args(Kind)

FILES: dict[Kind, tuple[str, ...]] = {
    "timm": ("model.safetensors", "config.json"),
    "backbone": ("model.safetensors", "config.json"),
    "adapter": ("adapter.safetensors",),
    "peft": ("adapter_model.safetensors", "adapter_config.json"),
    "onnx": ("model.onnx",),
}
"""What is loaded of each kind, and known by its sha256."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Preprocessing(Declaration):
    """How an image becomes what the model sees, in timm's words.

    Attributes:
        size: Channels, height and width.
        mean: Channel means that are subtracted, for values in 0 to 1.
        std: Channel deviations that are divided by.
        interpolation: How images are resized.
        crop_pct: Share of a resized image that is left when its border is cropped.
        resize: ``squash`` brings the whole image to the model's size, ``center`` keeps its shape
            and crops, ``border`` keeps it and fills up; timm calls it ``crop_mode``.
    """

    size: tuple[Int, Int, Int]
    mean: tuple[Float, ...]
    std: tuple[Float, ...]
    interpolation: str
    crop_pct: Float
    resize: Literal["squash", "center", "border"] = "squash"

    @classmethod
    def of(
        cls, target: InputFormat, resize: Literal["squash", "center", "border"] = "squash"
    ) -> Preprocessing:
        """What a study has done with its images.

        Example:
            >>> seen = Preprocessing.of(InputFormat((3, 8, 8), (0.5,) * 3, (0.5,) * 3))
            >>> seen.format.size, seen.resize
            ((3, 8, 8), 'squash')
        """
        table = {**target._asdict(), "resize": resize}
        # Only the middle is cut out of what is cropped.
        table["crop_pct"] = float(target.crop_pct) if resize == "center" else 1.0
        return cls.model_validate(table)

    @property
    def format(self) -> InputFormat:
        """The same for :func:`glora_automl.tasks` to prepare images with."""
        return InputFormat(self.size, self.mean, self.std, self.interpolation, self.crop_pct)


class Backbone(Declaration):
    """Which model an adapter belongs on.

    Attributes:
        model: The name that ``timm.create_model`` knows.
        kwargs: Its further keyword arguments.
        digest: :func:`backbone_digest` of its weights.
        pretrained: Whether they are those that timm downloads.
        hub: Where on the Hugging Face hub they are, if they are there.
        checkpoint: sha256 of the file that they came from, if they came from a local one.
    """

    model: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    digest: Sha256
    pretrained: bool = False
    hub: str = ""
    checkpoint: Sha256 | None = None

    @classmethod
    def of(cls, settings: BackboneSettings, model: nn.Module) -> Backbone:
        """The backbone of a study, adapted or not, but not merged."""
        config: Any = getattr(model, "pretrained_cfg", {})
        return cls(
            model=settings.model,
            kwargs=settings.kwargs,
            digest=backbone_digest(model),
            pretrained=settings.pretrained,
            hub=(config.get("hf_hub_id") or "") if settings.pretrained else "",
            checkpoint=settings.sha256,
        )


class Record(Declaration):
    """What an export says of itself.

    Attributes:
        kind: What it is.
        classes: Class names; logits index them.
        preprocessing: What the model sees of an image.
        backbone: What was adapted.
        architecture: The adapter's printed form; none of a backbone alone.
        n_params: Trainable parameters of the adapter.
        files: sha256 of the files that have the weights, by name.
        about: Where it comes from and how good it is, for people and programs to read.
        format: Version of this record.
    """

    kind: Kind
    classes: tuple[str, ...] = Field(min_length=1)
    preprocessing: Preprocessing
    backbone: Backbone
    architecture: str = ""
    n_params: Int = Field(default=0, ge=0)
    files: dict[str, Sha256] = Field(default_factory=dict)
    about: dict[str, Any] = Field(default_factory=dict)
    format: Int = FORMAT


def backbone_digest(model: nn.Module) -> str:
    """sha256 of a model's weights without its classifier, whether it is adapted or not.

    Names, types, shapes and bytes of all tensors of the state dict count, so another backbone, or
    the same in half precision, has another digest; how many classes the head has does not count.

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


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_record(folder: Path, record: Record, files: Iterable[str]) -> Record:
    """Write the record of an export, with the sha256 of its files; returns it with them.

    Raises:
        StorageError: If it cannot be written.
    """
    digests = {name: file_digest(folder / name) for name in files}
    record = record.model_copy(update={"files": digests})
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / RECORD, lambda file: file.write_text(text, encoding="utf-8"))
    return record


def read_record(folder: Path, *kinds: Kind) -> Record:
    """Read the record of an export, and check its files against it.

    Args:
        folder: The export.
        kinds: What it may be; anything, if none is given.

    Raises:
        ExportError: If it is none, of another kind or version, or a file is missing, altered or
            not named.
    """
    path = folder / RECORD
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(
            f"An export must be a folder with {RECORD!r}, as 'glora export' writes, got "
            f"{str(folder)!r}: {error.strerror}."
        ) from None
    except ValueError:
        raise ExportError(
            f"The file {str(path)!r} must be JSON and is not: it was altered or cut short; export "
            "it again."
        ) from None
    version = table.get("format") if isinstance(table, dict) else None
    if isinstance(version, int) and version > FORMAT:
        raise ExportError(
            f"The export {str(folder)!r} has format {version}, this version reads up to {FORMAT}; "
            "upgrade glora-automl."
        )
    record = validate(Record, table, f"export {str(folder)!r}", ExportError)
    if kinds and record.kind not in kinds:
        raise ExportError(
            f"The export {str(folder)!r} must be of kind {' or '.join(kinds)}, got "
            f"{record.kind!r}; export it with --to {kinds[0]}."
        )
    for name, expected in record.files.items():
        _check_file(folder, name, expected)
    for name in FILES[record.kind]:  # others have a file of another name where it is missing
        if name not in record.files:
            raise ExportError(
                f"The export {str(folder)!r} must name its {name!r} with a sha256; export it again."
            )
    return record


def _check_file(folder: Path, name: str, expected: str) -> None:
    if Path(name).name != name:  # a record names files beside it and reaches nothing else
        raise ExportError(f"The export {str(folder)!r} must name files beside it, got {name!r}.")
    try:
        found = file_digest(folder / name)
    except OSError as error:
        raise ExportError(
            f"The file {str(folder / name)!r} of an export cannot be read: {error.strerror}; "
            "export it again."
        ) from None
    if found != expected:
        raise ExportError(
            f"The file {str(folder / name)!r} must have sha256 {expected[:16]}..., got "
            f"{found[:16]}...: it was altered or cut short; export it again."
        )
