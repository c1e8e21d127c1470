"""The examples run in small mode."""

import io
import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.storages.servers import postgresql

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = {path.stem for path in EXAMPLES.glob("*.py")} - {"sample"}
EXPECTED = {
    "folder_of_photos": "72 photos, the first is digit-",
    "optuna_objective": "a plain VisionTransformer",
    "sklearn_pipeline": "over 2 folds",
    "domain_generalisation": "on black-on-white",
    "few_shot_sweep": "4 per class: searched",
    "export_onnx": '{"class": "',
}
"""What the last lines of the examples of one process print."""


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs an example in small mode; returns what it and its processes print."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--small", *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capfd.readouterr().out

    return run


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example_runs(run, name):
    assert EXPECTED[name] in run(name)


def test_served_picture_is_upright_and_opaque(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    picture = runpy.run_path(str(EXAMPLES / "export_onnx.py"))["picture"]
    image, file, exif = Image.new("LA", (1, 2), (0, 0)), io.BytesIO(), Image.Exif()
    image.putpixel((0, 1), (0, 255))
    exif[0x0112] = 6
    image.save(file, "png", exif=exif)
    served = picture(file.getvalue())
    assert served.size == (2, 1)
    assert [served.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


def test_every_example_is_run_and_listed():
    assert {*EXPECTED, "two_workers"} == SCRIPTS
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in (*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")):
        assert f"`{path.name}`" in text


@pytest.mark.slow
def test_two_workers_share_a_postgresql_database(tmp_path_factory, run):
    with postgresql(tmp_path_factory.mktemp("pg")) as url:
        printed = run("two_workers", "--storage", url)
    for words in ("worker 1: test accuracy", "worker 2: test accuracy", "4 trials in postgresql"):
        assert words in printed


def cells():
    notebook = json.loads((EXAMPLES / "first_search.ipynb").read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


def test_cells_of_the_notebook_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope = {}
    for cell in cells():
        exec(cell.replace('load_recipe("digits")', 'load_recipe("smoke")'), scope)
    assert "blocks.0.attn.qkv:" in capsys.readouterr().out
    assert len(scope["predicted"]) == 8
    assert scope["figure"].data


def test_notebook_holds_no_outputs():
    notebook = json.loads((EXAMPLES / "first_search.ipynb").read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])


@pytest.mark.slow
def test_notebook_runs_in_a_kernel(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    notebook = nbformat.read(EXAMPLES / "first_search.ipynb", as_version=4)
    client(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs/notebook/winner.json").is_file()
