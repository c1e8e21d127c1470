"""Exports of studies on a backbone of transformers."""

import ast
import json
import os
import subprocess
import sys
import tomllib

import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="needs transformers")

from glora_automl import export_model, predict, search
from glora_automl.errors import ExportError
from glora_automl.pipeline import Workspace
from glora_automl.recipes import parse_recipe
from glora_automl.search_space import load_search_space
from tests.backbones.hf import PROCESSOR, save
from tests.conftest import TINY
from tests.export.test_card import code_of

KINDS = ("transformers", "adapter", "peft", "onnx", "backbone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with a finished study and its exports."""
    folder = tmp_path_factory.mktemp("hf")
    model = save("vit", folder / "vit")
    (folder / "vit/preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    table = tomllib.loads(TINY) | {"name": "hf"}
    table["search_space"] = load_search_space("lean").model_dump(mode="json")
    table["backbone"] = {"model": model, "pretrained": True}
    recipe = parse_recipe(table, "recipe").replace(
        budget=400,
        training={"epochs": 2},
        search={"n_trials": 2},
        selection={"baselines": False, "n_candidates": 1},
    )
    workspace = Workspace(runs=folder / "runs")
    search(recipe, workspace=workspace)
    (folder / "vit").rename(folder / "moved")  # the study keeps the weights, not the folder
    (folder / "vit").mkdir()
    (folder / "vit/config.json").write_bytes((folder / "moved/config.json").read_bytes())
    (folder / "vit/preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    for kind in KINDS:
        export_model("hf", kind, folder / kind, workspace=workspace)
    image = Image.linear_gradient("L").resize((40, 30))
    image.putalpha(image.transpose(Image.Transpose.ROTATE_180))
    image.save(folder / "image.png")
    return folder


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "backbone"])
def test_predict_of_any_kind_returns_equal_probabilities(folder, kind):
    found, expected = (
        predict(folder / name, folder / "image.png", top=3) for name in (kind, "transformers")
    )
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=1e-4, atol=1e-5)


def test_card_code_of_transformers_runs_as_it_stands(folder):
    class Written:
        path = folder / "transformers"

    lines = [code_of(Written), "whole = classify(image)"]
    Written.path = folder / "peft"
    lines += [code_of(Written), "processor = classify.image_processor"]
    lines += [
        "logits = model(**processor(image, return_tensors='pt')).logits",
        "assert abs(float(logits.softmax(1).max()) - whole[0]['score']) < 1e-5",
        "print([(label['label'], label['score']) for label in whole])",
    ]
    process = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    best = predict(folder / "transformers", folder / "image.png", top=3).best()[0][1]
    found = ast.literal_eval(process.stdout.splitlines()[-1])
    assert dict(found) == pytest.approx(dict(best), abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "words"), [("timm", "Choose `to` 'transformers'"), ("pdf", "must be one of timm")]
)
def test_export_model_in_a_foreign_format_raises(folder, kind, words):
    with pytest.raises(ExportError, match=words):
        export_model("hf", kind, folder / "no", workspace=Workspace(runs=folder / "runs"))
    assert not (folder / "no").exists()


def test_exports_do_not_name_the_folder_of_the_model(folder):
    for kind in KINDS:
        for file in (folder / kind).rglob("*.*"):
            if file.suffix in (".json", ".md", ".toml"):
                assert str(folder) not in file.read_text(encoding="utf-8"), file
