"""Export of the merged model by ``torch.export``, for any batch size."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glora_automl._messages import one_line, short
from glora_automl.errors import ExportError
from glora_automl.export._graph import graph_input, logits_of
from glora_automl.export._record import FILES, Record

__all__ = ["load_pt2", "write_pt2"]


def write_pt2(folder: Path, model: nn.Module, record: Record) -> list[str]:
    """Write ``model.pt2``, which ``torch.export.load`` reads without any code of the model.

    The files ``classes.json`` and ``preprocessing.json`` in the archive describe it. It holds no
    pickle.

    Args:
        folder: Folder to write to.
        model: The merged model on the CPU, in evaluation mode.
        record: Record of the export.

    Returns:
        Names of the files.

    Raises:
        ExportError: If torch cannot export the model.
    """
    given = graph_input(model, record)
    path = folder / FILES["pt2"][0]
    extra = {
        "classes.json": json.dumps(record.classes, ensure_ascii=False),
        "preprocessing.json": record.preprocessing.model_dump_json(),
    }
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                given.model, (given.example,), dynamic_shapes=(given.dynamic,)
            )
            program.example_inputs = None  # torch would write them as a pickle
            torch.export.save(program, path, extra_files=extra)
    except Exception as error:  # the exporter's exceptions have no common class
        raise ExportError(
            f"torch {torch.__version__} cannot export {record.backbone.model!r} "
            f"({one_line(error)}). Choose another `to`."
        ) from error
    _check_archive(path)
    return list(FILES["pt2"])


def load_pt2(folder: Path, record: Record) -> Callable[[Tensor], Tensor]:
    """Load a program of this process, and return normalised images to logits.

    torch evaluates texts of the file as Python, so programs of others are not loaded.

    Raises:
        ExportError: If the file holds a pickle, or torch cannot load it.
    """
    path = folder / FILES["pt2"][0]
    _check_archive(path)
    try:
        program: Any = torch.export.load(path).module()
    except Exception as error:  # the exceptions of torch have no common class
        raise ExportError(
            f"torch {torch.__version__} cannot load {str(path)!r}: {one_line(error)}. Export again."
        ) from None
    return logits_of(program, record)


_MEMBER = re.compile(
    r"(?P<root>[^/]+)/(?:models/model\.json|extra/[\w.-]+|archive_format|archive_version|byteorder|"
    r"\.data/(?:version|serialization_id)|data/weights/(?:weight_\d+|model_weights_config\.json)|"
    r"data/constants/(?:tensor_\d+|model_constants_config\.json)|"
    r"(?P<inputs>data/sample_inputs/model\.pt))"
)
"""Members of an archive: the graph as JSON, and tensors as bytes."""

_MALFORMED = (
    *(OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What reading a malformed archive raises."""


def _check_archive(path: Path) -> None:
    """Check that an archive has only members that ``torch.export.load`` does not execute.

    Others are pickles, compiled libraries, and the layout of torch before 2.8, which has pickles.

    Raises:
        ExportError: If it does, or is no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [info.filename for info in members]
            if len(set(names)) < len(names):
                raise ValueError("two members have one name")
            for info in members:
                found = _MEMBER.fullmatch(info.filename)
                if found is None or found["root"] != names[0].partition("/")[0]:
                    raise ValueError(f"{short(info.filename)} is no member of such an archive")
                pickled = found["inputs"] is not None and info.file_size > 0
                if info.filename.endswith("_config.json"):
                    tensors = json.loads(archive.read(info))["config"].values()
                    pickled = any(tensor["use_pickle"] is not False for tensor in tensors)
                if pickled:
                    raise ValueError(f"{short(info.filename)} has a pickle")
    except _MALFORMED as error:
        raise ExportError(
            f"The file {str(path)!r} must be an archive of torch.export without pickles, got: "
            f"{one_line(error)}. Export again."
        ) from None
