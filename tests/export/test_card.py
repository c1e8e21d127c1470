"""Model cards: their code runs as it stands."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from glora_automl import predict

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
            lines.append("x, found['timm'] = transform(image)[None], probabilities")
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


def save_pictures(folder):
    """Save pictures as cameras and designers have them; return their paths.

    The quarters of each have other values, so that turning it or dropping its transparency changes
    the prediction.
    """
    grey = np.kron(np.array([[20, 240], [90, 0]], np.uint8), np.ones((8, 12), np.uint8))
    opaque = Image.fromarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    opaque.save(folder / "turned.png", exif=exif)
    opaque.convert("RGB").save(folder / "turned.jpg", exif=exif)
    layers = Image.merge("LA", (Image.new("L", opaque.size), opaque))
    layers.save(folder / "transparent.png")
    opaque.save(folder / "one-colour.png", transparency=0)
    layers.convert("RGBA").quantize().save(folder / "palette.png")
    opaque.save(folder / "grey.png")
    opaque.convert("CMYK").save(folder / "cmyk.tiff")
    return sorted(folder.iterdir())


def test_card_code_prepares_pictures_as_predict(exports, tmp_path, monkeypatch):
    files, code = save_pictures(tmp_path), code_of(exports["timm"])
    found = predict(exports["timm"].path, files, top=3)
    expected = torch.empty_like(found.probabilities).scatter(1, found.classes, found.probabilities)
    assert len(files) == len(found.files) == 7
    monkeypatch.chdir(exports["timm"].path.parent)
    for file, row in zip(files, expected, strict=True):
        scope = {}
        exec(code.replace("image.png", str(file)), scope)
        torch.testing.assert_close(scope["probabilities"][0], row, rtol=1e-4, atol=1e-5, msg=file)


def test_card_names_all_preprocessing(exports):
    for kind in KINDS:
        card = (exports[kind].path / "README.md").read_text(encoding="utf-8")
        assert "Preprocessing: EXIF orientation, transparency on white, 3 x 8 x 8 (squash" in card
        assert "values from 0 to 65535 in images of more than 8 bits are scaled to 0 to 255" in card
