"""Small backbones for tests."""

from glora_automl.backbones import BackboneSettings
from glora_automl.training import tensor_digest

SMALL = {
    "img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "in_chans": 1,
}  # fmt: skip


def backbone_settings(**changes):
    return BackboneSettings(**{"model": "vit_tiny_patch16_224", "kwargs": SMALL, **changes})


def digest(model):
    return tensor_digest(model.state_dict())
