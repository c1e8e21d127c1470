import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from glora_automl.commands import search
from glora_automl.export import export_model
from glora_automl.pipeline import Workspace
from glora_automl.recipes import load_recipe
from tests.conftest import TINY


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The runs folder of a finished study ``tiny``."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    settings = {"search": {"n_trials": 3}, "selection": {"baselines": False, "n_candidates": 1}}
    recipe = load_recipe(str(folder / "tiny.toml")).replace(**settings)
    search(recipe, workspace=Workspace(runs=folder))
    return folder


@pytest.fixture(scope="session")
def exports(runs):
    """Exports of that study, by kind."""
    kinds = ("adapter", "timm", "peft", "onnx", "pt2", "backbone")
    workspace = Workspace(runs=runs)
    return {
        kind: export_model("tiny", kind, runs / "out" / kind, workspace=workspace) for kind in kinds
    }


@pytest.fixture
def workspace(runs, tmp_path):
    """Workspace with a copy of that study."""
    shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns("out"))
    return Workspace(runs=tmp_path / "runs", artifacts=str(tmp_path / "runs/artifacts"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Folder with digits of scikit-learn as files, with the class in the name."""
    folder = tmp_path_factory.mktemp("photos")
    bunch = load_digits()
    for i in np.flatnonzero(np.isin(bunch.target, (5, 6, 7)))[:12]:
        pixels = np.rint(bunch.images[i] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{bunch.target[i]}-{i:04}.png")
    return folder
