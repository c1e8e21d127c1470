import tomllib
from pathlib import Path

import pytest

from glora_automl.backbones import BackboneSettings
from glora_automl.backbones._kwargs import check_kwargs
from glora_automl.errors import RecipeError
from glora_automl.recipes import load_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"checkpoint_path": "weights.pth"},
        {"pretrained_cfg": {"file": "weights.pth"}},
        {"pretrained_cfg": "augreg"},
        {"pretrained_cfg_overlay": {"file": "weights.pth"}},
        {"pretrained_cfg_overlay": {"url": "https://host/weights.pth"}},
        {"pretrained_cfg_overlay": {"hf_hub_id": "me/mine"}},
        {"pretrained_cfg_overlay": {"state_dict": {}}},
        {"pretrained_cfg_overlay": {"custom_load": True}},
        {"pretrained_cfg_overlay": "file"},
        {"cache_dir": "/tmp"},
        {"model_cfg": {}},
        {"pretrained_filter_fn": "os.system"},
        {"scriptable": True},
        {"features_only": True},
        {"num_classes": 3},
        {"pretrained": True},
        {"embed_dim": 10**9},
        {"depth": 10**6},
        {"depths": [2, 10**6]},
        {"img_size": float("inf")},
        {"img_size": {"a": 1}},
        {"act_layer": "x" * 1000},
    ],
    ids=str,
)
def test_check_kwargs_others_than_shapes_raise(kwargs):
    with pytest.raises(ValueError, match="kwargs") as caught:
        check_kwargs(kwargs)
    assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match="kwargs"):
        BackboneSettings(model="test_vit", kwargs=kwargs)


def test_check_kwargs_misspelt_key_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'depth'"):
        check_kwargs({"depht": 2})


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/*.toml")), ids=lambda path: path.name)
def test_check_kwargs_shipped_recipe_passes(path):
    backbone = tomllib.loads(path.read_text(encoding="utf-8")).get("backbone", {})
    assert check_kwargs(backbone.get("kwargs", {})) == backbone.get("kwargs", {})


def test_recipe_with_a_file_in_kwargs_raises_one_line():
    overlay = {"pretrained_cfg_overlay": {"file": "weights.pth"}}
    with pytest.raises(RecipeError, match=r"pretrained_cfg_overlay\.file.*Remove it"):
        load_recipe("digits").replace(backbone={"kwargs": overlay})
