import dataclasses

import pytest
import torch

from glora_automl.backbones import (
    BackboneSettings,
    _backbone,
    check_backbone,
    create_backbone,
    create_model,
    input_format,
)
from glora_automl.errors import CheckpointError, TaskError
from glora_automl.progress import Progress
from glora_automl.tasks import DigitsSettings, ImageSet, load_digits
from glora_automl.training import TrainingSettings, load_checkpoint, tensor_digest

CPU = torch.device("cpu")
SMALL = {
    "img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "in_chans": 1,
}  # fmt: skip
PRETRAINING = TrainingSettings(epochs=1, lr=1e-3)


def settings(**changes):
    return BackboneSettings(**{"model": "vit_tiny_patch16_224", "kwargs": SMALL, **changes})


def digest(model):
    return tensor_digest(model.state_dict())


def body(state):
    """All weights but the classifier's."""
    return tensor_digest({n: t for n, t in state.items() if not n.startswith("head.")})


@pytest.fixture(scope="module")
def task():
    chosen = DigitsSettings(
        source="digits",
        classes=(1, 2, 3),
        pretraining_classes=(5, 6, 7, 8),
        train_per_class=2,
        validation_per_class=2,
    )
    whole = load_digits(chosen, seed=0)
    few = ImageSet(whole.pretraining.images[:64], whole.pretraining.labels[:64])
    return dataclasses.replace(whole, pretraining=few)


def create(chosen, task, cache, seed=0, **options):
    return create_backbone(chosen, task, seed=seed, device=CPU, cache=cache, **options)


@pytest.fixture
def untrainable(monkeypatch):
    """From now on, whoever trains fails."""

    def forbid():
        def train(*args, **kwargs):
            raise AssertionError("this must not train")

        monkeypatch.setattr(_backbone, "train", train)

    return forbid


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(TaskError, match="did you mean 'vit_tiny_patch16_224'"):
        create_model(settings(model="vit_tiny_patch16_242"), 3, seed=0)
    with pytest.raises(TaskError, match=r"no model 'zzzzzzzz'.*timm\.list_models"):
        create_model(settings(model="zzzzzzzz"), 3, seed=0)


@pytest.mark.parametrize("kwargs", [{"depht": 2}, {"embed_dim": 15, "num_heads": 2}], ids=str)
def test_keywords_that_the_model_does_not_take_are_refused_in_one_line(kwargs):
    with pytest.raises(TaskError, match="timm cannot create 'vit_tiny_patch16_224'") as caught:
        create_model(settings(kwargs=kwargs), 3, seed=0)
    assert "\n" not in str(caught.value)
    assert str(kwargs) in str(caught.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("We couldn't connect to 'https://huggingface.co'\nand more\nlines"), "connect"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_weights_that_cannot_be_downloaded_are_told_in_one_line(monkeypatch, error, told):
    def no_network(*args, **kwargs):
        assert kwargs["pretrained"] is True
        raise error

    monkeypatch.setattr(_backbone.timm, "create_model", no_network)
    with pytest.raises(TaskError, match=f"pretrained = True.*{told}") as caught:
        create_model(settings(pretrained=True), 3, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pretrained": True, "pretraining": PRETRAINING},
        {"kwargs": {"num_classes": 3}},
        {"kwargs": {"pretrained": True}},
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(ValueError, match=r"exclude each other|it is set for you"):
        settings(**wrong)


def test_the_seed_alone_gives_the_initial_weights():
    digests = []
    for seed, process_seed in ((0, 0), (0, 1), (1, 0)):
        with torch.random.fork_rng():
            torch.manual_seed(process_seed)
            state = torch.get_rng_state()
            digests.append(digest(create_model(settings(), 3, seed=seed)))
            assert torch.equal(torch.get_rng_state(), state)
    assert digests[0] == digests[1] != digests[2]


def test_without_pretraining_the_model_is_the_created_one(task, tmp_path):
    model = create(settings(), task, tmp_path)
    assert digest(model) == digest(create_model(settings(), 3, seed=0))
    assert list(tmp_path.iterdir()) == []
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_pretraining_changes_the_weights_and_the_head_is_fresh(task, tmp_path):
    chosen = settings(pretraining=PRETRAINING)
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        model = create(chosen, task, tmp_path)
        assert torch.equal(torch.get_rng_state(), state)
    (path,) = tmp_path.glob("*.json")
    pretrained, _ = load_checkpoint(path)
    assert pretrained["head.weight"].shape == (4, 16)
    assert model.head.weight.shape == (3, 16)
    assert body(model.state_dict()) == body(pretrained)
    assert body(pretrained) != body(create_model(chosen, 4, seed=0).state_dict())


def test_the_head_is_fresh_even_where_the_numbers_of_classes_agree(task, tmp_path):
    twin = dataclasses.replace(task, classes=("1", "2", "3", "4"))
    model = create(settings(pretraining=PRETRAINING), twin, tmp_path)
    (path,) = tmp_path.glob("*.json")
    head = load_checkpoint(path)[0]["head.weight"]
    assert model.head.weight.shape == head.shape
    assert not torch.equal(model.head.weight, head)


def test_pretraining_is_done_once(task, tmp_path, untrainable):
    chosen = settings(pretraining=PRETRAINING)
    first = create(chosen, task, tmp_path / "cache")
    untrainable()
    with torch.random.fork_rng():
        torch.manual_seed(99)
        second = create(chosen, task, tmp_path / "cache")
    assert digest(second) == digest(first)


def test_pretraining_anew_gives_the_same_weights(task, tmp_path):
    chosen = settings(pretraining=PRETRAINING)
    first, second = (create(chosen, task, tmp_path / name) for name in "ab")
    assert digest(first) == digest(second)
    other = create(chosen, task, tmp_path / "a", seed=1)
    assert digest(other) != digest(first)


def test_the_cache_does_not_serve_other_settings_seeds_or_images(task, tmp_path, untrainable):
    create(settings(pretraining=PRETRAINING), task, tmp_path)
    untrainable()
    longer = PRETRAINING.model_copy(update={"epochs": 2})
    deeper = settings(pretraining=PRETRAINING, kwargs={**SMALL, "drop_path_rate": 0.1})
    images = ImageSet(task.pretraining.images.flip(0), task.pretraining.labels)
    for chosen, seed, pretraining in (
        (settings(pretraining=longer), 0, task.pretraining),
        (deeper, 0, task.pretraining),
        (settings(pretraining=PRETRAINING), 1, task.pretraining),
        (settings(pretraining=PRETRAINING), 0, images),
    ):
        with pytest.raises(AssertionError, match="must not train"):
            create(chosen, dataclasses.replace(task, pretraining=pretraining), tmp_path, seed=seed)


def test_the_cache_serves_other_tasks_with_the_same_pretraining(task, tmp_path, untrainable):
    first = create(settings(pretraining=PRETRAINING), task, tmp_path)
    untrainable()
    smaller = dataclasses.replace(task, classes=("1", "2"), train=task.test)
    second = create(settings(pretraining=PRETRAINING), smaller, tmp_path)
    assert body(second.state_dict()) == body(first.state_dict())
    assert second(torch.zeros(1, 1, 8, 8)).shape == (1, 2)


def test_an_altered_cache_is_refused(task, tmp_path):
    chosen = settings(pretraining=PRETRAINING)
    create(chosen, task, tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="altered or cut short; delete"):
        create(chosen, task, tmp_path)


def test_a_task_that_sets_no_images_aside_cannot_pretrain(task, tmp_path):
    bare = dataclasses.replace(task, pretraining=None)
    with pytest.raises(TaskError, match=r"task\.pretraining_classes"):
        create(settings(pretraining=PRETRAINING), bare, tmp_path)


def test_pretraining_is_shown(task, tmp_path):
    class Listener(Progress):
        stages = ()

        def stage(self, title, total, unit):
            self.stages += ((title, total, unit),)
            return super().stage(title, total, unit)

    progress = Listener()
    create(settings(pretraining=PRETRAINING), task, tmp_path, progress=progress)
    assert progress.stages == (("Pretrain backbone", 1, "epochs"),)


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
def test_the_input_format_follows_the_overrides(kwargs, size, mean):
    chosen = settings(kwargs={"embed_dim": 16, "depth": 1, "num_heads": 2, **kwargs})
    model = create_model(chosen, 3, seed=0).eval()
    wanted = input_format(model, chosen)
    assert tuple(wanted.size) == size
    assert (wanted.mean, wanted.std) == (mean, mean)
    with torch.no_grad():
        assert model(torch.zeros(1, *wanted.size)).shape == (1, 3)


def test_other_channels_take_the_mean_over_the_colours():
    chosen = BackboneSettings(model="deit_tiny_patch16_224", kwargs=SMALL)
    wanted = input_format(create_model(chosen, 3, seed=0), chosen)
    assert wanted.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)
    assert wanted.std == (pytest.approx((0.229 + 0.224 + 0.225) / 3),)


def test_means_and_deviations_can_be_set():
    model = create_model(settings(kwargs={**SMALL, "in_chans": 3}), 3, seed=0)
    chosen = settings(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    rgb = chosen.model_copy(update={"kwargs": {**SMALL, "in_chans": 3}})
    assert input_format(model, rgb)[:3] == ((3, 8, 8), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    with pytest.raises(TaskError, match=r"backbone\.mean .*each of the model's 1 channels, got"):
        input_format(model, chosen)
    with pytest.raises(ValueError, match="greater than 0"):
        settings(std=(0.0,))


class TestCheckBackbone:
    def check(self, classes=3, size=None, **changes):
        chosen = settings(**changes)
        model = create_model(chosen, 3, seed=0)
        target = input_format(model, chosen)
        target = target if size is None else target._replace(size=size)
        training = [m.training for m in model.modules()]
        try:
            check_backbone(model, chosen, target, classes)
        finally:
            assert [m.training for m in model.modules()] == training

    def test_a_classifier_that_takes_the_images_passes(self):
        self.check()

    def test_images_of_a_size_that_does_not_fit_are_refused_with_a_way_out(self):
        with pytest.raises(TaskError, match=r"images of 1 x 12 x 12: .*kwargs\.img_size") as caught:
            self.check(size=(1, 12, 12))
        assert "\n" not in str(caught.value)

    def test_a_size_for_a_model_that_takes_any_is_refused_with_a_way_out(self):
        with pytest.raises(TaskError, match=r"pretrained_cfg_overlay\.input_size sets"):
            self.check(model="resnet10t", kwargs={"img_size": 32})
        overlay = {"input_size": [3, 32, 32]}
        chosen = settings(model="resnet10t", kwargs={"pretrained_cfg_overlay": overlay})
        assert input_format(create_model(chosen, 3, seed=0), chosen).size == (3, 32, 32)

    def test_a_model_without_classifier_is_refused(self):
        with pytest.raises(TaskError, match="must have a classifier"):
            self.check(model="test_convnext", kwargs={"features_only": True})

    def test_scores_for_other_classes_are_refused(self):
        with pytest.raises(TaskError, match="one score for each of 4 classes"):
            self.check(classes=4)
