"""Supernets of small models with images, which several test modules share."""

import torch

from glora_automl.adapters import linear_shapes
from glora_automl.supernet import Supernet
from tests import models

COUNT = 22
"""Number of images."""


def create_case(name):
    """Create a supernet with non-zero parameters, the shapes of its layers, images and labels."""
    model = models.backbone(name)
    shapes = linear_shapes(model, example=models.images())
    supernet = Supernet(model, models.choices_of(shapes))
    models.randomise(model)
    labels = torch.arange(COUNT) % 3
    return supernet, shapes, models.images(count=COUNT), labels
