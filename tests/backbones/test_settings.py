import pytest

from glora_automl.backbones import LISTS, BackboneSettings
from glora_automl.training import TrainingSettings
from tests.backbones.models import backbone_settings

PRETRAINING = TrainingSettings(epochs=1, lr=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"pretrained": True, "pretraining": PRETRAINING},
        {"kwargs": {"num_classes": 3}},
        {"kwargs": {"pretrained": True}},
    ],
    ids=str,
)
def test_backbone_settings_contradictory_raise(changes):
    with pytest.raises(ValueError, match=r"at most one of|must not contain"):
        backbone_settings(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"checkpoint": "a.safetensors", "pretrained": True}, "at most one of"),
        ({"checkpoint": "a.onnx"}, r"end in one of .*\.safetensors"),
        ({"sha256": "0" * 64}, "must come with a checkpoint"),
        ({"checkpoint": "a.pth", "sha256": "abc"}, "pattern"),
    ],
)
def test_backbone_settings_wrong_checkpoint_raises(changes, reason):
    with pytest.raises(ValueError, match=reason):
        backbone_settings(**changes)


def test_backbone_settings_auto_has_a_list_of_candidates():
    auto, small = BackboneSettings(model="auto"), BackboneSettings(model="auto-small")
    assert auto == BackboneSettings(model="auto-medium")
    assert small.model == "auto"
    assert [candidate.model for candidate in small.candidates] == list(LISTS["auto-small"])
    both = BackboneSettings(model="auto", candidates=["resnet34", "auto-small"])
    assert both.candidates[1:] == small.candidates
    assert BackboneSettings.model_validate(both.model_dump(mode="json")) == both


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "resnet18", "candidates": ["resnet34"]}, "must be 'auto' with candidates"),
        ({"kwargs": {"img_size": 8}}, "kwargs must be unset with candidates"),
        ({"checkpoint": "a.pth"}, "checkpoint must be unset with candidates"),
        ({"candidates": ["resnet18", "resnet18"]}, "'resnet18' twice"),
        ({"candidates": ["resnet18=a.txt"]}, "end in one of"),
        ({"candidates": [{"checkpoint": "a.pth"}]}, "Field required"),
        ({"max_params": "5%"}, "must be a count"),
        ({"max_latency_ms": 0.0}, "greater than 0"),
        ({"model": "resnet18", "max_params": "3M"}, "must come with the model 'auto'"),
    ],
    ids=str,
)
def test_backbone_settings_wrong_candidates_raise(changes, reason):
    with pytest.raises(ValueError, match=reason):
        BackboneSettings(**{"model": "auto", **changes})


def test_backbone_settings_pinned_reads_the_digest_of_each_checkpoint(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.pth").write_text(name, encoding="utf-8")
    names = [f"resnet18={tmp_path}/{name}.pth" for name in "ab"]
    pinned = BackboneSettings(model="auto", candidates=["resnet18", *names]).pinned()
    digests = [candidate.sha256 for candidate in pinned.candidates]
    assert digests[0] is None
    assert len({*digests}) == 3
    assert pinned.pinned() == pinned


def test_backbone_settings_chosen_has_the_candidates_source_and_the_own_head():
    settings = BackboneSettings(
        model="auto", candidates=["resnet34", "resnet18=a.pth"], head_init="logistic", max_params=9
    )
    expected = BackboneSettings(model="resnet18", checkpoint="a.pth", head_init="logistic")
    assert settings.chosen(settings.candidates[1]) == expected
