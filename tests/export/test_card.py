"""Model cards: their code runs as it stands."""

import os
import subprocess
import sys

import pytest
from PIL import Image

KINDS = ("timm", "adapter", "peft", "onnx", "pt2", "backbone")


def code_of(export):
    """Return the Python code of a card."""
    card = (export.path / "README.md").read_text(encoding="utf-8")
    return card.partition("```python\n")[2].partition("```")[0]


@pytest.fixture(scope="module")
def outputs(exports):
    """What the code of each card prints about its results, all in one process."""
    folder = exports["timm"].path.parent
    Image.new("RGB", (20, 30), (90, 10, 200)).save(folder / "image.png")
    lines = ["import torch", "found = {}"]
    for kind in KINDS:
        lines.append(code_of(exports[kind]))
        if kind == "timm":
            lines.append("x, found[kind] = image[None], probabilities".replace("kind", repr(kind)))
        elif kind in ("adapter", "peft"):
            lines.append(f"found[{kind!r}] = model(x).softmax(1)")
        elif kind == "onnx":
            lines.append("(y,) = session.run(None, {'images': x.numpy()})")
            lines.append("found['onnx'] = torch.from_numpy(y).softmax(1)")
        elif kind == "pt2":
            lines.append("found['pt2'] = model(x).softmax(1)")
    lines.append(
        "for kind, p in found.items(): print(kind, (p - found['timm']).abs().max() < 1e-5)"
    )
    process = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "backbone"])
def test_card_code_runs_as_it_stands_and_agrees(outputs, kind):
    assert f"{kind} tensor(True)" in outputs
