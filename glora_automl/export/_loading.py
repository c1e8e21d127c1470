"""Python code that loads an export as it stands, for its card."""

from __future__ import annotations

from glora_automl.backbones import PREFIX
from glora_automl.export._record import BACKBONE, Kind, Record

__all__ = ["loading_code"]

_OPEN = """\
image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGBA")
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("{mode}")"""

_PIPELINE = """\
from PIL import Image, ImageOps
from transformers import pipeline

classify = pipeline("image-classification", model="{place}")
{open}
print(classify(image))"""

_TIMM = """\
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("{scheme}{place}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
{open}
with torch.inference_mode():
    probabilities = model(transform(image)[None]).softmax(1)"""

_LOAD: dict[Kind, str] = {
    "timm": _TIMM,
    "transformers": _PIPELINE,
    "backbone": """\
import timm

model = timm.create_model("{scheme}{place}", pretrained=True)""",
    "adapter": """\
import glora_automl
{imports}
path = {path}
{backbone}
model = glora_automl.load_adapter(model, path, merge=True)""",
    "peft": """\
import peft
{imports}
path = {path}
{backbone}
model = peft.PeftModel.from_pretrained(model, path).eval()""",
    "onnx": """\
import numpy as np
import onnxruntime
{imports}
path = {path}
session = onnxruntime.InferenceSession(path + "/model.onnx")
images = np.zeros({shape}, dtype=np.{dtype})  # {images}
({output},) = session.run(None, {{"images": images}})""",
    "pt2": """\
import torch
{imports}
path = {path}
model = torch.export.load(path + "/model.pt2").module()
images = torch.zeros({shape}, dtype=torch.{dtype})  # {images}
{output} = model(images)""",
}


def loading_code(record: Record, path: str, repository: str | None) -> str:
    """Return the lines that load an export.

    Args:
        record: Record of the export.
        path: Name of its folder.
        repository: Its repository on the hub, if it is pushed.
    """
    preprocessing, is_pixels = record.preprocessing, record.input == "pixels"
    template = _LOAD[record.kind]
    if record.kind == "backbone" and record.backbone.model.startswith(PREFIX):
        template = _PIPELINE
    library, backbone = _backbone(record)
    imports = [] if record.kind not in ("adapter", "peft") else [f"import {library}"]
    if repository is not None:
        imports.insert(0, "import huggingface_hub")
    return template.format(
        place=path if repository is None else repository,
        scheme="local-dir:" if repository is None else "hf-hub:",
        path=f'"{path}"'
        if repository is None
        else f'huggingface_hub.snapshot_download("{repository}")',
        imports="".join(f"{line}\n" for line in imports),
        backbone=backbone,
        shape=(1, *preprocessing.size),
        dtype="uint8" if is_pixels else "float32",
        images="of any size" if is_pixels else "preprocessed as below",
        output="probabilities" if is_pixels else "logits",
        open=_OPEN.format(mode="L" if preprocessing.size[0] == 1 else "RGB"),
    )


def _backbone(record: Record) -> tuple[str, str]:
    """Return the library of an adapter's backbone, and the line that loads it."""
    backbone = record.backbone
    if backbone.model.startswith(PREFIX):
        place = repr(backbone.model.removeprefix(PREFIX))
        place = place if backbone.pretrained else f'path + "/{BACKBONE}"'
        call = "transformers.AutoModelForImageClassification.from_pretrained"
        return "transformers", (
            f"model = {call}(\n    {place.replace(chr(39), chr(34))}, "
            f"num_labels={len(record.classes)}, ignore_mismatched_sizes=True\n)"
        )
    arguments = {"num_classes": len(record.classes)}
    if backbone.pretrained:
        arguments |= backbone.kwargs
    name = f'"{backbone.model}"' if backbone.pretrained else f'f"local-dir:{{path}}/{BACKBONE}"'
    more = "".join(f", {key}={value!r}" for key, value in arguments.items())
    return "timm", f"model = timm.create_model({name}, pretrained=True{more})"
