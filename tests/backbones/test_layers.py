import timm
from torch import nn

from glora_automl.backbones import BackboneSettings, list_layers
from glora_automl.search_space import SearchSpaceSpec

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def test_list_layers_groups_all_layers():
    settings = BackboneSettings(model="beit_base_patch16_224", kwargs=SMALL, pretrained=True)
    groups = list_layers(settings)
    by_pattern = {group.pattern: group for group in groups}
    assert by_pattern["blocks.*.attn.qkv"][1:] == (3, (48, 16), "AB", None)
    assert by_pattern["blocks.*.mlp.fc1"][1:] == (3, (64, 16), "ABCDE", None)
    assert by_pattern["head"][1:] == (1, None, "", "the classifier, which is always trained")
    model = timm.create_model(settings.model, num_classes=2, **SMALL)
    weighted = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert sum(group.n_layers for group in groups) == len(weighted)
    spec = SearchSpaceSpec(layers=("blocks.*.attn.qkv",), choices={"B": ("none", "lora-2")})
    assert len(spec.select(weighted)) == 3


def test_list_layers_different_sizes_are_different_groups():
    sizes = [g.size for g in list_layers(BackboneSettings(model="test_convnext")) if g.size]
    assert len(sizes) == len(set(sizes)) > 2


def test_list_layers_model_without_adaptable_layers_gives_the_reasons():
    groups = list_layers(BackboneSettings(model="resnet18"))
    assert all(group.size is None and group.reason for group in groups)
