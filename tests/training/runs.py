"""Trainings of small models that several test modules share."""

import timm
import torch
from torch import nn

from glora_automl.adapters import linear_shapes
from glora_automl.budget import FeasibleRegion
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.supernet import Supernet
from glora_automl.training import TrainingSettings, tensor_digest, train


def data(count=20):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 3, (count,), generator=generator)


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def vit(drop_path_rate=0.0, proj_drop_rate=0.0):
    # Two blocks, as timm gives the first one no drop path.
    return seeded(
        lambda: timm.create_model(
            "vit_tiny_patch16_224",
            num_classes=3,
            img_size=8,
            patch_size=4,
            embed_dim=16,
            depth=2,
            num_heads=2,
            in_chans=1,
            drop_path_rate=drop_path_rate,
            proj_drop_rate=proj_drop_rate,
        )
    )


class Conv(nn.Module):
    """A small network with batch norms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(4, 3)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


class Run:
    """A training of one kind with a new model, as in a restarted process."""

    def __init__(self, kind):
        self.before_step = None
        self.settings = {"shift": 0.2, "hflip": 0.5} if kind == "drop-path" else {}
        if kind == "conv":
            self.model = seeded(Conv)
            self.parameters = dict(self.model.named_parameters())
            return
        self.model = vit(drop_path_rate=0.4 if kind == "drop-path" else 0.0)
        space = SearchSpace(load_search_space("default"), linear_shapes(self.model))
        supernet = Supernet(self.model, space.layer_choices())
        self.parameters = supernet.trainable()
        if kind == "paths":
            self.settings["scaling_lr_ratio"] = 3.0
        region = FeasibleRegion(space, space.maximum // 3)
        self.before_step = lambda rng: supernet.activate(space.architecture(region.draw(rng)))

    def fit(
        self, checkpoint=None, *, epochs=5, every=2, seed=0, stage="supernet", count=20, **options
    ):
        options.setdefault("before_step", self.before_step)
        settings = TrainingSettings(
            epochs=epochs,
            **{"batch_size": 8, "lr": 1e-2, "warmup_epochs": 1, **self.settings},
            checkpoint_every=every,
        )
        return train(
            self.model,
            self.parameters,
            *data(count),
            settings,
            seed=seed,
            stage=stage,
            checkpoint=checkpoint,
            **options,
        )

    def digest(self):
        """Return the digest of all tensors, with frozen weights and statistics."""
        return tensor_digest(self.model.state_dict())


class Interrupted(Exception):
    """An interrupt, as by a kill."""


def interrupt_after(epochs):
    def on_epoch(n_epochs, loss):
        if n_epochs == epochs:
            raise Interrupted

    return on_epoch


KINDS = ("paths", "drop-path", "conv")


class StopAfter:
    """A stop condition that holds after some steps; it is called once before the first."""

    def __init__(self, steps):
        self.steps = steps
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.calls > self.steps
