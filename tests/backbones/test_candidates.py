from pathlib import Path

import pytest
import timm
import torch

from glora_automl.adapters import linear_shapes
from glora_automl.backbones import (
    LISTS,
    BackboneSettings,
    CandidateBackbone,
    create_model,
    in_folder,
    input_format,
)


@pytest.mark.parametrize("name", sorted(LISTS))
def test_lists_are_pretrained_models_under_a_free_licence(name):
    for candidate in BackboneSettings(model=name).candidates:
        assert timm.is_model_pretrained(candidate.model)
        assert timm.get_pretrained_cfg(candidate.model).license in ("apache-2.0", "mit")
        assert candidate.pretrained


@pytest.mark.parametrize(
    ("name", "bounds"), [("auto-small", (0, 12)), ("auto", (20, 30)), ("auto-large", (50, 90))]
)
def test_lists_have_adaptable_models_of_their_size(name, bounds):
    for candidate in BackboneSettings(model=name).candidates:
        settings = BackboneSettings(model=candidate.model, kwargs=candidate.kwargs)
        with torch.device("meta"):
            model = create_model(settings, 2, 0)
            size = input_format(model, settings).size
            assert linear_shapes(model, example=torch.zeros(1, *size))
        n_params = sum(parameter.numel() for parameter in model.parameters())
        assert bounds[0] < n_params / 1e6 < bounds[1]


def test_candidate_text_with_a_path_is_a_local_checkpoint():
    found = CandidateBackbone.model_validate("resnet18 = a=b/c.pth")
    assert (found.model, found.checkpoint, found.pretrained) == ("resnet18", "a=b/c.pth", False)


def test_candidate_label_tells_two_checkpoints_apart():
    labels = {CandidateBackbone.model_validate(f"resnet18={f}.pth").label for f in "ab"}
    assert labels == {"resnet18=a.pth", "resnet18=b.pth"}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("resnet18", "resnet18"),
        ("resnet18=a.pth", "resnet18=there/a.pth"),
        ("resnet18=/a.pth", "resnet18=/a.pth"),
        ({"model": "m", "checkpoint": "a.pth"}, {"model": "m", "checkpoint": "there/a.pth"}),
        ({"model": "m"}, {"model": "m"}),
        (3, 3),
    ],
)
def test_in_folder_moves_relative_checkpoints(entry, expected):
    assert in_folder(entry, Path("there")) == expected


def test_label_shows_no_folder_of_this_machine(tmp_path):
    candidate = CandidateBackbone(model=f"local-dir:{tmp_path}/vit", pretrained=True)
    assert candidate.label == "local-dir:vit"
