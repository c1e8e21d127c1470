from itertools import pairwise

import pytest
import torch
from torch import nn

from glora_automl.training import TrainingSettings, evaluate, train
from glora_automl.training._layout import image_layout
from tests import models
from tests.training.runs import data, seeded


class Convolutions(nn.Module):
    """A network that notes the layout of its images."""

    def __init__(self, n_layers):
        super().__init__()
        sizes = [2] + [6] * n_layers
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))
        self.head = nn.Linear(6, 3)
        self.layouts = set()

    def forward(self, x):
        self.layouts.add(x.is_contiguous(memory_format=torch.channels_last))
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("vit", torch.contiguous_format), ("convnext", torch.channels_last)],
)
def test_image_layout_of_convolutional_networks_is_channels_last(name, expected):
    assert image_layout(models.backbone(name)) is expected


def test_train_and_evaluate_in_channels_last_equal_those_in_the_usual_layout(monkeypatch):
    images, labels = data(20)
    images = torch.cat([images, images.flip(3)], 1)  # of one channel, both layouts are the same
    found = {}
    for layout in (torch.channels_last, torch.contiguous_format):
        for module in ("_train", "_evaluation"):
            name = f"glora_automl.training.{module}.image_layout"
            monkeypatch.setattr(name, lambda model, layout=layout: layout)
        model = seeded(lambda: Convolutions(2))
        how = TrainingSettings(epochs=2, batch_size=8, lr=0.01)
        losses = train(
            model, dict(model.named_parameters()), images, labels, how, seed=0, stage="s"
        ).losses
        found[layout] = [*losses, evaluate(model, images, labels).loss]
        # A single image, which is passed to choose the batch size, stays as it is.
        assert (True in model.layouts) == (layout is torch.channels_last)
    assert found[torch.channels_last] == pytest.approx(found[torch.contiguous_format], rel=1e-4)
