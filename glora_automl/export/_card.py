"""The model card beside an export, as the Hugging Face hub reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
from huggingface_hub import EvalResult, ModelCardData

from glora_automl._version import __version__
from glora_automl.export._record import Kind, Record
from glora_automl.export._verify import Verified
from glora_automl.report import Snapshot, accuracy_text, markdown_study
from glora_automl.training import Score

__all__ = ["model_card"]

_TITLES: dict[Kind, str] = {
    "timm": "merged into a plain timm model",
    "backbone": "the backbone alone, for adapters to be put on",
    "adapter": "an adapter for glora_automl",
    "peft": "an adapter for PEFT",
    "onnx": "merged into an ONNX graph",
}

_PREDICT = """\
image = {transform}(Image.open("image.png").convert("{mode}"))
with torch.inference_mode():
    probabilities = model(image[None]).softmax(1)"""

_LOAD: dict[Kind, str] = {
    "timm": """\
import timm
import torch
from PIL import Image

model = timm.create_model("local-dir:{path}", pretrained=True).eval()  # or "hf-hub:OWNER/{path}"
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
{predict}""",
    "backbone": """\
import timm

model = timm.create_model("local-dir:{path}", pretrained=True)""",
    "adapter": """\
import glora_automl
import timm

# with the backbone's weights
model = timm.create_model("{model}"{arguments})
model = glora_automl.load_adapter(model, "{path}", merge=True)""",
    "peft": """\
import peft
import timm

# with the backbone's weights
model = timm.create_model("{model}"{arguments}, num_classes={classes})
model = peft.PeftModel.from_pretrained(model, "{path}").eval()""",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession("{path}/model.onnx")
# images: float32 (batch, {size}), normalised as the metadata "preprocessing" say
(logits,) = session.run(["logits"], {{"images": images}})""",
}


def model_card(record: Record, study: optuna.Study, verified: Verified, path: str) -> str:
    """Front matter and text: what it is, how to load it, how good it is, how it was made.

    Args:
        record: The export.
        study: The study that it comes from.
        verified: How it was verified.
        path: Name of its folder.
    """
    snapshot = Snapshot.of(study)
    about = record.about
    standalone = record.kind == "backbone"
    parts = [
        f"---\n{_front_matter(record, path).to_yaml()}\n---",
        f"# {path}",
        f"{_summary(record, snapshot)} Made by glora_automl {__version__}.",
        "## Load it",
        f"```python\n{_load(record, path)}\n```",
        f"{'' if standalone else f'Or `glora apply {path} IMAGES`. '}The images are brought to "
        f"{' x '.join(map(str, record.preprocessing.size))} ({record.preprocessing.resize}, "
        f"{record.preprocessing.interpolation}); mean {_numbers(record.preprocessing.mean)}, "
        f"standard deviation {_numbers(record.preprocessing.std)}.",
        _needs(record),
        f"Classes: {', '.join(record.classes)}.",
    ]
    if not standalone:
        parts += ["## How good it is", _figures(record), "## Limits", _limits(record, snapshot)]
        parts += ["## Architecture", f"```text\n{record.architecture}\n```"]
    parts += [
        "## Verified",
        f"Before it got its name, the export was loaded and shown {verified.n_images} validation "
        f"images: its logits differ from those of the study's "
        f"{'backbone' if standalone else 'subnet'} by at most {verified.difference:.1e} (allowed: "
        f"{verified.tolerance:.1e}, the largest logit being {verified.largest:.1f}), and "
        f"{verified.predictions} of {verified.n_images} predictions are the same. `glora.json` has "
        "the sha256 of its files.",
        f"## The study {about['study']!r}",
        *(part.replace("## ", "### ", 1) for part in markdown_study(snapshot, name_workers=False)),
        "### Recipe",
        f"```json\n{json.dumps(_recipe(snapshot), indent=1, ensure_ascii=False)}\n```",
        f"Made with {', '.join(f'{k} {v}' for k, v in about['versions'].items())}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(record: Record, path: str) -> ModelCardData:
    library = {"timm": "timm", "backbone": "timm", "peft": "peft", "onnx": "onnx"}
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=str(record.about["study"]),
            dataset_name=str(record.about["study"]),
            dataset_split=split,
            metric_type="accuracy",
            metric_value=round(record.about[split]["accuracy"], 4),
        )
        for split in ("validation", "test")
        if record.kind != "backbone" and record.about[split] is not None
    ]
    known: dict[str, Any] = {"model_name": path, "eval_results": results} if results else {}
    return ModelCardData(
        library_name=library.get(record.kind, "glora-automl"),
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "glora", "parameter-efficient-fine-tuning"],
        base_model=record.backbone.hub or None,
        metrics=["accuracy"],
        **known,
    )


def _summary(record: Record, snapshot: Snapshot) -> str:
    backbone, about = record.backbone, record.about
    if record.kind == "backbone":
        return f"`{backbone.model}`: {_TITLES['backbone']}."
    share = record.n_params / about["backbone parameters"]
    how = f"a search over {len(snapshot.trials):,} trials chose how each is parameterised"
    if snapshot.recipe.architecture is not None:
        how = "how each is parameterised was given, without a search"
    elif about["baseline"] is not None:
        how = (
            f"here in the way of {about['control']}, which validated better than all that was "
            f"found by a search over {len(snapshot.trials):,} trials"
        )
    return (
        f"`{backbone.model}`, adapted to {len(record.classes)} classes with "
        f"{record.n_params:,} trainable parameters beside its classifier ({share:.2%} of the "
        f"backbone's {about['backbone parameters']:,}; the budget was {about['budget']:,}), "
        f"{_TITLES[record.kind]}. GLoRA ([arXiv 2306.07967](https://arxiv.org/abs/2306.07967)) "
        f"gives each linear layer five support tensors; {how}."
    )


def _load(record: Record, path: str) -> str:
    backbone = record.backbone
    given = {**({"pretrained": True} if backbone.pretrained else {}), **backbone.kwargs}
    channels = record.preprocessing.size[0]
    predict = _PREDICT.format(transform="transform", mode="L" if channels == 1 else "RGB")
    return _LOAD[record.kind].format(
        path=path,
        model=backbone.model,
        arguments="".join(f", {key}={value!r}" for key, value in given.items()),
        classes=len(record.classes),
        size=", ".join(map(str, record.preprocessing.size)),
        predict=predict,
    )


def _needs(record: Record) -> str:
    """Where the weights of an adapter's backbone are."""
    if record.kind not in ("adapter", "peft"):
        return ""
    digest = f"digest `{record.backbone.digest}`"
    if record.backbone.pretrained:
        return f"The backbone is timm's, {digest}."
    where = (
        f"a file with the sha256 `{record.backbone.checkpoint}`"
        if record.backbone.checkpoint
        else "the study alone"
    )
    return (
        f"The backbone's weights come from {where}, {digest}; `glora export "
        f"{record.about['study']} --to backbone` writes them for timm, and `glora apply` takes "
        "them with `--backbone`."
    )


def _figures(record: Record) -> str:
    about = record.about
    lines = ["| images | accuracy in % (95% interval) |", "| --- | ---: |"]
    for split in ("validation", "test"):
        if about[split] is not None:
            score = Score(**about[split])
            lines.append(f"| {score.n_images:,} {split} | {accuracy_text(score)} |")
    return "\n".join(lines)


def _limits(record: Record, snapshot: Snapshot) -> str:
    about = record.about
    lines = [
        f"It knows its {len(record.classes)} classes alone and gives every image to one of them.",
        "The intervals (Wilson's) tell how far other images like these would move a figure, not "
        "what other cameras, places or times would.",
    ]
    if snapshot.recipe.architecture is None:
        lines.append(
            f"Validation images chose it among {len(snapshot.trials):,} trials, so their figure "
            "flatters it."
        )
    if about["weights"] == "inherited":
        lines.append(
            f"Its weights are inherited: those of trial {about['trial']} in the supernet, which "
            "all architectures share, without training on it alone."
        )
    if about["test"] is None:
        lines.append(
            "The test images were never shown to it; the result below is of the study's winner."
        )
    if about["budget"] != snapshot.budget:
        lines.append(
            f"It was picked for a budget of {about['budget']:,}; the result below is of the "
            f"study's winner under {snapshot.budget:,}."
        )
    return "\n".join(f"- {line}" for line in lines)


def _recipe(snapshot: Snapshot) -> dict[str, Any]:
    """The study's recipe without the folders of whoever ran it: cards are published."""
    table = snapshot.recipe.model_dump(mode="json")
    for section, key in (("task", "path"), ("backbone", "checkpoint")):
        if isinstance(path := table[section].get(key), str):
            table[section][key] = Path(path).name
    return table


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
