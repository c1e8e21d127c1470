"""An adapter as a folder of kilobytes, and onto a timm model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
from torch import Tensor, nn

from glora_automl.adapters import adapted_layers, classifiers
from glora_automl.adapters import merge as merge_layers
from glora_automl.architecture import TENSORS, Architecture
from glora_automl.errors import ExportError, GLoRAError
from glora_automl.export._folder import whole_folder
from glora_automl.export._record import (
    Backbone,
    Preprocessing,
    Record,
    backbone_digest,
    read_record,
    write_record,
)
from glora_automl.supernet import Supernet
from glora_automl.training import save_tensors

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
    """An adapter and the classifier head that was trained with it.

    Attributes:
        record: What it belongs on, what it distinguishes, and where it comes from.
        tensors: The support tensors that its architecture uses, lora factors cut to their rank,
            and the head, by their names in the adapted model.

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
        >>> seen = Preprocessing.of(InputFormat((3, 160, 160), (0.5,) * 3, (0.5,) * 3))
        >>> adapter = Adapter.of(supernet, backbone, ("cat", "dog"), seen)
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
        """The active architecture of a supernet, and its head.

        Args:
            supernet: The supernet, not merged.
            backbone: Its backbone.
            classes: Class names, in the order of the logits.
            preprocessing: What it sees of an image.
            about: Anything to be told of it, as JSON.
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
        """Its architecture."""
        return Architecture.parse(self.record.architecture)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; logits index them."""
        return self.record.classes


def save_adapter(path: str | Path, adapter: Adapter, *, force: bool = False) -> Path:
    """Write an adapter as a folder: ``glora.json`` and ``adapter.safetensors``.

    Args:
        path: The folder, which must not be there yet.
        adapter: The adapter.
        force: Whether an export that is there is replaced.

    Raises:
        ExportError: If something is there.
        StorageError: If it cannot be written.
    """
    with whole_folder(Path(path), force=force) as folder:
        write_adapter(folder, adapter)
    return Path(path)


def write_adapter(folder: Path, adapter: Adapter) -> Record:
    """Write an adapter into a folder that is there; returns its record."""
    save_tensors(folder / WEIGHTS, dict(adapter.tensors))
    return write_record(folder, adapter.record, [WEIGHTS])


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter that :func:`save_adapter` or ``glora export --to adapter`` wrote.

    Raises:
        ExportError: If it is none, or altered or cut short.
    """
    folder = Path(path)
    record = read_record(folder, "adapter")
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except (safetensors.SafetensorError, OSError) as error:
        raise ExportError(
            f"The file {str(folder / WEIGHTS)!r} must be safetensors: {error}."
        ) from None
    return Adapter(record, tensors)


def load_adapter(model: Model, path: str | Path, *, merge: bool = False) -> Model:
    """Put an adapter and its classifier head onto the backbone that they were trained on.

    A head for another number of classes is replaced. For several adapters on one backbone see
    :func:`load_adapters`.

    Args:
        model: The backbone, from ``timm.create_model``; it is changed in place.
        path: The adapter's folder.
        merge: Whether its layers become plain ones, at the speed of the backbone. Otherwise they
            are :class:`glora_automl.adapters.GLoRALinear`, adapter and head can be trained on, and
            :func:`glora_automl.adapters.detach` takes the adapter off.

    Returns:
        ``model``, in evaluation mode.

    Raises:
        ExportError: If the adapter is none, altered or cut short, or was trained on another
            backbone.
    """
    attach_adapter(model, read_adapter(path), name=str(path))
    if merge:
        merge_layers(model)
    return model


def load_adapters(
    model: Model, paths: Mapping[str, str | Path], *, merge: bool = False
) -> dict[str, Model]:
    """Several adapters on one backbone: a model each, which share the backbone's weights.

    To switch is to call another one. Each takes the memory of its adapter and head alone, or also
    that of the layers that ``merge`` makes plain.

    Args:
        model: The backbone, from ``timm.create_model``. It is frozen, and otherwise stays as it is.
        paths: The adapters' folders, by any names.
        merge: As for :func:`load_adapter`.

    Returns:
        The models by those names, in evaluation mode.

    Raises:
        ExportError: As :func:`load_adapter` does.
    """
    heads = {id(t) for head in classifiers(model) for t in (*head.parameters(), *head.buffers())}
    tensors = [*model.parameters(), *model.buffers()]
    shared = {id(t): t for t in tensors if id(t) not in heads}
    # What deepcopy has a copy of it does not copy.
    return {
        name: load_adapter(copy.deepcopy(model, dict(shared)), path, merge=merge)
        for name, path in paths.items()
    }


def attach_adapter(model: nn.Module, adapter: Adapter, *, name: str = "") -> Supernet:
    """Put an adapter and its head onto the backbone that they were trained on.

    Args:
        model: The backbone; it is changed in place and comes out in evaluation mode.
        adapter: The adapter.
        name: What it is called in messages.

    Returns:
        The supernet of this one architecture, which is active.

    Raises:
        ExportError: If it was trained on another backbone, or its tensors are not those of its
            architecture.
    """
    check_backbone_digest(model, adapter.record, name)
    _fit_head(model, adapter)
    only = {
        layer: {t: (choice,) for t, choice in zip(TENSORS, choices, strict=True)}
        for layer, choices in adapter.architecture.items()
    }
    try:
        supernet = Supernet(model, only)
        supernet.activate(adapter.architecture)
        supernet.load_state_dict(adapter.tensors)
    except GLoRAError as error:
        raise ExportError(f"The adapter {name!r} does not fit its own record: {error}") from None
    model.eval()
    return supernet


def check_backbone_digest(model: nn.Module, record: Record, name: str) -> None:
    """Insist on the backbone that an adapter was trained on.

    Raises:
        ExportError: If it is another one, or carries an adapter already.
    """
    if adapted_layers(model):
        raise ExportError(
            f"The model must not be adapted when {name!r} is loaded; take its adapter off with "
            "glora_automl.adapters.detach(model), or have several with glora_automl.load_adapters."
        )
    found, backbone = backbone_digest(model), record.backbone
    if found != backbone.digest:
        given = [repr(backbone.model), *(f"{k}={v!r}" for k, v in backbone.kwargs.items())]
        raise ExportError(
            f"The adapter {name!r} belongs on {backbone.model!r} with the digest "
            f"{backbone.digest[:16]}..., this model has {found[:16]}...: create it with "
            f"timm.create_model({', '.join(given)}) and the weights that the study had."
        )


def _fit_head(model: nn.Module, adapter: Adapter) -> None:
    """Give the model a head of the adapter's size, if it has another one."""
    heads = {id(p) for module in classifiers(model) for p in module.parameters()}
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if id(p) in heads}
    wanted = {name: tuple(t.shape) for name, t in adapter.tensors.items()}
    if shapes and all(wanted.get(name) == shape for name, shape in shapes.items()):
        return
    device = next(model.parameters()).device
    model.reset_classifier(len(adapter.classes))  # type: ignore[operator]
    model.to(device)
