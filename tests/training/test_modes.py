import copy

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from glora_automl.adapters import linear_shapes
from glora_automl.errors import TrainingError
from glora_automl.supernet import Supernet
from glora_automl.training import TrainingSettings, train
from tests import models
from tests.training.runs import Conv, Run, data, seeded


def test_train_leaves_the_model_in_evaluation_mode():
    run = Run("conv")
    run.model.train()
    run.fit(epochs=1)
    assert not any(module.training for module in run.model.modules())


def test_train_with_frozen_batch_norms_keeps_their_statistics():
    model = seeded(Conv)
    before = copy.deepcopy(model.norm.state_dict())
    train(model, dict(model.head.named_parameters()), *data(), TrainingSettings(epochs=2, lr=0.1),
          seed=0, stage="probe")  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.norm.state_dict().items())
    assert not torch.equal(model.head.bias, seeded(Conv).head.bias)


def test_train_with_trained_batch_norms_moves_their_statistics():
    run = Run("conv")
    run.fit(epochs=2)
    assert run.model.norm.num_batches_tracked == 2 * 3
    assert not torch.equal(run.model.norm.running_mean, torch.zeros(4))


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_train_with_grad_checkpointing_gives_the_same_weights(name):
    results = []
    for grad_checkpointing in (False, True):
        model = models.backbone(name)
        for module in model.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.3
        shapes = linear_shapes(model)
        supernet = Supernet(model, models.choices_of(shapes))
        paths = []

        def draw(rng, supernet=supernet, shapes=shapes, paths=paths):
            paths.append(int(rng.integers(100)))
            supernet.activate(models.random_architecture(shapes, paths[-1]))

        settings = TrainingSettings(
            epochs=2, batch_size=4, lr=0.01, grad_checkpointing=grad_checkpointing
        )
        images, labels = models.images(count=10), torch.arange(10) % 3
        trainable = supernet.trainable()
        train(model, trainable, images, labels, settings, seed=0, stage="s", before_step=draw)
        results.append((supernet.state_dict(), paths))
    (state, paths), (recomputed, recomputed_paths) = results
    assert paths == recomputed_paths
    assert all(torch.equal(state[key], recomputed[key]) for key in state)
    assert not getattr(model, "grad_checkpointing", False)


def test_train_with_grad_checkpointing_of_an_unsupported_backbone_raises():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    settings = TrainingSettings(epochs=1, grad_checkpointing=True)
    images, labels = torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(TrainingError, match=r"grad_checkpointing` must be false .* Sequential"):
        train(model, dict(model.named_parameters()), images, labels, settings, seed=0, stage="s")
