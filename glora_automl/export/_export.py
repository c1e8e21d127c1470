"""Export of a study's adapter: written, loaded, verified, then renamed to its path."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from glora_automl._declarations import suggest
from glora_automl._files import user_path
from glora_automl.adapters import merge
from glora_automl.budget import Budget
from glora_automl.errors import ExportError
from glora_automl.export._adapter import Adapter, load_adapter, write_adapter
from glora_automl.export._card import model_card
from glora_automl.export._folder import atomic_folder, check_free
from glora_automl.export._onnx import check_onnx, load_onnx, write_onnx
from glora_automl.export._peft import check_peft, load_peft, require_peft, write_peft
from glora_automl.export._record import KINDS, Kind, Record, write_record
from glora_automl.export._subnet import (
    Subnet,
    backbone_record,
    create_adapter,
    find_subnet,
    load_subnet,
)
from glora_automl.export._timm import check_timm, load_timm, write_timm
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
    """

    path: Path
    record: Record
    verification: Verification
    sizes: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "path": str(self.path),
            **self.record.model_dump(mode="json"),
            "sizes": self.sizes,
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
    workspace: Workspace | None = None,
) -> Export:
    """Write an adapter of a study as a folder that does not need the study.

    The written files are loaded and compared with the study's subnet on validation images, on the
    CPU. A model card explains their use.

    Args:
        name: Name of the study.
        to: Format: ``timm``, the merged model for ``timm.create_model``; ``adapter``, support
            tensors and head for :func:`glora_automl.load_adapter`; ``peft``, for
            ``peft.PeftModel.from_pretrained``; ``onnx``, the merged model as a graph;
            ``backbone``, the backbone of adapters.
        out: Folder of the export, which must not exist.
        trial: ``best`` for the winner of a finished study, or the number of a complete trial, with
            inherited weights.
        budget: Budget of an earlier selection, whose winner is exported instead.
        architecture: Architecture of an earlier selection, likewise.
        force: Whether an existing export is replaced.
        workspace: Where the study is.

    Raises:
        ExportError: If ``out`` exists, the format cannot express the adapter, a package is
            missing, or the export's logits differ.
        StudyError: If the study has no such trial or selection, or is not finished.
        GLoRAError: If another argument is invalid.
        Stopped: If the workspace asked to stop.
    """
    kind = _checked_kind(to)
    path = user_path(out, "out", ExportError)
    check_free(path, force)
    workspace, recipe = find_study(name, workspace)
    with open_run(recipe, workspace, name=name) as run:
        # First, because load_backbone may pretrain the backbone of a new study.
        subnet = None if kind == "backbone" else find_subnet(run, str(trial), budget, architecture)
        return _export(load_backbone(run), kind, path, subnet, force)


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


def _export(run: Run, kind: Kind, out: Path, subnet: Subnet | None, force: bool) -> Export:
    backbone = run.context.backbone().cpu().eval()
    images = run.context.validation[0][:MAX_IMAGES].cpu()
    if subnet is None:
        record, model = backbone_record(run, backbone), backbone
        write = partial(write_timm, model=copy.deepcopy(backbone), record=record)
    else:
        supernet = load_subnet(run, subnet)
        adapter, model = create_adapter(run, subnet, supernet), supernet.model
        record = adapter.record.model_copy(update={"kind": kind})
        if kind == "timm":
            check_timm(backbone, subnet.architecture)
        elif kind == "peft":
            check_peft(backbone, subnet.architecture, images[:1])
        write = partial(_write, kind=kind, adapter=adapter, supernet=supernet, backbone=backbone)
    expected = batched(model, images)
    with atomic_folder(out, force=force) as folder:
        files = write(folder)
        record = write_record(folder, record, files)
        run.context.progress.log(f"Verify the export on {len(images)} validation images.")
        verification = verify(_load_forms(folder, record, backbone), expected, images)
        run.worker.check_stop()
        about = {**record.about, "verification": verification._asdict()}
        record = write_record(folder, record.model_copy(update={"about": about}), files)
        classes = None if subnet is None else subnet.classes
        card = model_card(record, run.study, verification, out.absolute().name, classes)
        (folder / "README.md").write_text(card, encoding="utf-8")
    sizes = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    return Export(out, record, verification, sizes)


def _write(
    folder: Path, *, kind: Kind, adapter: Adapter, supernet: Supernet, backbone: nn.Module
) -> list[str]:
    """Write the files of an adapter and return their names."""
    if kind == "adapter":
        return list(write_adapter(folder, adapter).files)
    if kind == "peft":
        return write_peft(folder, copy.deepcopy(backbone), adapter)
    with merge(supernet.model) as model:
        if kind == "onnx":
            return write_onnx(folder, model, adapter.record)
        return write_timm(folder, model, adapter.record)


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
        forms["ONNX graph"] = load_onnx(folder)
    else:
        forms["timm model"] = load_timm(folder, record)
    return forms
