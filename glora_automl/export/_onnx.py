"""Export of the merged model as an ONNX graph for any batch size."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glora_automl._extras import require
from glora_automl._messages import one_line
from glora_automl.errors import ExportError
from glora_automl.export._graph import graph_input, logits_of
from glora_automl.export._record import Record

__all__ = ["check_onnx", "load_onnx", "write_onnx"]

GRAPH = "model.onnx"


def check_onnx() -> None:
    """Check that the packages for ONNX export and verification are installed.

    Raises:
        ExportError: If one is missing.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "onnx", ExportError)


def write_onnx(folder: Path, model: nn.Module, record: Record) -> list[str]:
    """Write ``model.onnx``: float32 ``images (batch, channels, height, width)`` to ``logits``.

    With the input ``pixels`` of the record, uint8 ``images`` of any size to ``probabilities``. The
    metadata of the graph hold class names and preprocessing, as JSON.

    Args:
        folder: Folder to write to.
        model: The merged model on the CPU, in evaluation mode.
        record: Record of the export.

    Returns:
        Names of the files.

    Raises:
        ExportError: If torch cannot export the model.
    """
    onnx = require("onnx", "onnx", ExportError)
    path = folder / GRAPH
    given = graph_input(model, record)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # torch prints its steps to standard output, where the command line prints JSON.
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                given.model,
                (given.example,),
                str(path),
                input_names=["images"],
                output_names=[given.output],
                dynamic_shapes=(given.dynamic,),
                dynamo=True,
                external_data=False,
            )
    except Exception as error:  # the exporter's exceptions have no common class
        raise ExportError(
            f"torch {torch.__version__} cannot export {record.backbone.model!r} to ONNX "
            f"({one_line(error)}). Choose `to` 'timm' and export that model to ONNX yourself."
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    graph = onnx.load(str(path))
    onnx.helper.set_model_props(
        graph,
        {
            "classes": json.dumps(record.classes, ensure_ascii=False),
            "preprocessing": record.preprocessing.model_dump_json(),
        },
    )
    onnx.save(graph, str(path))
    return [GRAPH]


def load_onnx(folder: Path, record: Record) -> Callable[[Tensor], Tensor]:
    """Load the graph into ONNX Runtime on the CPU and return normalised images to logits.

    Raises:
        ExportError: If ONNX Runtime is not installed or cannot load it.
    """
    runtime = require("onnxruntime", "onnx", ExportError)
    try:
        session: Any = runtime.InferenceSession(
            str(folder / GRAPH), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the exceptions of ONNX Runtime have no common class
        raise ExportError(
            f"ONNX Runtime cannot load {str(folder / GRAPH)!r}: {one_line(error)}. Export again."
        ) from None

    def graph(images: Tensor) -> Tensor:
        (found,) = session.run(None, {"images": images.cpu().numpy()})
        return torch.from_numpy(found)

    return logits_of(graph, record)
