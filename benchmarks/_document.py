"""What all benchmarks write: a JSON document with the command and the machine; intervals."""

from __future__ import annotations

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from glora_automl._files import write_atomic

MACHINE = {"processor": platform.machine(), "cores": os.cpu_count()}


def command_line() -> str:
    """The command that runs here, to be typed again."""
    return shlex.join(["python", Path(sys.argv[0]).as_posix(), *sys.argv[1:]])


def portable_command(*folders: str | None) -> str:
    """Return the command that runs here without the folders of this machine.

    Args:
        folders: Folders of images, if there are any; it calls them ``FOLDER``.
    """

    def portable(value: str) -> str:
        for folder in filter(None, folders):
            if f"{value}/".startswith(f"{folder.rstrip('/')}/"):
                return f"FOLDER{value[len(folder.rstrip('/')) :]}".rstrip("/")
        return Path(value).name if Path(value).is_absolute() else value

    script, *words = sys.argv
    if Path(script).is_absolute():
        script = f"benchmarks/{Path(script).name}"
    parts = [word.rpartition("=") for word in words]
    return shlex.join(["python", script, *(n + equals + portable(v) for n, equals, v in parts)])


def interval(values: Sequence[float] | np.ndarray) -> float:
    """Half the width of the 95% confidence interval of a mean; NaN for less than two values."""
    if len(values) < 2:
        return math.nan
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a document as JSON."""
    text = json.dumps(document, indent=1)
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))
