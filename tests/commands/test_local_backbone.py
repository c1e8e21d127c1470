import shutil

import pytest
import safetensors.torch

from glora_automl.backbones import BackboneSettings, create_model
from glora_automl.commands import _search as module
from glora_automl.commands import resume, search
from glora_automl.errors import RecipeError, TaskError
from glora_automl.pipeline import Workspace
from glora_automl.recipes import load_recipe
from glora_automl.training import tensor_digest
from tests.conftest import TINY

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
LOCAL = (
    TINY[: TINY.index("[backbone.pretraining]")].replace(
        "kwargs =", 'checkpoint = "weights/vit.safetensors"\nkwargs ='
    )
    + TINY[TINY.index("[training]") :]
    + "baselines = false\n"
)


@pytest.fixture
def recipe(tmp_path):
    """Path of a recipe in a folder with its checkpoint."""
    folder = tmp_path / "mine"
    (folder / "weights").mkdir(parents=True)
    save(folder / "weights" / "vit.safetensors", seed=7)
    (folder / "local.toml").write_text(LOCAL, encoding="utf-8")
    return folder / "local.toml"


def save(path, seed, **changes):
    model = create_model(
        BackboneSettings(model="vit_tiny_patch16_224", kwargs={**VIT, **changes}), 9, seed
    )
    safetensors.torch.save_file(model.state_dict(), path)


def search_killed(recipe, monkeypatch, workspace, before="load_supernet"):
    """Run a study and kill it at a function, by default after its backbone."""

    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, before, kill)
        search(load_recipe(str(recipe)), workspace=workspace)


def test_resume_without_the_checkpoint_continues_and_another_file_raises(
    recipe, tmp_path, monkeypatch
):
    first, second = (
        Workspace(
            runs=tmp_path / runs,
            storage=f"sqlite:///{tmp_path}/a.db",
            artifacts=str(tmp_path / "artifacts"),
        )
        for runs in ("first", "second")
    )
    search_killed(recipe, monkeypatch, first, before="search_trials")
    save(recipe.parent / "weights" / "vit.safetensors", seed=8)
    with pytest.raises(RecipeError, match=r"backbone\.sha256 must be '.*Choose another `name`"):
        search(load_recipe(str(recipe)), workspace=first)
    shutil.rmtree(recipe.parent / "weights")
    with pytest.raises(TaskError, match="No such file"):
        search(load_recipe(str(recipe)), workspace=first)

    found = resume("local", workspace=second)
    expected = create_model(BackboneSettings(model="vit_tiny_patch16_224", kwargs=VIT), 9, 7)
    body = {n: t for n, t in expected.state_dict().items() if "norm" in n or "embed" in n}
    assert tensor_digest({n: found.model.state_dict()[n] for n in body}) == tensor_digest(body)


def test_search_same_checkpoint_elsewhere_is_the_same_study(recipe, tmp_path, monkeypatch):
    workspace = Workspace(storage=f"sqlite:///{tmp_path}/a.db", runs=tmp_path / "runs")
    search_killed(recipe, monkeypatch, workspace)
    shutil.move(recipe.parent, tmp_path / "elsewhere")
    search(load_recipe(str(tmp_path / "elsewhere" / "local.toml")), workspace=workspace)


def test_resume_before_the_backbone_without_the_checkpoint_raises(recipe, tmp_path, monkeypatch):
    workspace = Workspace(storage=f"sqlite:///{tmp_path}/a.db", runs=tmp_path / "runs")
    save(recipe.parent / "weights" / "vit.safetensors", seed=7, depth=3)
    with pytest.raises(TaskError, match=r'Unexpected key.*"blocks\.2\.'):
        search(load_recipe(str(recipe)), workspace=workspace)
    shutil.rmtree(recipe.parent / "weights")
    with pytest.raises(TaskError, match=r"sha256 [0-9a-f]{64}, got no file at .*vit\.safetensors'"):
        resume("local", workspace=workspace)
    # The corrected recipe starts again under the same name.
    (recipe.parent / "weights").mkdir()
    save(recipe.parent / "weights" / "vit.safetensors", seed=7)
    search_killed(recipe, monkeypatch, workspace)
