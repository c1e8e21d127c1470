"""Model card of an export, in the format of the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
from huggingface_hub import EvalResult, ModelCardData

from glora_automl._version import __version__
from glora_automl.export._record import Kind, Record
from glora_automl.export._verify import Verification
from glora_automl.report import (
    Snapshot,
    accuracy_text,
    class_table,
    classes_title,
    confusion_table,
    markdown_study,
    markdown_table,
    matrix_table,
    metric_title,
)
from glora_automl.study import ClassReport, read_data
from glora_automl.training import Score, metric_value

__all__ = ["model_card"]

_TITLES: dict[Kind, str] = {
    "timm": "merged into a plain timm model",
    "backbone": "the backbone of adapters",
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
# images: float32 (batch, {size}), with the preprocessing in the metadata
(logits,) = session.run(["logits"], {{"images": images}})""",
}


def model_card(
    record: Record,
    study: optuna.Study,
    verification: Verification,
    path: str,
    classes: ClassReport | None = None,
) -> str:
    """Return the card: front matter, usage, figures, limits, verification and study.

    Args:
        record: Record of the export.
        study: Its study.
        verification: Its comparison with the study's subnet.
        path: Name of its folder.
        classes: The exported adapter by class, if it was tested.
    """
    snapshot = Snapshot.of(study)
    about = record.about
    is_backbone = record.kind == "backbone"
    parts = [
        f"---\n{_front_matter(record, path, snapshot).to_yaml()}\n---",
        f"# {path}",
        f"{_summary(record, snapshot)} Made by glora_automl {__version__}.",
        "## Usage",
        f"```python\n{_load(record, path)}\n```",
        "" if is_backbone else f"Or run `glora predict {path} IMAGES`.",
        _preprocessing(record),
        _weights(record),
        f"Classes: {', '.join(record.classes)}.",
    ]
    if not is_backbone:
        parts += ["## Accuracy", _figures(record, snapshot)]
        parts += read_data(study).majority_notes()
        parts += [] if classes is None else _classes(classes)
        parts += ["## Limits", _limits(record, snapshot)]
        parts += ["## Architecture", f"```text\n{record.architecture}\n```"]
    parts += [
        "## Verification",
        f"The written files were loaded and compared with the study's "
        f"{'backbone' if is_backbone else 'subnet'} on {verification.n_images} validation images. "
        f"Logits differ by at most {verification.difference:.1e} (tolerance "
        f"{verification.tolerance:.1e}, largest logit {verification.largest:.1f}), and "
        f"{verification.n_same_predictions} of {verification.n_images} predictions are equal. "
        "`glora.json` holds the sha256 of the files.",
        f"## Study {about['study']!r}",
        *(part.replace("## ", "### ", 1) for part in markdown_study(snapshot, name_workers=False)),
        "### Recipe",
        f"```json\n{json.dumps(_recipe(snapshot), indent=1, ensure_ascii=False)}\n```",
        f"Made with {', '.join(f'{k} {v}' for k, v in about['versions'].items())}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(record: Record, path: str, snapshot: Snapshot) -> ModelCardData:
    metric = snapshot.recipe.metric
    metrics = ["accuracy", *([] if metric == "accuracy" else [metric])]
    library = {"timm": "timm", "backbone": "timm", "peft": "peft", "onnx": "onnx"}
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=str(record.about["study"]),
            dataset_name=str(record.about["study"]),
            dataset_split=split,
            metric_type=key,
            metric_value=round(value, 4),
        )
        for key in metrics
        for split in ("validation", "test")
        if record.kind != "backbone"
        and record.about[split] is not None
        and (value := Score(**record.about[split]).value(key)) is not None
    ]
    known: dict[str, Any] = {"model_name": path, "eval_results": results} if results else {}
    return ModelCardData(
        library_name=library.get(record.kind, "glora-automl"),
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "glora", "parameter-efficient-fine-tuning"],
        base_model=record.backbone.hub or None,
        metrics=metrics,
        **known,
    )


def _summary(record: Record, snapshot: Snapshot) -> str:
    backbone, about = record.backbone, record.about
    if record.kind == "backbone":
        return f"`{backbone.model}`: {_TITLES['backbone']}."
    fraction = record.n_params / about["n_backbone_params"]
    return (
        f"`{backbone.model}`, adapted to {len(record.classes)} classes, "
        f"{_TITLES[record.kind]}. The adapter has {record.n_params:,} trainable parameters without "
        f"the classifier: {fraction:.2%} of the backbone's {about['n_backbone_params']:,}, with a "
        f"budget of {about['budget']:,}. GLoRA "
        "([arXiv 2306.07967](https://arxiv.org/abs/2306.07967)) gives each linear layer five "
        f"support tensors. {_origin(record, snapshot)}"
    )


def _origin(record: Record, snapshot: Snapshot) -> str:
    """Return a sentence on the selection of the architecture."""
    origin = record.about["origin"]
    if snapshot.recipe.architecture is not None:
        return f"The recipe sets the architecture ({origin}), without a search."
    search = f"a search with {len(snapshot.trials):,} trials"
    if record.about["preset"] is not None:
        return f"The architecture is the baseline {origin}, which validated better than {search}."
    return f"The architecture is {origin} of {search}."


def _load(record: Record, path: str) -> str:
    backbone = record.backbone
    arguments = {**({"pretrained": True} if backbone.pretrained else {}), **backbone.kwargs}
    channels = record.preprocessing.size[0]
    predict = _PREDICT.format(transform="transform", mode="L" if channels == 1 else "RGB")
    return _LOAD[record.kind].format(
        path=path,
        model=backbone.model,
        arguments="".join(f", {key}={value!r}" for key, value in arguments.items()),
        classes=len(record.classes),
        size=", ".join(map(str, record.preprocessing.size)),
        predict=predict,
    )


def _preprocessing(record: Record) -> str:
    preprocessing = record.preprocessing
    deep = ""
    if preprocessing.value_range is not None:
        low, high = preprocessing.value_range
        deep = f", values from {low:g} to {high:g} in images of more than 8 bits"
    return (
        f"Preprocessing: {' x '.join(map(str, preprocessing.size))} ({preprocessing.crop_mode}, "
        f"{preprocessing.interpolation}), mean {_numbers(preprocessing.mean)}, standard deviation "
        f"{_numbers(preprocessing.std)}{deep}."
    )


def _weights(record: Record) -> str:
    """Return a sentence on the source of an adapter's backbone."""
    if record.kind not in ("adapter", "peft"):
        return ""
    digest = f"digest `{record.backbone.digest}`"
    if record.backbone.pretrained:
        return f"timm downloads the backbone's weights, {digest}."
    source = (
        f"a file with the sha256 `{record.backbone.checkpoint}`"
        if record.backbone.checkpoint
        else "the study"
    )
    return (
        f"The backbone's weights come from {source}, {digest}. An export of kind `backbone` of the "
        f"study `{record.about['study']}` contains them for timm, and is the argument `backbone` "
        "of `glora_automl.predict`."
    )


def _figures(record: Record, snapshot: Snapshot) -> str:
    metric = snapshot.recipe.metric
    title = metric_title(metric) + (" in %" if metric.endswith("accuracy") else "")
    rows = [
        ("images", "accuracy in % (95% interval)", title),
        ("---", *["---:"] * 2),
    ]
    for split in ("validation", "test"):
        if record.about[split] is not None:
            score = Score(**record.about[split])
            value = metric_value(metric, score.custom)
            rows.append((f"{score.n_images:,} {split}", accuracy_text(score), value))
    shown = 2 if metric == "accuracy" else 3
    return "\n".join(f"| {' | '.join(row[:shown])} |" for row in rows)


def _classes(report: ClassReport) -> list[str]:
    """Return the sections of an adapter's classes."""
    parts = [f"## {classes_title(report)}", markdown_table(*class_table(report))]
    confusions = confusion_table(report)
    if confusions.lines:
        parts += ["### Most frequent confusions", markdown_table(*confusions)]
    if (matrix := matrix_table(report, max_classes=20)) is not None:
        parts += ["### Confusion matrix", markdown_table(*matrix)]
    return parts


def _limits(record: Record, snapshot: Snapshot) -> str:
    about = record.about
    lines = [
        f"The model predicts one of its {len(record.classes)} classes for every image.",
        "The intervals (Wilson) cover the sampling of images like these, not other cameras, places "
        "or times.",
    ]
    if snapshot.recipe.architecture is None:
        lines.append(
            f"The architecture was selected among {len(snapshot.trials):,} trials on the "
            "validation images, so their accuracy is biased upwards."
        )
    if about["weights"] == "inherited":
        lines.append(
            f"The weights are inherited by {about['origin']} from the supernet, without "
            "stand-alone training."
        )
    elif about["weights"] == "refit":
        lines.append(
            "The validation accuracy is that of the weights before their refit on training and "
            "validation images."
        )
    lines += read_data(snapshot.study).notes()
    if about["test"] is None:
        lines.append(
            "The model was never evaluated on the test images. The result below is that of the "
            "study's winner."
        )
    if about["budget"] != snapshot.budget:
        lines.append(
            f"The model was selected for a budget of {about['budget']:,}. The result below is that "
            f"of the study's winner, with a budget of {snapshot.budget:,}."
        )
    return "\n".join(f"- {line}" for line in lines)


def _recipe(snapshot: Snapshot) -> dict[str, Any]:
    """Return the study's recipe without local folders, because cards are published."""
    table = snapshot.recipe.model_dump(mode="json")
    for section, key in (("task", "path"), ("task", "root"), ("backbone", "checkpoint")):
        if isinstance(path := table[section].get(key), str):
            table[section][key] = Path(path).name
    return table


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
