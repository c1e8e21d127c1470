"""Taking an adapter out of a study: written, loaded again, compared, and only then named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from optuna.storages import BaseStorage
from torch import Tensor, nn

from glora_automl.adapters import merge
from glora_automl.errors import ExportError
from glora_automl.export._adapter import Adapter, load_adapter, write_adapter
from glora_automl.export._card import model_card
from glora_automl.export._folder import check_free, whole_folder
from glora_automl.export._onnx import check_onnx, load_onnx, write_onnx
from glora_automl.export._peft import check_peft, load_peft, require_peft, write_peft
from glora_automl.export._record import KINDS, Kind, Record, write_record
from glora_automl.export._subnet import Chosen, choose, describe, describe_backbone, take
from glora_automl.export._timm import check_timm, load_timm, write_timm
from glora_automl.export._verify import Logits, Verified, batched, verify
from glora_automl.pipeline import Run, find, join, load_backbone
from glora_automl.progress import Progress
from glora_automl.supernet import Supernet

__all__ = ["Export", "export_model"]

IMAGES = 128
"""The most validation images that an export is verified on."""


class Export(NamedTuple):
    """What was written.

    Attributes:
        path: The folder.
        record: What it says of itself.
        verified: How it was compared with the study.
        sizes: Bytes of its files, by name.
    """

    path: Path
    record: Record
    verified: Verified
    sizes: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
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
    budget: int | str | None = None,
    force: bool = False,
    storage: str | BaseStorage | None = None,
    artifacts: str | None = None,
    data: str | None = None,
    runs: str | Path = "runs",
    device: str = "auto",
    patience: float = 300.0,
    stop: Callable[[], bool] | None = None,
    progress: Progress | None = None,
) -> Export:
    """Write an adapter of a study as a folder that works without the study.

    What was written is loaded and compared with the study's subnet on validation images before it
    gets its name. A model card is beside it.

    Args:
        name: Name of the study.
        to: ``timm``: the merged model, for ``timm.create_model``. ``adapter``: the support tensors
            and the head alone, for :func:`glora_automl.load_adapter`. ``peft``: for
            ``peft.PeftModel.from_pretrained``. ``onnx``: the merged model as a graph.
            ``backbone``: the backbone without any adapter, where nobody else has its weights.
        out: The folder, which must not be there yet.
        trial: ``best`` is the winner of a finished study. The number of any other complete trial
            stands for its architecture with the weights that it inherits from the supernet.
        budget: Takes the winner of :func:`glora_automl.pick` for this budget instead.
        force: Whether an export that is there is replaced.
        storage: As for :func:`glora_automl.search`.
        artifacts: Where this machine finds the study's artifacts, if not where the study says.
        data: Where this machine finds the images, if not where the study says.
        runs: As for :func:`glora_automl.search`.
        device: As for :func:`glora_automl.search`; exports are verified on the CPU.
        patience: As for :func:`glora_automl.search`.
        stop: As for :func:`glora_automl.search`.
        progress: As for :func:`glora_automl.search`.

    Raises:
        ExportError: If ``out`` is there, the format cannot express the adapter, its package is not
            installed, or what was written computes something else.
        StudyError: If the study has no such trial, or is not finished.
        GLoRAError: If anything else is wrong with the input.
        Stopped: If ``stop`` asked for it.
    """
    kind = _checked_kind(to)
    check_free(Path(out), force)
    storage, recipe = find(name, storage=storage, data=data, runs=runs, patience=patience)
    with join(
        recipe,
        name=name,
        storage=storage,
        artifacts=artifacts,
        runs=runs,
        device=device,
        patience=patience,
        stop=stop,
        progress=progress,
    ) as run:
        # Before the backbone, which a study that has just begun would pretrain.
        chosen = None if kind == "backbone" else choose(run, str(trial), budget)
        return _export(load_backbone(run), kind, Path(out), chosen, force)


def _checked_kind(to: str) -> Kind:
    """Read a format, and see that what writes it is installed.

    Raises:
        ExportError: If it is none, or is not installed.
    """
    for kind in KINDS:
        if to == kind:
            if kind == "onnx":
                check_onnx()
            elif kind == "peft":
                require_peft()
            return kind
    raise ExportError(f"--to must be one of {', '.join(KINDS)}, got {to!r}.")


def _export(run: Run, kind: Kind, out: Path, chosen: Chosen | None, force: bool) -> Export:
    backbone = run.setup.backbone().cpu().eval()
    images = run.setup.validation[0][:IMAGES].cpu()
    if chosen is None:
        record, model = describe_backbone(run, backbone), backbone
        write = partial(write_timm, model=copy.deepcopy(backbone), record=record)
    else:
        supernet = take(run, chosen)
        adapter, model = describe(run, chosen, supernet), supernet.model
        record = adapter.record.model_copy(update={"kind": kind})
        if kind == "timm":
            check_timm(backbone, chosen.architecture)
        elif kind == "peft":
            check_peft(backbone, chosen.architecture, images[:1])
        write = partial(_write, kind=kind, adapter=adapter, supernet=supernet, backbone=backbone)
    expected = batched(model, images)
    with whole_folder(out, force=force) as folder:
        files = write(folder)
        record = write_record(folder, record, files)
        run.setup.progress.log(f"Verify the export on {len(images)} validation images.")
        verified = verify(_forms(folder, record, backbone), expected, images)
        run.worker.check_stop()
        about = {**record.about, "verified": verified._asdict()}
        record = write_record(folder, record.model_copy(update={"about": about}), files)
        card = model_card(record, run.study, verified, out.absolute().name)
        (folder / "README.md").write_text(card, encoding="utf-8")
    sizes = {file.name: file.stat().st_size for file in sorted(out.iterdir())}
    return Export(out, record, verified, sizes)


def _write(
    folder: Path, *, kind: Kind, adapter: Adapter, supernet: Supernet, backbone: nn.Module
) -> list[str]:
    """Write the files of an adapter; returns their names."""
    if kind == "adapter":
        return list(write_adapter(folder, adapter).files)
    if kind == "peft":
        return write_peft(folder, copy.deepcopy(backbone), adapter)
    with merge(supernet.model) as model:
        if kind == "onnx":
            return write_onnx(folder, model, adapter.record)
        return write_timm(folder, model, adapter.record)


def _forms(folder: Path, record: Record, backbone: nn.Module) -> Mapping[str, Logits]:
    """What the export is used as, each loaded from its files."""
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
