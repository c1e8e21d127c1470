"""Exports on the Hugging Face hub, by a stand-in of its HTTP interface."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from glora_automl import Workspace, export_model
from glora_automl.errors import ExportError
from tests.export.hub import serve_hub
from tests.export.test_card import code_of


@pytest.fixture(scope="module")
def hub():
    with serve_hub() as found:
        yield found


@pytest.fixture
def push(hub, runs, tmp_path, monkeypatch):
    """Function that exports and pushes with a token."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)

    def push(kind, token="hf_token", **more):
        monkeypatch.setenv("HF_TOKEN", token)
        workspace = Workspace(runs=runs)
        return export_model("tiny", kind, tmp_path / kind, workspace=workspace, **more)

    return push


def test_pushed_exports_load_from_the_hub_by_their_cards(hub, push, tmp_path):
    codes = []
    for kind in ("timm", "peft"):
        written = push(kind, push=f"me/{kind}", private=kind == "peft")
        assert written.url.startswith(f"{hub.url}/me/{kind}/commit/")
        files = [file for file in written.path.rglob("*") if file.is_file()]
        expected = {f.relative_to(written.path).as_posix(): f.read_bytes() for f in files}
        assert hub.files[f"me/{kind}"] == expected
        codes.append(code_of(written))
    assert hub.private == {"me/peft"}
    assert hub.tokens >= {"Bearer hf_token"}
    assert 'timm.create_model("hf-hub:me/timm"' in codes[0]
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    lines = [
        codes[0],
        "expected = probabilities",
        codes[1],
        "assert (model(transform(image)[None]).softmax(1) - expected).abs().max() < 1e-5",
        "from transformers import pipeline",
        "(first, *_) = pipeline('image-classification', 'me/timm')('image.png')",
        "assert abs(first['score'] - float(expected.max())) < 1e-5",
    ]
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_token"}
    process = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=tmp_path,
        env={**os.environ, **settings, "HF_HUB_DISABLE_XET": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr


def test_push_that_the_hub_refuses_raises_and_keeps_the_export(push, tmp_path):
    with pytest.raises(ExportError, match="The hub must accept 'me/timm', got: "):
        push("timm", token="refused", push="me/timm")
    assert (tmp_path / "timm/glora.json").is_file()


@pytest.mark.parametrize(
    ("repository", "token", "words"),
    [("digits", "t", "must be OWNER/NAME"), ("me/digits", "", "got none. Run 'hf auth login'")],
)
def test_push_without_owner_or_token_raises_before_any_work(
    push, tmp_path, monkeypatch, repository, token, words
):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ExportError, match=words):
        push("timm", token=token, push=repository)
    assert not list(tmp_path.iterdir())
