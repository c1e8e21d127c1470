"""Memory and speed of a folder of images, kept and streamed.

The benchmark writes a folder of JPEG files with random colours. It then reads all images in random
batches, like a training, in one process per memory limit. The table has the bytes of the decoded
images at the model's size, the peak memory above that before the first image, and the time of the
first pass (which fills the memory) and of later passes.

    python benchmarks/data.py --images 4000 --out benchmarks/results/data.json
    python benchmarks/data.py --small
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _document import MACHINE, command_line, write_document
from PIL import Image
from rich.console import Console
from rich.table import Table

from glora_automl.tasks import FolderSettings, InputFormat, load_folder
from glora_automl.training import batches

CLASSES = 10


def write_images(folder: Path, count: int, side: int) -> None:
    """Write JPEG files about as large as photos of this side: smooth colours with noise."""
    rng = np.random.default_rng(0)
    for index in range(count):
        width, height = rng.integers(side // 2, side * 3 // 2, 2)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        noisy = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        path = folder / f"class{index % CLASSES}" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noisy).save(path, quality=90)


def peak() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(folder: str, memory: str, size: int, batch: int, passes: int) -> dict:
    """Read all images of a folder in this process."""
    torch.set_num_threads(1)
    format_ = InputFormat((3, size, size), (0.5,) * 3, (0.5,) * 3)
    settings = FolderSettings(
        source="folder", path=folder, memory=memory, validation_size=1, test_size=1
    )
    before = peak()
    begin = time.perf_counter()
    task = load_folder(settings, 0)
    checked = time.perf_counter() - begin
    seconds = []
    begin = time.perf_counter()
    images, labels = task.train.prepare(format_, torch.device("cpu"))
    for number in range(passes):
        order = torch.from_numpy(np.random.default_rng(number).permutation(len(labels)))
        parts = [order[start : start + batch] for start in range(0, len(order), batch)]
        n_read = sum(len(x) for x in batches(images, parts))
        assert n_read == len(labels)
        seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
    return {
        "memory": memory,
        "kept": not getattr(images, "slow", False),
        "n_images": len(labels),
        "decoded_bytes": len(labels) * 3 * size * size,
        "peak_bytes": peak() - before,
        "check_seconds": checked,
        "first_pass_seconds": seconds[0],
        "later_pass_seconds": float(np.median(seconds[1:])),
        "num_workers": task.train.reader.num_workers,
    }


def show(rows: list[dict]) -> None:
    """Print the results as a table."""
    columns = ("limit", "", "decoded MB", "peak MB", "check s", "first pass s", "images/s later")
    table = Table(
        *columns, title=f"{rows[0]['n_images']:,} images, {rows[0]['num_workers']} workers"
    )
    for row in rows:
        table.add_row(
            row["memory"],
            "kept" if row["kept"] else "streamed",
            f"{row['decoded_bytes'] / 1e6:,.0f}",
            f"{row['peak_bytes'] / 1e6:,.0f}",
            f"{row['check_seconds']:.1f}",
            f"{row['first_pass_seconds']:.1f}",
            f"{row['n_images'] / row['later_pass_seconds']:,.0f}",
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument(
        "--side", type=int, default=400, help="mean side of the image files in pixels"
    )
    parser.add_argument("--size", type=int, default=224, help="side of the model's input in pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--limits", nargs="+", default=["10GB", "100MB"])
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    parser.add_argument("--small", action="store_true", help="run in seconds, with 60 small images")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "LIMIT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.small:
        arguments.images, arguments.side, arguments.size, arguments.batch = 60, 64, 32, 8
        arguments.limits = ["10GB", "10kB"]
    sizes = (arguments.size, arguments.batch, arguments.passes)
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, *sizes)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), arguments.images, arguments.side)
        for limit in arguments.limits:
            options = ("--size", "--batch", "--passes")
            values = zip(options, map(str, sizes), strict=True)
            size_options = [part for pair in values for part in pair]
            # A new process, as a fork would share memory with this one.
            command = [sys.executable, __file__, *size_options, "--measure", folder, limit]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(ran.stdout))
    show(rows)
    if arguments.out is not None:
        document = {
            "benchmark": "data",
            "command": command_line(),
            "machine": MACHINE,
            "torch": torch.__version__,
            "size": arguments.size,
            "batch": arguments.batch,
            "rows": rows,
        }
        write_document(arguments.out, document)


if __name__ == "__main__":
    main()
