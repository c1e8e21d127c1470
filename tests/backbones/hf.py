"""Tiny image models of transformers with random weights, as folders."""

import torch
import transformers as hf

_VIT = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}

TINY = {
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**_VIT)),
    "dinov2": lambda: hf.Dinov2ForImageClassification(
        hf.Dinov2Config(**{k: v for k, v in _VIT.items() if k != "intermediate_size"}, mlp_ratio=2)
    ),
    "clip": lambda: hf.CLIPForImageClassification(hf.CLIPConfig(vision_config=_VIT)),
    "swin": lambda: hf.SwinForImageClassification(
        hf.SwinConfig(
            image_size=16,
            patch_size=4,
            embed_dim=16,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=2,
        )
    ),
}

PROCESSOR = {
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "resample": 3,
    "size": {"height": 16, "width": 16},
}


def save(name, folder):
    """Save a model with two classes, and return its name for ``backbone.model``."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        TINY[name]().save_pretrained(folder)
    return f"transformers:{folder}"
