import dataclasses

import pytest
import torch

from glora_automl._files import file_lock
from glora_automl.backbones import (
    _create,
    _pretraining,
    create_backbone,
    create_model,
)
from glora_automl.errors import CheckpointError, Stopped, TaskError
from glora_automl.progress import Progress
from glora_automl.tasks import DigitsSettings, ImageSet, load_digits
from glora_automl.training import TrainingSettings, load_checkpoint, tensor_digest
from tests.backbones.models import SMALL, backbone_settings, digest

CPU = torch.device("cpu")
PRETRAINING = TrainingSettings(epochs=1, lr=1e-3)


def body(state):
    """Return the digest of all weights but the classifier's."""
    return tensor_digest({n: t for n, t in state.items() if not n.startswith("head.")})


@pytest.fixture(scope="module")
def task():
    settings = DigitsSettings(
        source="digits",
        classes=(1, 2, 3),
        pretraining_classes=(5, 6, 7, 8),
        train_per_class=2,
        validation_per_class=2,
    )
    whole = load_digits(settings, seed=0)
    few = ImageSet(whole.pretraining.images[:64], whole.pretraining.labels[:64])
    return dataclasses.replace(whole, pretraining=few)


def create(settings, task, cache, seed=0, **options):
    return create_backbone(settings, task, seed=seed, device=CPU, cache=cache, **options)


@pytest.fixture
def forbid_training(monkeypatch):
    """Return a function after whose call training fails."""

    def forbid():
        def train(*args, **kwargs):
            raise AssertionError("this must not train")

        monkeypatch.setattr(_pretraining, "train", train)

    return forbid


def test_create_backbone_without_pretraining_equals_create_model(task, tmp_path):
    model = create(backbone_settings(), task, tmp_path)
    assert digest(model) == digest(create_model(backbone_settings(), 3, seed=0))
    assert list(tmp_path.iterdir()) == []
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_create_backbone_pretraining_changes_the_weights_and_resets_the_head(task, tmp_path):
    settings = backbone_settings(pretraining=PRETRAINING)
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        model = create(settings, task, tmp_path)
        assert torch.equal(torch.get_rng_state(), state)
    (path,) = tmp_path.glob("*.json")
    pretrained, _ = load_checkpoint(path)
    assert pretrained["head.weight"].shape == (4, 16)
    assert model.head.weight.shape == (3, 16)
    assert body(model.state_dict()) == body(pretrained)
    assert body(pretrained) != body(create_model(settings, 4, seed=0).state_dict())


def test_create_backbone_equal_number_of_classes_resets_the_head(task, tmp_path):
    twin = dataclasses.replace(task, classes=("1", "2", "3", "4"))
    model = create(backbone_settings(pretraining=PRETRAINING), twin, tmp_path)
    (path,) = tmp_path.glob("*.json")
    head = load_checkpoint(path)[0]["head.weight"]
    assert model.head.weight.shape == head.shape
    assert not torch.equal(model.head.weight, head)


def test_create_backbone_second_call_uses_the_cache(task, tmp_path, forbid_training):
    settings = backbone_settings(pretraining=PRETRAINING)
    first = create(settings, task, tmp_path / "cache")
    forbid_training()
    with torch.random.fork_rng():
        torch.manual_seed(99)
        second = create(settings, task, tmp_path / "cache")
    assert digest(second) == digest(first)


def test_create_backbone_without_cache_gives_the_same_weights(task, tmp_path):
    settings = backbone_settings(pretraining=PRETRAINING)
    first, second = (create(settings, task, tmp_path / name) for name in "ab")
    assert digest(first) == digest(second)
    other = create(settings, task, tmp_path / "a", seed=1)
    assert digest(other) != digest(first)


def test_create_backbone_other_settings_seed_or_images_miss_the_cache(
    task, tmp_path, forbid_training
):
    create(backbone_settings(pretraining=PRETRAINING), task, tmp_path)
    forbid_training()
    longer = PRETRAINING.model_copy(update={"epochs": 2})
    deeper = backbone_settings(pretraining=PRETRAINING, kwargs={**SMALL, "drop_path_rate": 0.1})
    images = ImageSet(task.pretraining.images.flip(0), task.pretraining.labels)
    for settings, seed, pretraining in (
        (backbone_settings(pretraining=longer), 0, task.pretraining),
        (deeper, 0, task.pretraining),
        (backbone_settings(pretraining=PRETRAINING), 1, task.pretraining),
        (backbone_settings(pretraining=PRETRAINING), 0, images),
    ):
        with pytest.raises(AssertionError, match="must not train"):
            create(
                settings, dataclasses.replace(task, pretraining=pretraining), tmp_path, seed=seed
            )


def test_create_backbone_other_task_with_same_pretraining_uses_the_cache(
    task, tmp_path, forbid_training
):
    first = create(backbone_settings(pretraining=PRETRAINING), task, tmp_path)
    forbid_training()
    smaller = dataclasses.replace(task, classes=("1", "2"), train=task.test)
    second = create(backbone_settings(pretraining=PRETRAINING), smaller, tmp_path)
    assert body(second.state_dict()) == body(first.state_dict())
    assert second(torch.zeros(1, 1, 8, 8)).shape == (1, 2)


def test_create_backbone_altered_cache_raises(task, tmp_path):
    settings = backbone_settings(pretraining=PRETRAINING)
    create(settings, task, tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"altered or cut short.*Delete"):
        create(settings, task, tmp_path)


def test_create_backbone_task_without_pretraining_images_raises(task, tmp_path):
    bare = dataclasses.replace(task, pretraining=None)
    with pytest.raises(TaskError, match=r"task\.pretraining_classes"):
        create(backbone_settings(pretraining=PRETRAINING), bare, tmp_path)


def test_create_backbone_pretraining_shows_progress(task, tmp_path):
    class Listener(Progress):
        stages = ()

        def stage(self, title, total, unit):
            self.stages += ((title, total, unit),)
            return super().stage(title, total, unit)

    progress = Listener()
    create(backbone_settings(pretraining=PRETRAINING), task, tmp_path, progress=progress)
    assert progress.stages == (("Pretrain backbone", 1, "epochs"),)


@pytest.mark.parametrize("what", ["pretrains", "downloads"])
def test_create_backbone_of_another_process_is_waited_for_until_a_stop(
    task, tmp_path, monkeypatch, what
):
    settings = backbone_settings(pretraining=PRETRAINING)
    if what == "downloads":
        settings = backbone_settings(pretrained=True)
        bare = backbone_settings()
        monkeypatch.setattr(_create, "check_hub", lambda settings: None)
        monkeypatch.setattr(
            _create, "create_model", lambda settings, *args: create_model(bare, *args)
        )
    create(settings, task, tmp_path)
    (path,) = tmp_path.glob("*.lock")
    lines, asked = [], []

    class Lines(Progress):
        def log(self, text):
            lines.append(text)

    def stop():
        asked.append(1)
        return len(asked) > 1

    with file_lock(path), pytest.raises(Stopped):
        create(settings, task, tmp_path, progress=Lines(), stop=stop)
    assert lines == [f"Waiting for another process, which {what} the backbone ({str(path)!r})."]
