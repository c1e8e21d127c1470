"""Adapters on small timm models that the tests of exports share."""

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
    """Shapes of the layers that the model uses."""
    return linear_shapes(backbone(name), example=images())


def subnet(name: str, architecture: Architecture, seed: int = 3) -> Supernet:
    """A model with the parameters of one architecture, none of which is zero, and another head."""
    model = backbone(name)
    only = {
        layer: {t: (choice,) for t, choice in zip(TENSORS, choices, strict=True)}
        for layer, choices in architecture.items()
    }
    supernet = Supernet(model, only, seed=seed)
    supernet.activate(architecture)
    randomise(model, seed, scale=0.05)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in supernet._head.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.eval()
    return supernet


def seen(name: str) -> InputFormat:
    return input_format(backbone(name), settings(name))


def adapter(name: str, architecture: Architecture, seed: int = 3) -> tuple[Adapter, Supernet]:
    """An adapter, and the subnet that it was taken from."""
    supernet = subnet(name, architecture, seed)
    source = Backbone.of(settings(name), supernet.model)
    taken = Adapter.of(supernet, source, CLASSES, Preprocessing.of(seen(name)))
    return taken, supernet
