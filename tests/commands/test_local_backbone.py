"""Studies on a backbone from a local checkpoint."""

import shutil

import pytest
import safetensors.torch

from glora_automl.backbones import BackboneSettings, create_model
from glora_automl.commands import _search as module
from glora_automl.commands import resume, search
from glora_automl.errors import RecipeError, TaskError
from glora_automl.recipes import load_recipe
from glora_automl.training import tensor_digest
from tests.conftest import TINY

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
LOCAL = (
    TINY[: TINY.index("[backbone.pretraining]")].replace(
        "kwargs =", 'checkpoint = "weights/vit.safetensors"\nkwargs ='
    )
    + TINY[TINY.index("[training]") :]
    + "controls = false\n"
)


@pytest.fixture
def recipe(tmp_path):
    """A recipe in a folder with its checkpoint, as a path."""
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


def stopped(recipe, monkeypatch, before="load_supernet", **options):
    """Run a study until its backbone is made, or further, as if it was killed then."""

    class Killed(BaseException):
        pass

    def kill(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, before, kill)
        search(load_recipe(str(recipe)), **options)


def test_the_study_goes_on_without_the_file_and_refuses_another_one(recipe, tmp_path, monkeypatch):
    where = {
        "storage": f"sqlite:///{tmp_path}/a.db",
        "artifacts": str(tmp_path / "artifacts"),
    }
    stopped(recipe, monkeypatch, before="run_trials", runs=tmp_path / "first", **where)
    save(recipe.parent / "weights" / "vit.safetensors", seed=8)
    with pytest.raises(RecipeError, match=r"exists with backbone\.sha256 = '.*--name"):
        search(load_recipe(str(recipe)), runs=tmp_path / "first", **where)
    shutil.rmtree(recipe.parent / "weights")
    with pytest.raises(TaskError, match="No such file"):
        search(load_recipe(str(recipe)), runs=tmp_path / "first", **where)

    found = resume("local", runs=tmp_path / "second", **where)
    expected = create_model(BackboneSettings(model="vit_tiny_patch16_224", kwargs=VIT), 9, 7)
    body = {n: t for n, t in expected.state_dict().items() if "norm" in n or "embed" in n}
    assert tensor_digest({n: found.model.state_dict()[n] for n in body}) == tensor_digest(body)


def test_the_same_file_elsewhere_is_the_same_study(recipe, tmp_path, monkeypatch):
    where = {"storage": f"sqlite:///{tmp_path}/a.db", "runs": tmp_path / "runs"}
    stopped(recipe, monkeypatch, **where)
    shutil.move(recipe.parent, tmp_path / "elsewhere")
    search(load_recipe(str(tmp_path / "elsewhere" / "local.toml")), **where)


def test_before_the_backbone_is_made_the_file_is_asked_for(recipe, tmp_path, monkeypatch):
    where = {"storage": f"sqlite:///{tmp_path}/a.db", "runs": tmp_path / "runs"}
    save(recipe.parent / "weights" / "vit.safetensors", seed=7, depth=3)
    with pytest.raises(TaskError, match=r'Unexpected key.*"blocks\.2\.'):
        search(load_recipe(str(recipe)), **where)
    shutil.rmtree(recipe.parent / "weights")
    with pytest.raises(TaskError, match=r"vit\.safetensors' with sha256 .* is wanted and not here"):
        resume("local", **where)
    # The mended recipe starts over under the same name.
    (recipe.parent / "weights").mkdir()
    save(recipe.parent / "weights" / "vit.safetensors", seed=7)
    stopped(recipe, monkeypatch, **where)
