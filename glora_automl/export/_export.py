"""Export of a study's adapter: written, loaded, verified, then renamed to its path."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from glora_automl._declarations import suggest
from glora_automl._files import user_path
from glora_automl.adapters import merge
from glora_automl.backbones import is_transformers
from glora_automl.budget import Budget
from glora_automl.errors import ExportError
from glora_automl.export._adapter import Adapter, load_adapter, write_adapter
from glora_automl.export._card import (
    DETAILS,
    RECIPE,
    model_card,
    published_recipe,
    study_details,
)
from glora_automl.export._folder import atomic_folder, check_free
from glora_automl.export._graph import check_pixels
from glora_automl.export._onnx import check_onnx, load_onnx, write_onnx
from glora_automl.export._peft import check_peft, load_peft, require_peft, write_peft
from glora_automl.export._pt2 import load_pt2, write_pt2
from glora_automl.export._push import check_repository, push_export
from glora_automl.export._record import BACKBONE, KINDS, Kind, Record, write_record
from glora_automl.export._subnet import (
    Subnet,
    backbone_record,
    create_adapter,
    find_subnet,
    load_subnet,
)
from glora_automl.export._timm import check_timm, load_timm, write_timm
from glora_automl.export._transformers import (
    check_processor,
    load_transformers,
    write_transformers,
)
from glora_automl.export._verify import Logits, Verification, batched, verify
from glora_automl.pipeline import Run, Workspace, find_study, load_backbone, open_run
from glora_automl.supernet import Supernet

__all__ = ["Export", "export_model"]

MAX_IMAGES = 128
"""Largest number of validation images in the verification."""


class Export(NamedTuple):
    """Written export.

    Attributes:
        path: Folder of the export.
        record: Record of the export.
        verification: Comparison with the study's subnet.
        sizes: Bytes of the files, by name.
        url: Address of its commit on the hub, if it was pushed.
    """

    path: Path
    record: Record
    verification: Verification
    sizes: dict[str, int]
    url: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "path": str(self.path),
            **self.record.model_dump(mode="json"),
            "sizes": self.sizes,
            "url": self.url,
        }


def export_model(
    name: str,
    to: str,
    out: str | Path,
    *,
    trial: int | str = "best",
    budget: Budget | int | str | None = None,
    architecture: str | None = None,
    force: bool = False,
    preprocess: bool = False,
    push: str | None = None,
    private: bool = False,
    workspace: Workspace | None = None,
) -> Export:
    """Write an adapter of a study as a folder that does not need the study.

    The written files are loaded and compared with the study's subnet on validation images, on the
    CPU. A model card explains their use.

    Args:
        name: Name of the study.
        to: Format: ``timm``, the merged model for timm and transformers; ``transformers``, the
            same for a backbone of transformers; ``adapter``, support tensors and head for
            :func:`glora_automl.load_adapter`; ``peft``, for ``peft.PeftModel.from_pretrained``;
            ``onnx``, the merged model as a graph; ``pt2``, the same for ``torch.export.load``;
            ``backbone``, the backbone of adapters.
        out: Folder of the export, which must not exist.
        trial: ``best`` for the winner of a finished study, or the number of a complete trial, with
            inherited weights.
        budget: Budget of an earlier selection, whose winner is exported instead.
        architecture: Architecture of an earlier selection, likewise.
        force: Whether an existing export is replaced.
        preprocess: Whether a graph takes uint8 images of any size and returns probabilities.
        push: Repository ``OWNER/NAME`` of the Hugging Face hub to upload the export to.
        private: Whether a new repository is private.
        workspace: Where the study is.

    Raises:
        ExportError: If ``out`` exists, the format cannot express the adapter, a package is
            missing, or the export's logits differ.
        StudyError: If the study has no such trial or selection, or is not finished.
        GLoRAError: If another argument is invalid.
        Stopped: If the workspace asked to stop.
    """
    kind = _checked_kind(to)
    if preprocess and kind not in ("onnx", "pt2"):
        raise ExportError(
            f"`preprocess` must come with `to` 'onnx' or 'pt2', got {kind!r}. Choose one of them, "
            "or leave out `preprocess`."
        )
    if private and push is None:
        raise ExportError(
            "`private` must come with `push`, got none. Set `push`, or leave out `private`."
        )
    if push is not None:
        check_repository(push)
    path = user_path(out, "out", ExportError)
    check_free(path, force)
    workspace, recipe = find_study(name, workspace)
    with open_run(recipe, workspace, name=name) as run:
        # First, because load_backbone may pretrain the backbone of a new study.
        subnet = None if kind == "backbone" else find_subnet(run, str(trial), budget, architecture)
        order = _Order(kind, path, force, preprocess, push)
        written = _export(load_backbone(run), order, subnet)
    return (
        written if push is None else written._replace(url=push_export(path, push, private=private))
    )


class _Order(NamedTuple):
    """What to write, and where."""

    kind: Kind
    out: Path
    force: bool
    preprocess: bool
    push: str | None


def _checked_kind(to: str) -> Kind:
    """Check a format and that its packages are installed.

    Raises:
        ExportError: If the format is unknown or a package is missing.
    """
    for kind in KINDS:
        if to == kind:
            if kind == "onnx":
                check_onnx()
            elif kind == "peft":
                require_peft()
            return kind
    raise ExportError(
        f"`to` must be one of {', '.join(KINDS)}, got {to!r}. {suggest(to, list(KINDS))}"
    )


def _export(run: Run, order: _Order, subnet: Subnet | None) -> Export:
    kind, out = order.kind, order.out
    backbone = run.context.backbone().cpu().eval()
    images = run.context.validation[0][:MAX_IMAGES].cpu()
    base = backbone_record(run, backbone)
    if subnet is None:
        record, model = base, backbone
        write = partial(_write_plain, model=copy.deepcopy(backbone), record=record)
    else:
        supernet = load_subnet(run, subnet)
        adapter, model = create_adapter(run, subnet, supernet), supernet.model
        _check_kind(kind, backbone, adapter, images)
        update = {"kind": kind, "input": "pixels" if order.preprocess else "normalized"}
        adapter = replace(adapter, record=adapter.record.model_copy(update=update))
        record = adapter.record
        if order.preprocess:
            check_pixels(record.preprocessing)
        write = partial(_write, adapter=adapter, supernet=supernet, backbone=backbone)
    expected = batched(model, images)
    with atomic_folder(out, force=order.force) as folder:
        files = write(folder)
        if kind in ("adapter", "peft") and not base.backbone.pretrained:
            (folder / BACKBONE).mkdir()
            plain = copy.deepcopy(backbone)
            write_record(folder / BACKBONE, base, _write_plain(folder / BACKBONE, plain, base))
        record = write_record(folder, record, files)
        run.context.progress.log(f"Verify the export on {len(images)} validation images.")
        if order.preprocess:
            images, expected = _rounded(record, images, model)
        verification = verify(_load_forms(folder, record, backbone), expected, images)
        run.worker.check_stop()
        about = {**record.about, "verification": verification._asdict()}
        record = write_record(folder, record.model_copy(update={"about": about}), files)
        name, classes = out.absolute().name, None if subnet is None else subnet.classes
        texts = {
            "README.md": model_card(record, run.study, verification, name, order.push),
            DETAILS: study_details(record, run.study, classes),
            RECIPE: published_recipe(run.study),
        }
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
    sizes = {
        file.relative_to(out).as_posix(): file.stat().st_size
        for file in sorted(out.rglob("*"))
        if file.is_file()
    }
    return Export(out, record, verification, sizes)


def _rounded(record: Record, images: Tensor, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return images whose pixels are whole numbers, and their logits up to a constant per image."""
    shape = (1, -1, 1, 1)
    mean, std = (
        255 * torch.tensor(values).reshape(shape)
        for values in (record.preprocessing.mean, record.preprocessing.std)
    )
    images = ((images * std + mean).round().clamp(0, 255) - mean) / std
    return images, batched(model, images).log_softmax(1)


def _check_kind(kind: Kind, backbone: nn.Module, adapter: Adapter, images: Tensor) -> None:
    """Check that a format can express an adapter.

    Raises:
        ExportError: If it cannot.
    """
    is_hf = is_transformers(backbone)
    if kind in ("timm", "transformers"):
        if is_hf != (kind == "transformers"):
            other = "transformers" if is_hf else "timm"
            more = "" if is_hf else ", which transformers loads, too"
            raise ExportError(
                f"`to` must fit the backbone {adapter.record.backbone.model!r}, got {kind!r}. "
                f"Choose `to` {other!r}{more}."
            )
        check_timm(backbone, adapter.architecture)
    if kind == "transformers":
        check_processor(adapter.record)
    if kind == "peft":
        check_peft(backbone, adapter.architecture, images[:1])


def _write_plain(folder: Path, model: nn.Module, record: Record) -> list[str]:
    """Write a model without adapters in the format of its library."""
    write = write_transformers if is_transformers(model) else write_timm
    return write(folder, model, record)


def _write(folder: Path, *, adapter: Adapter, supernet: Supernet, backbone: nn.Module) -> list[str]:
    """Write the files of an adapter and return their names."""
    kind = adapter.record.kind
    if kind == "adapter":
        return list(write_adapter(folder, adapter).files)
    if kind == "peft":
        return write_peft(folder, copy.deepcopy(backbone), adapter)
    with merge(supernet.model) as model:
        if kind == "onnx":
            return write_onnx(folder, model, adapter.record)
        if kind == "pt2":
            return write_pt2(folder, model, adapter.record)
        return _write_plain(folder, model, adapter.record)


def _load_forms(folder: Path, record: Record, backbone: nn.Module) -> Mapping[str, Logits]:
    """Load the export in each form of its use."""
    forms: dict[str, Callable[[Tensor], Tensor]] = {}
    kind = record.kind
    if kind == "adapter":
        for name, merged in (("attached adapter", False), ("merged adapter", True)):
            forms[name] = load_adapter(copy.deepcopy(backbone), folder, merge=merged)
    elif kind == "peft":
        for name, merged in (("PEFT adapter", False), ("merged PEFT adapter", True)):
            forms[name] = load_peft(folder, copy.deepcopy(backbone), merge=merged)
    elif kind == "onnx":
        forms["ONNX graph"] = load_onnx(folder, record)
    elif kind == "pt2":
        forms["program"] = load_pt2(folder, record)
    elif is_transformers(backbone):
        forms["model of transformers"] = load_transformers(folder)
    else:
        forms["timm model"] = load_timm(folder, record)
    return forms
