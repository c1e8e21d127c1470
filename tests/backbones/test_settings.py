import pytest

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
