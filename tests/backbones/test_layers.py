import timm
from torch import nn

from glora_automl.backbones import BackboneSettings, list_layers
from glora_automl.search_space import SearchSpaceSpec

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def test_layers_are_grouped_and_every_one_is_there():
    settings = BackboneSettings(model="beit_base_patch16_224", kwargs=SMALL, pretrained=True)
    groups = list_layers(settings)
    by_pattern = {group.pattern: group for group in groups}
    assert by_pattern["blocks.*.attn.qkv"][1:] == (3, (48, 16), "AB", None)
    assert by_pattern["blocks.*.mlp.fc1"][1:] == (3, (64, 16), "ABCDE", None)
    assert by_pattern["head"][1:] == (1, None, "", "the classifier, which is always trained")
    model = timm.create_model(settings.model, num_classes=2, **SMALL)
    weighted = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert sum(group.layers for group in groups) == len(weighted)
    spec = SearchSpaceSpec(layers=("blocks.*.attn.qkv",), choices={"B": ("none", "lora-2")})
    assert len(spec.select(weighted)) == 3


def test_layers_of_one_name_and_different_sizes_are_told_apart():
    sizes = [g.size for g in list_layers(BackboneSettings(model="test_convnext")) if g.size]
    assert len(sizes) == len(set(sizes)) > 2


def test_a_model_with_nothing_to_adapt_has_reasons_alone():
    groups = list_layers(BackboneSettings(model="resnet18"))
    assert all(group.size is None and group.reason for group in groups)
