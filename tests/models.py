"""Small timm models and random architectures for the tests."""

import copy
import functools
import random

import timm
import torch
from torch import nn

from glora_automl.adapters import adapted_layers, attach, linear_shapes
from glora_automl.architecture import TENSORS, Architecture, Choice, LayerChoices, LayerShape

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}

MODELS = {
    "vit": ("vit_tiny_patch16_224", VIT),
    "vit-no-qkv-bias": ("vit_tiny_patch16_224", {**VIT, "qkv_bias": False}),
    "distilled": ("deit_tiny_distilled_patch16_224", VIT),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {
            "img_size": 32,
            "window_size": 4,
            "embed_dim": 16,
            "depths": (1, 1, 2, 1),
            "num_heads": (1, 2, 2, 2),
        },
    ),
    "convnext": ("test_convnext", {"conv_mlp": False}),
    "convnext-conv-mlp": ("test_convnext", {"conv_mlp": True}),
    # It reads the weight of qkv and adds its own bias.
    "beit": ("beit_base_patch16_224", VIT),
}

RANKS = (1, 2, 4)
CHOICES = {
    "A": ("none", "scalar", "vector", "lora-1", "lora-2", "lora-4"),
    "B": ("none", "scalar", "vector", "lora-1", "lora-2", "lora-4"),
    "C": ("none", "vector", "lora-1", "lora-2", "lora-4"),
    "D": ("none", "scalar", "vector"),
    "E": ("none", "scalar", "vector"),
}
ONE_TENSOR = [
    (tensor, choice) for tensor in TENSORS for choice in CHOICES[tensor] if choice != "none"
]
"""Every choice of every support tensor."""


@functools.cache
def _template(name: str) -> nn.Module:
    model_name, kwargs = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(model_name, pretrained=False, num_classes=3, **kwargs)
        # timm's biases start at 0 and ConvNeXt's layer scales at 1e-6; D and blocks would have no
        # effect in the tests.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim < 2 else 0.05))
    return model.eval()


def backbone(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a fresh copy of one of the models, in evaluation mode."""
    return copy.deepcopy(_template(name)).to(dtype)


@functools.cache
def images(dtype: torch.dtype = torch.float32, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)


def choices_of(shapes: dict[str, LayerShape]) -> dict[str, dict[str, list[Choice]]]:
    """Return every choice that each layer can have."""
    found: dict[str, dict[str, list[Choice]]] = {}
    for name, shape in shapes.items():
        found[name] = {t: [Choice.parse(text) for text in texts] for t, texts in CHOICES.items()}
        found[name] |= {tensor: [Choice("none")] for tensor in TENSORS if not shape.has(tensor)}
    return found


def adapted(
    name: str, dtype: torch.dtype = torch.float32, *, trained: bool = True
) -> tuple[nn.Module, dict[str, LayerShape]]:
    """Return an adapted model and its shapes; ``trained`` makes every parameter non-zero."""
    model = backbone(name, dtype)
    shapes = linear_shapes(model, example=images(dtype))
    attach(model, choices_of(shapes), torch.Generator().manual_seed(2))
    if trained:
        randomise(model)
    return model, shapes


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 3, scale: float = 0.2) -> None:
    """Make every adapter parameter non-zero, as after training."""
    generator = torch.Generator().manual_seed(seed)
    layers = [model] if not adapted_layers(model) else adapted_layers(model).values()
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise.sign() * (noise.abs() + 0.5) * scale)


def random_architecture(shapes: dict[str, LayerShape], seed: int) -> Architecture:
    """Return a uniformly drawn choice for each support tensor of each layer."""
    rng = random.Random(seed)
    return Architecture(
        {
            name: LayerChoices(
                **{tensor: rng.choice(options) for tensor, options in choices.items()}
            )
            for name, choices in choices_of(shapes).items()
        }
    )
