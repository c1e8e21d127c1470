import pytest
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from glora_automl.backbones import (
    BackboneSettings,
    _model,
    check_backbone,
    create_model,
    input_format,
    set_pretrained_cfg,
)
from glora_automl.errors import TaskError
from glora_automl.tasks import InputFormat
from tests.backbones.models import SMALL, backbone_settings, digest


def test_create_model_unknown_name_suggests_the_nearest():
    with pytest.raises(TaskError, match="Did you mean 'vit_tiny_patch16_224'"):
        create_model(backbone_settings(model="vit_tiny_patch16_242"), 3, seed=0)
    with pytest.raises(TaskError, match=r"got 'zzzzzzzz'.*timm\.list_models"):
        create_model(backbone_settings(model="zzzzzzzz"), 3, seed=0)


def test_create_model_wrong_kwargs_raise_one_line():
    kwargs = {"embed_dim": 15, "num_heads": 2}
    with pytest.raises(
        TaskError, match="that timm can create, got 'vit_tiny_patch16_224'"
    ) as caught:
        create_model(backbone_settings(kwargs=kwargs), 3, seed=0)
    assert "\n" not in str(caught.value)
    assert str(kwargs) in str(caught.value)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("We couldn't connect to 'https://huggingface.co'\nand more\nlines"), "connect"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_create_model_failed_download_raises_one_line(monkeypatch, error, reason):
    def no_network(*args, **kwargs):
        assert kwargs["pretrained"] is True
        raise error

    monkeypatch.setattr(_model.timm, "create_model", no_network)
    with pytest.raises(TaskError, match=f"pretrained = True.*{reason}") as caught:
        create_model(backbone_settings(pretrained=True), 3, seed=0)
    assert "\n" not in str(caught.value)


def test_create_model_seed_alone_determines_the_weights():
    digests = []
    for seed, process_seed in ((0, 0), (0, 1), (1, 0)):
        with torch.random.fork_rng():
            torch.manual_seed(process_seed)
            state = torch.get_rng_state()
            digests.append(digest(create_model(backbone_settings(), 3, seed=seed)))
            assert torch.equal(torch.get_rng_state(), state)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("kwargs", "size", "mean"),
    [
        ({}, (3, 224, 224), (0.5, 0.5, 0.5)),
        ({"img_size": 32}, (3, 32, 32), (0.5, 0.5, 0.5)),
        ({"img_size": [32, 64]}, (3, 32, 64), (0.5, 0.5, 0.5)),
        ({"in_chans": 1, "img_size": 32}, (1, 32, 32), (0.5,)),
        ({"in_chans": 4}, (4, 224, 224), (0.5,) * 4),
    ],
    ids=str,
)
def test_input_format_follows_kwargs(kwargs, size, mean):
    settings = backbone_settings(kwargs={"embed_dim": 16, "depth": 1, "num_heads": 2, **kwargs})
    model = create_model(settings, 3, seed=0).eval()
    target = input_format(model, settings)
    assert tuple(target.size) == size
    assert (target.mean, target.std) == (mean, mean)
    with torch.no_grad():
        assert model(torch.zeros(1, *target.size)).shape == (1, 3)


def test_input_format_other_channels_average_over_the_colours():
    settings = BackboneSettings(model="deit_tiny_patch16_224", kwargs=SMALL)
    target = input_format(create_model(settings, 3, seed=0), settings)
    assert target.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)
    assert target.std == (pytest.approx((0.229 + 0.224 + 0.225) / 3),)


def test_input_format_mean_and_std_replace_the_models():
    model = create_model(backbone_settings(kwargs={**SMALL, "in_chans": 3}), 3, seed=0)
    settings = backbone_settings(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    rgb = settings.model_copy(update={"kwargs": {**SMALL, "in_chans": 3}})
    assert input_format(model, rgb)[:3] == ((3, 8, 8), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    with pytest.raises(TaskError, match=r"backbone\.mean .*each of the model's 1 channels, got"):
        input_format(model, settings)
    with pytest.raises(ValueError, match=r"greater than 0\.000001"):
        backbone_settings(std=(0.0,))


@pytest.mark.parametrize("is_remote", [True, False])
def test_set_pretrained_cfg_describes_the_study_alone(is_remote):
    model = create_model(BackboneSettings(model="deit_tiny_patch16_224", kwargs=SMALL), 2, seed=0)
    labels = {"label_names": ["a"], "label_descriptions": {"a": "b"}, "test_crop_pct": 0.9}
    model.pretrained_cfg |= {**labels, "license": "mit"}
    given = dict(model.pretrained_cfg)
    given_object = model.pretrained_cfg
    target = InputFormat((1, 8, 8), (0.1,), (0.2,), "bilinear", 0.8)
    for crop_mode, crop_pct in (("squash", 1.0), ("center", 0.8), ("border", 1.0)):
        set_pretrained_cfg(model, target, crop_mode, ("x", "y"), is_remote=is_remote)
        assert resolve_model_data_config(model) == {
            **{"input_size": (1, 8, 8), "mean": (0.1,), "std": (0.2,)},
            **{"interpolation": "bilinear", "crop_mode": crop_mode, "crop_pct": crop_pct},
        }
    found = model.pretrained_cfg
    assert model.default_cfg is found
    assert (found["num_classes"], found["label_names"]) == (2, ["x", "y"])
    assert not {"label_descriptions", "test_crop_pct"} & set(found)
    assert ("license" in found) == ("url" in found or "hf_hub_id" in found) == is_remote
    assert given_object == given


def test_set_pretrained_cfg_of_another_model_sets_nothing():
    model = nn.Linear(2, 2)
    before = set(vars(model))
    set_pretrained_cfg(model, InputFormat((1, 8, 8), (0,), (1,)), "squash", "ab", is_remote=False)
    assert set(vars(model)) == before


class TestCheckBackbone:
    def check(self, classes=3, size=None, **changes):
        settings = backbone_settings(**changes)
        model = create_model(settings, 3, seed=0)
        target = input_format(model, settings)
        target = target if size is None else target._replace(size=size)
        training = [m.training for m in model.modules()]
        try:
            check_backbone(model, settings, target, classes)
        finally:
            assert [m.training for m in model.modules()] == training

    def test_classifier_for_the_size_passes(self):
        self.check()

    def test_wrong_size_raises_with_a_hint(self):
        with pytest.raises(
            TaskError, match=r"images of 1 x 12 x 12, .*img_size in `backbone\.kwargs`"
        ) as caught:
            self.check(size=(1, 12, 12))
        assert "\n" not in str(caught.value)

    def test_img_size_for_a_model_of_any_size_raises_with_a_hint(self):
        with pytest.raises(TaskError, match=r"Set pretrained_cfg_overlay\.input_size"):
            self.check(model="resnet10t", kwargs={"img_size": 32})
        overlay = {"input_size": [3, 32, 32]}
        settings = backbone_settings(model="resnet10t", kwargs={"pretrained_cfg_overlay": overlay})
        assert input_format(create_model(settings, 3, seed=0), settings).size == (3, 32, 32)

    def test_model_without_classifier_raises(self):
        settings = backbone_settings(model="test_convnext", kwargs={})
        model = timm.create_model("test_convnext", features_only=True)
        target = InputFormat((3, 32, 32), (0.5,) * 3, (0.5,) * 3)
        with pytest.raises(TaskError, match="must have a classifier"):
            check_backbone(model, settings, target, 3)

    def test_other_number_of_classes_raises(self):
        with pytest.raises(TaskError, match="one score for each of 4 classes"):
            self.check(classes=4)
