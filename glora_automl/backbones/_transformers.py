"""Image models of transformers as backbones: images to logits, with timm's names of the head."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from glora_automl._extras import require
from glora_automl._messages import one_line, short
from glora_automl.backbones._names import PREFIX
from glora_automl.errors import TaskError
from glora_automl.tasks import InputFormat
from glora_automl.training import seeded

__all__ = [
    "as_transformers",
    "image_format",
    "is_transformers",
    "logits_model",
    "quiet_transformers",
    "transformers_config",
    "transformers_model",
]

_INTERPOLATION = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers of interpolations, as image processors have them."""


def is_transformers(model: nn.Module) -> bool:
    """Return whether a module is an image classifier of transformers.

    Example:
        >>> is_transformers(nn.Linear(2, 2))
        False
    """
    return hasattr(model, "config") and hasattr(model, "save_pretrained") and _has_head(model)


def _has_head(model: nn.Module) -> bool:
    return isinstance(getattr(model, "classifier", None), nn.Module)


def transformers_model(name: str, n_classes: int, seed: int, pretrained: bool) -> nn.Module:
    """Create an image classifier of transformers with a new head.

    Only code of transformers itself and weights in safetensors are used.

    Args:
        name: :data:`PREFIX` and a repository of the hub or a folder, which
            ``transformers.AutoModelForImageClassification`` loads: ViT, DINOv2, the vision tower of
            CLIP, Swin and others.
        n_classes: Number of classes.
        seed: Seed of the initial head, and of all values without ``pretrained``.
        pretrained: Whether its weights are loaded.

    Raises:
        TaskError: If transformers is not installed or cannot create the model.
    """
    place = name.removeprefix(PREFIX)
    purpose = f"backbone.model = {short(name)}"
    library = require("transformers", "transformers", TaskError, purpose)
    try:
        with seeded(seed), quiet_transformers():
            config = library.AutoConfig.from_pretrained(
                place, num_labels=n_classes, trust_remote_code=False
            )
            if pretrained:
                model: Any = library.AutoModelForImageClassification.from_pretrained(
                    place,
                    config=config,
                    ignore_mismatched_sizes=True,
                    use_safetensors=True,
                    trust_remote_code=False,  # by default a terminal is asked
                )
            else:
                model = library.AutoModelForImageClassification.from_config(
                    config, trust_remote_code=False
                )
            if not _has_head(model):
                raise TypeError(f"{type(model).__name__} has no classifier")
            found = logits_model(model.float(), _processor(place))
            found.reset_classifier(n_classes)  # type: ignore[operator]
    except Exception as error:  # transformers and the hub raise any exception
        raise TaskError(
            f"backbone.model must be an image classifier that transformers can load, got "
            f"{short(name)}: {one_line(error)}. Correct `backbone.model`."
        ) from error
    return found.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Show no bars and no list of new weights of transformers inside the block."""
    logging: Any = import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _processor(place: str) -> dict[str, Any]:
    """Return the settings of an image processor; empty where there are none."""
    folder = Path(place)
    file: Path | str | None = folder / "preprocessor_config.json"
    if not folder.is_dir():
        hub: Any = import_module("transformers.utils")
        file = hub.cached_file(
            place, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
        )
    if file is None or not Path(file).is_file():
        return {}
    table = json.loads(Path(file).read_text(encoding="utf-8"))
    return table if isinstance(table, dict) else {}


def logits_model(model: nn.Module, processor: dict[str, Any] | None = None) -> nn.Module:
    """Let a classifier of transformers return logits, and name its head as timm does.

    Names of layers and tensors stay those of transformers.

    Args:
        model: The model, changed in place.
        processor: Settings of its image processor.

    Returns:
        ``model``.
    """
    if not hasattr(type(model), "glora_plain"):
        model.__class__ = _logits_class(type(model))  # type: ignore[arg-type]
    if processor is not None or not hasattr(model, "glora_processor"):
        model.glora_processor = dict(processor or {})  # type: ignore[assignment]
    return model


def as_transformers(model: nn.Module) -> nn.Module:
    """Undo :func:`logits_model` in place, and return the model."""
    plain = getattr(type(model), "glora_plain", None)
    if plain is not None:
        model.__class__ = plain
        vars(model).pop("glora_processor", None)
    return model


@functools.cache
def _logits_class(plain: type) -> type:
    """Return a class of models that return logits; a class, as copies of a model keep it."""

    class Logits(plain):  # type: ignore[misc]
        glora_plain = plain

        def forward(self, pixel_values: Tensor) -> Tensor:
            logits: Tensor = super().forward(pixel_values).logits
            return logits

        def get_classifier(self) -> nn.Module:
            linear = [m for m in self.classifier.modules() if isinstance(m, nn.Linear)]
            return linear[-1] if linear else self.classifier

        def reset_classifier(self, num_classes: int) -> None:
            head = self.get_classifier()
            assert isinstance(head, nn.Linear)
            if head.out_features != num_classes:
                head.out_features = num_classes
                head.weight = nn.Parameter(head.weight.new_empty(num_classes, head.in_features))
                head.bias = nn.Parameter(head.weight.new_empty(num_classes))
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
            self.config.num_labels = self.num_labels = num_classes

        def set_grad_checkpointing(self, enable: bool = True) -> None:
            if enable:
                self.gradient_checkpointing_enable()
            else:
                self.gradient_checkpointing_disable()

    Logits.__name__ = Logits.__qualname__ = plain.__name__
    return Logits


def image_format(model: nn.Module) -> InputFormat:
    """Return the input format of a model of :func:`logits_model`.

    Its image processor gives size, mean and standard deviation. Without one they are the size of
    its configuration, and 0.5.
    """
    config: Any = model.config
    config = getattr(config, "vision_config", config)
    processor: Any = model.glora_processor
    channels = int(getattr(config, "num_channels", 3))
    wanted = processor.get("crop_size") if processor.get("do_center_crop") else None
    wanted = wanted or processor.get("size") or getattr(config, "image_size", 224)
    whole = processor.get("size") or {}
    shortest = whole.get("shortest_edge") if isinstance(whole, dict) else None
    size = _size(wanted)
    mean, std = (
        _channels(processor.get(key) or [0.5], channels) for key in ("image_mean", "image_std")
    )
    kind = _INTERPOLATION.get(processor.get("resample", 2), "bilinear")
    crop = min(1.0, min(size) / shortest) if shortest and processor.get("crop_size") else 1.0
    return InputFormat((channels, *size), mean, std, kind, crop)


def transformers_config(target: InputFormat, crop_mode: str) -> dict[str, Any]:
    """Return the settings of an image processor that prepares images as a study does.

    Example:
        >>> target = InputFormat((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
        >>> transformers_config(target, "squash")["size"]
        {'height': 8, 'width': 8}
    """
    _, height, width = target.size
    table: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": {name: number for number, name in _INTERPOLATION.items()}[target.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(target.mean),
        "image_std": list(target.std),
    }
    if crop_mode == "center":
        table |= {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": round(min(height, width) / target.crop_pct)},
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
        }
    return table


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, dict):
        side: Any = value.get("shortest_edge", 0)
        return int(value.get("height", side)), int(value.get("width", side))
    if isinstance(value, list | tuple):
        return int(value[0]), int(value[-1])
    return int(value), int(value)


def _channels(values: Any, channels: int) -> tuple[float, ...]:
    numbers = tuple(map(float, values))
    return numbers if len(numbers) == channels else (sum(numbers) / len(numbers),) * channels
