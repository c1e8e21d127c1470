"""Image models of transformers as backbones."""

import copy
import json

import numpy as np
import optuna
import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers")

from glora_automl import AdapterProblem, Workspace
from glora_automl.adapters import classifiers, linear_shapes
from glora_automl.backbones import (
    BackboneSettings,
    as_transformers,
    check_backbone,
    create_model,
    input_format,
    logits_model,
)
from glora_automl.errors import RecipeError, TaskError
from glora_automl.recipes import load_recipe
from tests.backbones.hf import PROCESSOR, TINY, save


def settings(model, **more):
    return BackboneSettings(model=model, pretrained=True, **more)


@pytest.mark.parametrize("name", sorted(TINY))
def test_create_model_of_transformers_names_its_layers(tmp_path, name):
    found = settings(save(name, tmp_path))
    assert found.is_local
    model = create_model(found, 3, 0)
    target = input_format(model, found)
    assert target.size == (3, 16, 16)
    check_backbone(model, found, target, 3)
    (head,) = classifiers(model)
    assert head.out_features == 3
    shapes = linear_shapes(model, example=torch.zeros(2, *target.size))
    # The names are those of transformers and PEFT.
    plain = dict(as_transformers(copy.deepcopy(model)).named_modules())
    assert set(shapes) <= set(plain)
    assert len(shapes) >= 12


def test_create_model_keeps_the_weights_and_draws_the_head(tmp_path):
    found = settings(save("vit", tmp_path))
    model, again, other = (create_model(found, 3, seed) for seed in (0, 0, 1))
    state = model.state_dict()
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in state.items())
    different = {n for n, t in state.items() if not torch.equal(t, other.state_dict()[n])}
    assert different == {"classifier.weight"}
    bare = create_model(found.model_copy(update={"pretrained": False}), 3, 0).state_dict()
    name = "vit.layers.0.mlp.fc1.weight"
    assert not torch.equal(bare[name], state[name])


def test_input_format_is_that_of_the_image_processor(tmp_path):
    found = settings(save("vit", tmp_path))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    target = input_format(create_model(found, 2, 0), found)
    assert target == ((3, 16, 16), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 1.0)
    crop = {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}
    table = {**PROCESSOR, **crop, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(table), encoding="utf-8")
    target = input_format(create_model(found, 2, 0), found)
    assert (target.size, target.crop_pct) == ((3, 16, 16), 0.8)


@pytest.mark.parametrize("change", [{"kwargs": {"depth": 2}}, {"checkpoint": "a.safetensors"}])
def test_settings_of_timm_for_a_model_of_transformers_raise(change):
    (key,) = change
    with pytest.raises(RecipeError, match=f"{key} must be unset for a model of transformers"):
        load_recipe("own").replace(backbone={"model": "transformers:a/b", **change})


def test_create_model_of_missing_folder_raises_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TaskError, match="must be an image classifier that transformers") as caught:
        create_model(settings("transformers:nobody/nothing"), 3, 0)
    assert len(str(caught.value)) <= 300


def test_problem_of_a_module_of_transformers_returns_one(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(40) % 2
    model = TINY["swin"]()
    problem = AdapterProblem(
        model,
        (images[:20], labels[:20]),
        (images[20:], labels[20:]),
        budget=300,
        settings={"training": {"epochs": 1, "warmup_epochs": 0}},
        workspace=Workspace(runs=tmp_path),
    )
    study = optuna.create_study(direction=problem.direction, sampler=problem.sampler(seed=0))
    study.optimize(problem.objective, n_trials=2)
    built = problem.build(problem.architecture(study.best_trial), train=False)
    assert type(built) is type(model)
    logits = built(torch.zeros(1, 3, 16, 16)).logits
    assert logits.shape == (1, 2)
    assert torch.equal(logits_model(built)(torch.zeros(1, 3, 16, 16)), logits)


def test_create_model_with_code_in_its_folder_does_not_ask_to_run_it(tmp_path, monkeypatch):
    config = {"model_type": "own", "auto_map": {"AutoConfig": "code.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "code.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("it asked"))
    for pretrained in (True, False):
        found = BackboneSettings(model=f"transformers:{tmp_path}", pretrained=pretrained)
        with pytest.raises(TaskError):
            create_model(found, 3, 0)
