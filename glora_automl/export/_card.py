"""Model card of an export, in the format of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from huggingface_hub import EvalResult, ModelCardData

from glora_automl._markdown import markdown_table
from glora_automl._version import __version__
from glora_automl.backbones import PREFIX
from glora_automl.export._loading import loading_code
from glora_automl.export._record import BACKBONE, Kind, Record
from glora_automl.export._verify import Verification
from glora_automl.recipes import write_toml
from glora_automl.report import (
    Snapshot,
    accuracy_text,
    class_table,
    classes_title,
    confusion_table,
    markdown_study,
    matrix_table,
    metric_title,
)
from glora_automl.study import ClassReport, read_data
from glora_automl.training import Score, metric_value

__all__ = ["DETAILS", "RECIPE", "model_card", "published_recipe", "study_details"]

_TITLES: dict[Kind, str] = {
    "timm": "merged into a plain timm model, which transformers loads, too",
    "transformers": "merged into a plain model of transformers",
    "backbone": "the backbone of adapters",
    "adapter": "an adapter for glora_automl",
    "peft": "an adapter for PEFT",
    "onnx": "merged into an ONNX graph",
    "pt2": "merged into a program of torch.export",
}

DETAILS = "study.md"
"""File beside the card with figures of classes, architecture and study."""

RECIPE = "recipe.toml"
"""File beside the card with the recipe."""


def model_card(
    record: Record,
    study: optuna.Study,
    verification: Verification,
    path: str,
    repository: str | None = None,
) -> str:
    """Return the card of one page: front matter, loading, figures, limits, licence and data.

    Args:
        record: Record of the export.
        study: Its study.
        verification: Its comparison with the study's subnet.
        path: Name of its folder.
        repository: Repository of the hub that the export is pushed to.
    """
    snapshot = Snapshot.of(study)
    is_backbone = record.kind == "backbone"
    parts = [
        f"---\n{_front_matter(record, path, snapshot).to_yaml()}\n---",
        f"# {path if repository is None else repository}",
        f"{_summary(record, snapshot)} Made by glora_automl {__version__}.",
        "## Load it",
        f"```python\n{loading_code(record, path, repository)}\n```",
        _also(record, path, repository),
        _preprocessing(record),
        _weights(record),
        f"Classes: {_names(record.classes)}.",
    ]
    if not is_backbone:
        parts += ["## Accuracy", _figures(record, snapshot), *read_data(study).accuracy_notes()]
        parts += ["## Limits", _limits(record, snapshot)]
    parts += [
        "## Data and licence",
        _data(snapshot),
        _licence(record),
        "## Verification",
        f"The written files were loaded and compared with the study's "
        f"{'backbone' if is_backbone else 'subnet'} on {verification.n_images} validation images. "
        f"Logits differ by at most {verification.difference:.1e} (tolerance "
        f"{verification.tolerance:.1e}), and "
        f"{verification.n_same_predictions} of {verification.n_images} predictions are equal. "
        "`glora.json` holds the sha256 of the files.",
        f"The recipe is in `{RECIPE}`: `glora search {RECIPE}` repeats the study, after its paths "
        f"are set. `{DETAILS}` has the architecture, the classes and the cost.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def study_details(record: Record, study: optuna.Study, classes: ClassReport | None = None) -> str:
    """Return what the card leaves out: architecture, classes, study.

    Args:
        record: Record of the export.
        study: Its study.
        classes: The exported adapter by class, if it was tested.
    """
    snapshot, versions = Snapshot.of(study), record.about["versions"]
    parts = [f"# Study {record.about['study']!r}"]
    parts += markdown_study(snapshot, name_workers=False)
    if record.kind != "backbone":
        parts += [] if classes is None else _classes(classes)
        parts += ["## Architecture", f"```text\n{record.architecture}\n```"]
    parts += ["## Versions", f"{', '.join(f'{k} {v}' for k, v in versions.items())}."]
    return "\n\n".join(parts) + "\n"


def published_recipe(study: optuna.Study) -> str:
    """Return the study's recipe as TOML, without local folders, because exports are published."""
    recipe = Snapshot.of(study).recipe
    table = recipe.model_dump(mode="json")
    for section, key in (("task", "path"), ("task", "root"), ("backbone", "checkpoint")):
        if isinstance(path := table[section].get(key), str):
            table[section][key] = Path(path).name
    table["backbone"]["model"] = recipe.backbone.public_name
    return write_toml(table)


def _front_matter(record: Record, path: str, snapshot: Snapshot) -> ModelCardData:
    metric = snapshot.recipe.metric
    metrics = ["accuracy", *([] if metric == "accuracy" else [metric])]
    is_timm = not record.backbone.model.startswith(PREFIX)
    library = {"peft": "peft", "onnx": "onnx", "pt2": "pytorch", "transformers": "transformers"}
    library |= dict.fromkeys(("timm", "backbone"), "timm" if is_timm else "transformers")
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
    name = getattr(snapshot.recipe.task, "name", None) or ""
    return ModelCardData(
        library_name=library.get(record.kind, "glora-automl"),
        license=record.backbone.license or None,
        datasets=[name.removeprefix("hfds/")] if name.startswith("hfds/") else None,
        pipeline_tag="image-classification",
        tags=["image-classification", "glora", "parameter-efficient-fine-tuning"],
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


def _also(record: Record, path: str, repository: str | None) -> str:
    """Return sentences on other ways to use the export."""
    lines = []
    if record.kind == "timm":
        place = path if repository is None else repository
        lines.append(f'transformers loads it, too: `pipeline("image-classification", "{place}")`.')
    if record.kind != "backbone":
        lines.append(f"Or run `glora predict {path} IMAGES`.")
    return " ".join(lines)


def _preprocessing(record: Record) -> str:
    preprocessing = record.preprocessing
    low, high = preprocessing.value_range or (0, 65_535)
    return (
        "Preprocessing: EXIF orientation, transparency on white, "
        f"{' x '.join(map(str, preprocessing.size))} ({preprocessing.crop_mode}, "
        f"{preprocessing.interpolation}), mean {_numbers(preprocessing.mean)}, standard deviation "
        f"{_numbers(preprocessing.std)}. First, values from {low:g} to {high:g} in images of "
        "more than 8 bits are scaled to 0 to 255. Pillow's `convert` clips them instead."
    )


def _weights(record: Record) -> str:
    """Return a sentence on the source of an adapter's backbone."""
    if record.kind not in ("adapter", "peft"):
        return ""
    digest = f"digest `{record.backbone.digest[:16]}...`"
    if record.backbone.pretrained:
        return f"The hub has the backbone's weights, {digest}."
    return (
        f"The folder `{BACKBONE}` has the backbone's weights, {digest}, as no hub has them. One "
        "copy is enough for all adapters of a backbone: it is the argument `backbone` of "
        "`glora_automl.predict`."
    )


def _names(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:50])
    return shown if len(classes) <= 50 else f"{shown} and {len(classes) - 50:,} more"


def _data(snapshot: Snapshot) -> str:
    """Return a sentence on the images of the study."""
    task = snapshot.recipe.task
    name = getattr(task, "name", None) or Path(getattr(task, "path", None) or "").name
    counts = read_data(snapshot.study).n_images
    images = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    return f"Images: {task.source}{f' `{name}`' if name else ''} ({images})."


def _licence(record: Record) -> str:
    if record.backbone.license:
        return (
            f"The backbone's weights are under the licence `{record.backbone.license}`. That of "
            "the images may restrict the use of this model, too."
        )
    return (
        "The licence of the backbone's weights is not known to glora_automl. It and that of the "
        "images apply to this model: name them before you publish it."
    )


def _figures(record: Record, snapshot: Snapshot) -> str:
    metric = snapshot.recipe.metric
    title = metric_title(metric) + (" in %" if metric.endswith("accuracy") else "")
    lines = []
    for split in ("validation", "test"):
        if record.about[split] is not None:
            score = Score(**record.about[split])
            value = metric_value(metric, score.custom)
            lines.append((f"{score.n_images:,} {split}", accuracy_text(score), value))
    if not lines:
        return "No accuracy on images that its weights have not learnt from is known."
    shown = 2 if metric == "accuracy" else 3
    columns = ("images", "accuracy in % (95% interval)", title)
    return markdown_table(columns[:shown], [line[:shown] for line in lines])


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
    if snapshot.recipe.architecture is None and about["validation"] is not None:
        lines.append(
            f"The architecture was selected among {len(snapshot.trials):,} trials on the "
            "validation images, so their accuracy is biased upwards."
        )
    if about["weights"] == "inherited":
        lines.append(
            f"The weights are inherited by {about['origin']} from the supernet, without "
            "stand-alone training."
        )
    elif about["weights"] == "refit" and about["validation"] is not None:
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


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
