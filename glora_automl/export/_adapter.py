"""Adapters as folders of kilobytes, and on timm models."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from glora_automl._files import user_path
from glora_automl._messages import short
from glora_automl.adapters import adapted_layers, classifiers, detach
from glora_automl.adapters import merge as merge_layers
from glora_automl.architecture import TENSORS, Architecture
from glora_automl.errors import ExportError, GLoRAError
from glora_automl.export._folder import atomic_folder
from glora_automl.export._record import (
    Backbone,
    Preprocessing,
    Record,
    backbone_digest,
    read_record,
    write_record,
)
from glora_automl.supernet import Supernet
from glora_automl.training import load_tensors, save_tensors

__all__ = [
    "Adapter",
    "attach_adapter",
    "check_backbone_digest",
    "load_adapter",
    "load_adapters",
    "read_adapter",
    "save_adapter",
    "write_adapter",
]

WEIGHTS = "adapter.safetensors"

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Adapter:
    """Adapter with its classifier head.

    Attributes:
        record: Record of backbone, classes, preprocessing and source.
        tensors: Active support tensors, LoRA factors cut to their rank, and head, by their names
            in the adapted model.

    Example:
        >>> import tempfile, timm
        >>> from glora_automl.adapters import detach
        >>> from glora_automl.architecture import Choice
        >>> from glora_automl.backbones import BackboneSettings
        >>> from glora_automl.tasks import InputFormat
        >>> model = timm.create_model("test_vit", num_classes=2)
        >>> backbone = Backbone.of(BackboneSettings(model="test_vit"), model)
        >>> supernet = Supernet(model, {"blocks.0.attn.qkv": {"E": [Choice.parse("vector")]}})
        >>> supernet.activate(Architecture.parse("blocks.0.attn.qkv: E=vector"))
        >>> preprocessing = Preprocessing.of(InputFormat((3, 160, 160), (0.5,) * 3, (0.5,) * 3))
        >>> adapter = Adapter.of(supernet, backbone, ("cat", "dog"), preprocessing)
        >>> path = save_adapter(tempfile.mkdtemp() + "/pets", adapter)
        >>> read_adapter(path).classes
        ('cat', 'dog')
        >>> load_adapter(detach(model), path, merge=True) is model
        True
    """

    record: Record
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        supernet: Supernet,
        backbone: Backbone,
        classes: tuple[str, ...],
        preprocessing: Preprocessing,
        about: Mapping[str, Any] | None = None,
    ) -> Adapter:
        """Return the active architecture of a supernet, with its head.

        Args:
            supernet: The supernet, not merged.
            backbone: Its backbone.
            classes: Class names, in the order of the logits.
            preprocessing: Preprocessing of images.
            about: Metadata for the record, as JSON values.
        """
        architecture = Architecture({name: layer.active for name, layer in supernet.layers.items()})
        shapes = {name: layer.shape for name, layer in supernet.layers.items()}
        record = Record(
            kind="adapter",
            classes=classes,
            preprocessing=preprocessing,
            backbone=backbone,
            architecture=str(architecture),
            n_params=architecture.count(shapes),
            about=dict(about or {}),
        )
        return cls(record, supernet.active_state_dict())

    @property
    def architecture(self) -> Architecture:
        """The architecture."""
        return Architecture.parse(self.record.architecture)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the logits."""
        return self.record.classes


def save_adapter(path: str | Path, adapter: Adapter, *, force: bool = False) -> Path:
    """Write an adapter as a folder: ``glora.json`` and ``adapter.safetensors``.

    Args:
        path: The folder, which must not exist.
        adapter: The adapter.
        force: Whether an existing export is replaced.

    Raises:
        ExportError: If ``path`` exists, unless it is an export and ``force`` is set.
        StorageError: If the folder cannot be written.
    """
    path = user_path(path, "path", ExportError)
    with atomic_folder(path, force=force, argument="path") as folder:
        write_adapter(folder, adapter)
    return path


def write_adapter(folder: Path, adapter: Adapter) -> Record:
    """Write an adapter into an existing folder and return its record."""
    save_tensors(folder / WEIGHTS, dict(adapter.tensors), {"format": "pt"})
    return write_record(folder, adapter.record, [WEIGHTS])


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter that :func:`save_adapter` or :func:`export_model` wrote.

    Raises:
        ExportError: If the folder is no adapter, or a file is altered or cut short.
    """
    folder = user_path(path, "path", ExportError)
    record = read_record(folder, "adapter")
    return Adapter(record, load_tensors(folder / WEIGHTS, ExportError, "Export again."))


def load_adapter(model: Model, path: str | Path, *, merge: bool = False) -> Model:
    """Load an adapter and its classifier head onto their backbone.

    A head for another number of classes is replaced. The ``pretrained_cfg`` of a timm model gets
    the adapter's classes and preprocessing. For several adapters on one backbone see
    :func:`load_adapters`.

    Args:
        model: The backbone, from ``timm.create_model``, changed in place.
        path: Folder of the adapter.
        merge: Whether the adapter is merged into plain layers, at the speed of the backbone.
            Otherwise the layers are :class:`glora_automl.adapters.GLoRALinear`: adapter and head
            are trainable, and :func:`glora_automl.adapters.detach` removes the adapter.

    Returns:
        ``model``, in evaluation mode.

    Raises:
        ExportError: If the folder is no adapter, a file is altered or cut short, or the adapter
            was trained on another backbone.
    """
    attach_adapter(model, read_adapter(path), name=str(path))
    if merge:
        merge_layers(model)
    return model


def load_adapters(
    model: Model, paths: Mapping[str, str | Path], *, merge: bool = False
) -> dict[str, Model]:
    """Load several adapters onto one backbone, as models that share its weights.

    Each model takes the memory of its adapter and head, and with ``merge`` that of its merged
    layers.

    Args:
        model: The backbone, from ``timm.create_model``. It is frozen and otherwise unchanged.
        paths: Folders of the adapters, by name.
        merge: As for :func:`load_adapter`.

    Returns:
        The models by name, in evaluation mode.

    Raises:
        ExportError: As :func:`load_adapter` does.
    """
    heads = {id(t) for head in classifiers(model) for t in (*head.parameters(), *head.buffers())}
    tensors = [*model.parameters(), *model.buffers()]
    shared = {id(t): t for t in tensors if id(t) not in heads}
    # deepcopy shares the tensors that its memo already holds.
    return {
        name: load_adapter(copy.deepcopy(model, dict(shared)), path, merge=merge)
        for name, path in paths.items()
    }


def attach_adapter(model: nn.Module, adapter: Adapter, *, name: str = "") -> Supernet:
    """Attach an adapter and its head to their backbone.

    Args:
        model: The backbone, changed in place and set to evaluation mode.
        adapter: The adapter.
        name: Name of the adapter in messages.

    Returns:
        The supernet of the adapter's architecture, which is active.

    Raises:
        ExportError: If the adapter was trained on another backbone, or its tensors do not match
            its architecture.
    """
    check_backbone_digest(model, adapter.record, name)
    _check_record(model, adapter, name)
    _replace_head(model, adapter)
    choices = {
        layer: {t: (choice,) for t, choice in zip(TENSORS, of_layer, strict=True)}
        for layer, of_layer in adapter.architecture.items()
    }
    try:
        supernet = Supernet(model, choices)
        supernet.activate(adapter.architecture)
        supernet.load_state_dict(adapter.tensors)
        count = adapter.architecture.count({n: la.shape for n, la in supernet.layers.items()})
        if count != adapter.record.n_params:
            raise ExportError(f"its record has {adapter.record.n_params} parameters, not {count}.")
    except GLoRAError as error:
        detach(model)
        raise ExportError(
            f"Tensors of the adapter {name!r} must match its record, got: {error}"
        ) from None
    adapter.record.configure(model)
    model.eval()
    return supernet


def check_backbone_digest(model: nn.Module, record: Record, name: str) -> None:
    """Check that a model is the backbone of an adapter.

    Raises:
        ExportError: If it is another backbone, or is already adapted.
    """
    if adapted_layers(model):
        raise ExportError(
            f"`model` must be without an adapter to load {name!r}, got an adapted one. Call "
            "glora_automl.adapters.detach(model), or load several with glora_automl.load_adapters."
        )
    found, backbone = backbone_digest(model), record.backbone
    if found != backbone.digest:
        arguments = [repr(backbone.model), *(f"{k}={v!r}" for k, v in backbone.kwargs.items())]
        raise ExportError(
            f"The backbone of the adapter {short(name)} must have the digest "
            f"{backbone.digest[:16]}..., got {found[:16]}.... Call "
            f"timm.create_model({', '.join(arguments)}) and load the study's weights."
        )


def _check_record(model: nn.Module, adapter: Adapter, name: str) -> None:
    """Check classes and image size of a record against its head and the backbone.

    Raises:
        ExportError: If they differ.
    """
    heads = {id(p) for module in classifiers(model) for p in module.parameters()}
    names = [n for n, p in model.named_parameters() if id(p) in heads]
    found = {len(adapter.tensors[n]) for n in names if n in adapter.tensors}
    if found and found != {len(adapter.classes)}:
        raise ExportError(
            f"The head of the adapter {name!r} must have one output for each of its "
            f"{len(adapter.classes)} classes, got {', '.join(map(str, sorted(found)))}."
        )
    patches = getattr(model, "patch_embed", None)
    size = getattr(patches, "img_size", None)
    wanted = adapter.record.preprocessing.size[1:]
    if getattr(patches, "strict_img_size", False) and size not in (None, wanted):
        raise ExportError(
            f"The images of the adapter {name!r} must have the size {size} of its backbone, got "
            f"{wanted}."
        )


def _replace_head(model: nn.Module, adapter: Adapter) -> None:
    """Replace a head for another number of classes."""
    heads = {id(p) for module in classifiers(model) for p in module.parameters()}
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if id(p) in heads}
    expected = {name: tuple(t.shape) for name, t in adapter.tensors.items()}
    if shapes and all(expected.get(name) == shape for name, shape in shapes.items()):
        return
    device = next(model.parameters()).device
    model.reset_classifier(len(adapter.classes))  # type: ignore[operator]
    model.to(device)
