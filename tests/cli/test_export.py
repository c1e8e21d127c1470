import json
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _empty(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_export_is_written_and_verified(runs, glora):
    arguments = ("export", "tiny", "--runs", runs, "--quiet", "--out", "taken")
    code, out, err = glora(*arguments, "--to", "timm")
    assert (code, err) == (0, "")
    assert "Export: taken (timm of 'tiny', " in out
    assert "60 predictions are the same" in out
    assert Path("taken/model.safetensors").is_file()


def test_export_force_replaces_an_export_by_a_trial(runs, glora):
    arguments = ("export", "tiny", "--runs", runs, "--quiet", "--out", "taken")
    assert glora(*arguments, "--to", "timm")[0] == 0
    options = ("--to", "adapter", "--trial", 0, "--force", "--json")
    document = json.loads(glora(*arguments, *options)[1])
    assert document["kind"] == "adapter"
    assert document["about"]["trial"] == 0
    assert document["sizes"]["adapter.safetensors"] > 0
    assert not Path("taken/model.safetensors").exists()


def test_export_of_a_smaller_budget_has_its_selection(runs, glora):
    select = ("select", "tiny", "--budget", "15%", "--runs", runs, "--quiet", "--json")
    row = json.loads(glora(*select)[1])["row"]
    arguments = ("export", "tiny", "--runs", runs, "--quiet", "--out", "taken", "--to", "adapter")
    code, out, err = glora(*arguments, "--budget", "15%", "--json")
    assert code == 0, err
    assert json.loads(out)["n_params"] == row["n_params"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny", "--to", "pdf"), "must be one of"),
        (("tony", "--to", "timm"), "tiny"),
        (("tiny", "--to", "timm", "--trial", 77), "77"),
        (("tiny", "--to", "timm", "--private"), "--private must come with --push"),
        (("tiny", "--to", "timm", "--preprocess"), "--preprocess must come with --to 'onnx' or"),
        (("tiny", "--to", "timm", "--budget", "a"), "Correct --budget."),
        (("tiny", "--to", "timm", "--out", "."), "--out"),
        (("tiny", "--to", "timm", "--out", ".", "--force"), "--out"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_export_wrong_input_is_one_line_and_leaves_no_file(runs, error, arguments, words):
    out = () if "--out" in arguments else ("--out", "taken")
    assert words in error("export", *arguments, "--runs", runs, *out)
    assert not list(Path().iterdir())
