"""Check what a search needs from this machine: packages, devices, disk, storage, hub."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from glora_automl._messages import one_line, printable, redact, shorten
from glora_automl._version import __version__
from glora_automl.errors import GLoRAError

__all__ = ["Check", "diagnose"]

State = Literal["ok", "warn", "fail"]

PACKAGES = ("torch", "timm", "torchvision", "optuna", "numpy", "scikit-learn", "pillow")
"""Packages whose version decides most about a study."""

EXTRAS = {
    "s3": "boto3",
    "distributed": "accelerate",
    "huggingface": "datasets",
    "peft": "peft",
    "onnx": "onnxruntime",
    "png": "matplotlib",
}
"""Package that each extra brings along."""

LITTLE_DISK, TOO_LITTLE_DISK = 5e9, 5e8
"""Free bytes below which a study of a large model may fail, and any will."""

SLOW = 0.1
"""Seconds of a database query above which many short trials wait for the storage."""


@dataclass(frozen=True)
class Check:
    """What was found about one part.

    Attributes:
        name: The part.
        state: ``ok``, ``warn`` if a search works with a limit, ``fail`` if it does not.
        value: What was found.
        hint: What to do about it; empty if nothing.
    """

    name: str
    state: State
    value: str
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        """Return plain JSON values."""
        return asdict(self)


def diagnose(
    runs: str | Path = "runs",
    *,
    storage: str | None = None,
    artifacts: str | None = None,
    timeout: float = 5.0,
) -> list[Check]:
    """Check this machine; nothing raises and nothing takes longer than the timeout.

    A file of a few bytes is written into an artifact store that exists, read and removed. Nothing
    else is changed.

    Args:
        runs: Folder of this machine's files.
        storage: URL of a database or path of a journal file; None is that of ``runs``.
        artifacts: Folder or ``s3://bucket/prefix``; None is that of ``runs``.
        timeout: Seconds to wait for a part; the parts are checked side by side.

    Returns:
        The checks, in a fixed order.

    Example:
        >>> [check.state for check in diagnose("/tmp/no-runs", timeout=30) if check.name == "disk"]
        ['ok']
    """
    folder = Path(runs)
    parts: dict[str, Callable[[], list[Check]]] = {
        "packages": _packages,
        "devices": _devices,
        "disk": lambda: [_disk(folder)],
        "storage": lambda: [_storage(folder, storage)],
        "artifacts": lambda: [_artifacts(folder, artifacts)],
        "hub": lambda: [_hub(timeout)],
    }
    found: dict[str, list[Check]] = {}

    def run(name: str, check: Callable[[], list[Check]]) -> None:
        try:
            found[name] = check()
        except GLoRAError as error:  # its message has the hint
            found[name] = [Check(name, "fail", str(error))]
        except Exception as error:  # a broken part is what the user wants to know of
            text = shorten(redact(one_line(error)), 200)
            found[name] = [Check(name, "fail", text, _HINTS[name])]

    threads = [threading.Thread(target=run, args=part, daemon=True) for part in parts.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"no answer within {timeout:g} seconds"
    return [
        check
        for name in parts
        for check in found.get(name, [Check(name, "fail", late, _HINTS[name])])
    ]


_HINTS = {
    "packages": "Install the package again: pip install --force-reinstall glora-automl",
    "devices": "Install torch again, for the CUDA version of the driver: pytorch.org.",
    "disk": "Set `runs` to a folder that can be read.",
    "storage": "Check address, account and network, or choose another `storage`.",
    "artifacts": "Check bucket, credentials and network, or choose another `artifacts`.",
    "hub": "Check the network, or use local weights: NAME=FILE as `model`.",
}


def _packages() -> list[Check]:
    python = f"{platform.python_version()}, {platform.platform()}"
    versions = {name: _version(name) for name in PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    old = list(_outdated())
    value = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    hint = ""
    if missing or old:
        hint = "Run pip install --upgrade glora-automl."
        value += "".join(f"; {text}" for text in [*(f"{n} is missing" for n in missing), *old])
    extras = [extra for extra, package in EXTRAS.items() if _version(package)]
    return [
        Check("glora_automl", "ok", __version__),
        Check("python", "ok" if sys.version_info >= (3, 11) else "fail", python),
        Check("packages", "fail" if hint else "ok", value, hint),
        Check("extras", "ok", ", ".join(extras) or "none"),
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _outdated() -> Iterator[str]:
    """Yield the installed packages that are older than this package needs."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        lines = importlib.metadata.requires("glora-automl") or []
    except importlib.metadata.PackageNotFoundError:
        return  # a checkout that was not installed
    for line in lines:
        try:
            needed = Requirement(line)
        except InvalidRequirement:
            continue
        found = None if needed.marker is not None else _version(needed.name)
        if found is not None and not needed.specifier.contains(found, prereleases=True):
            yield f"{needed.name} must be {needed.specifier}, got {found}"


def _devices() -> list[Check]:
    torch = importlib.import_module("torch")
    threads = torch.get_num_threads()
    cpu = Check("cpu", "ok", f"{os.cpu_count()} cores, {threads} threads")
    if torch.cuda.is_available():
        names = []
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            names.append(f"cuda:{index} {about.name}, {about.total_memory / 2**30:.0f} GiB")
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return [
            cpu,
            Check("gpu", "ok", "; ".join(names)),
            Check("precision", "ok", f"{'bfloat16' if fast else 'float16'} and float32"),
        ]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        return [cpu, Check("gpu", "ok", kind), Check("precision", "ok", "float32")]
    hint = ""
    if shutil.which("nvidia-smi"):
        hint = "There is a driver. Install a torch for its CUDA version: pytorch.org."
    return [
        cpu,
        Check("gpu", "warn" if hint else "ok", "none that torch can use", hint),
        Check("precision", "ok", "float32"),
    ]


def _existing(path: Path) -> Path:
    """Return the path or its first parent that exists."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _disk(runs: Path) -> Check:
    folder = _existing(runs)
    free = shutil.disk_usage(folder).free
    value = f"{free / 1e9:.1f} GB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Check("disk", "fail", f"{folder} cannot be written", "Choose other `runs`.")
    if free < LITTLE_DISK:
        state: State = "fail" if free < TOO_LITTLE_DISK else "warn"
        return Check("disk", state, value, "Free disk space, or choose other `runs`.")
    return Check("disk", "ok", value)


def _storage(runs: Path, location: str | None) -> Check:
    from glora_automl.storages import default_url, open_storage, quiet_optuna, shown_location

    url = location or default_url(runs)
    shown = shown_location(url)
    if location is None and not (runs / "studies.db").exists():
        return Check("storage", "ok", f"{shown}, which the first search creates")
    with quiet_optuna():
        opened = open_storage(url, create=False, write=False, patience=0.0)
        seconds = _median_seconds(opened.get_all_studies)
    value = f"{shown}, {1000 * seconds:.0f} ms per query"
    if seconds > SLOW:
        return Check("storage", "warn", value, "Choose a `storage` nearer to the workers.")
    return Check("storage", "ok", value)


def _median_seconds(call: Callable[[], Any]) -> float:
    def seconds() -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return median(seconds() for _ in range(3))


def _artifacts(runs: Path, location: str | None) -> Check:
    import io

    from glora_automl.storages import default_artifacts, open_artifacts

    place = location or default_artifacts(runs)
    if location is None and not Path(place).is_dir():
        return Check("artifacts", "ok", f"{place}, which the first search creates")
    store = open_artifacts(place, cache=runs / "downloads", create=False).backend
    name, content = f"doctor-{uuid.uuid4()}", b"glora"
    begin = time.perf_counter()
    store.write(name, io.BytesIO(content))
    try:
        with store.open_reader(name) as reader:
            same = reader.read() == content
    finally:
        store.remove(name)
    seconds = time.perf_counter() - begin
    if not same:
        return Check("artifacts", "fail", f"{place} returns other bytes", _HINTS["artifacts"])
    return Check("artifacts", "ok", f"{place}, {1000 * seconds:.0f} ms to write, read and remove")


def _hub(timeout: float) -> Check:
    import urllib.error
    import urllib.request

    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return Check("hub", "ok", "offline (HF_HUB_OFFLINE): downloaded weights alone")
    host = re.sub(r"^https?://", "", constants.ENDPOINT)
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    begin = time.perf_counter()
    try:
        with urllib.request.urlopen(request, timeout=max(0.1, timeout - 0.5)):
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError as error:
        why = shorten(one_line(error), 80)
        return Check("hub", "warn", f"{host} cannot be reached: {printable(why)}", _HINTS["hub"])
    seconds = time.perf_counter() - begin
    account = "with a token" if get_token() else "without a token"
    return Check("hub", "ok", f"{host}, {1000 * seconds:.0f} ms, {account}")
