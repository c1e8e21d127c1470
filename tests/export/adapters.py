"""Adapters on small timm models, for the tests of exports."""

import functools

import torch

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import TENSORS, Architecture, LayerShape
from glora_automl.backbones import BackboneSettings, input_format
from glora_automl.export import Adapter, Backbone, Preprocessing
from glora_automl.supernet import Supernet
from glora_automl.tasks import InputFormat
from tests.models import MODELS, backbone, images, randomise

CLASSES = ("ant", "bee", "cicada")


def settings(name: str) -> BackboneSettings:
    model, kwargs = MODELS[name]
    return BackboneSettings(model=model, kwargs=dict(kwargs))


@functools.cache
def shapes_of(name: str) -> dict[str, LayerShape]:
    """Return the shapes of the layers that the model calls."""
    return linear_shapes(backbone(name), example=images())


def subnet(name: str, architecture: Architecture, seed: int = 3) -> Supernet:
    """Return a subnet with random nonzero parameters and a random head."""
    model = backbone(name)
    choices = {
        layer: {t: (choice,) for t, choice in zip(TENSORS, of_layer, strict=True)}
        for layer, of_layer in architecture.items()
    }
    supernet = Supernet(model, choices, seed=seed)
    supernet.activate(architecture)
    randomise(model, seed, scale=0.05)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in supernet._head.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.eval()
    return supernet


def format_of(name: str) -> InputFormat:
    return input_format(backbone(name), settings(name))


def adapter(name: str, architecture: Architecture, seed: int = 3) -> tuple[Adapter, Supernet]:
    """Return an adapter and its subnet."""
    supernet = subnet(name, architecture, seed)
    record = Backbone.of(settings(name), supernet.model)
    preprocessing = Preprocessing.of(format_of(name))
    return Adapter.of(supernet, record, CLASSES, preprocessing), supernet
