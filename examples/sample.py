"""Images that stand in for yours, so that each example runs at once, and small settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SMALL: dict[str, Any] = {
    "budget": "20%",
    "backbone": {
        "model": "vit_tiny_patch16_224",
        "pretrained": False,
        "head_init": "random",
        "kwargs": {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2},
    },
    "training": {"epochs": 4, "batch_size": 16, "warmup_epochs": 0},
    "tune": {"n_trials": 0},
    "search": {"n_trials": 4, "population_size": 4, "n_parents": 2},
    "selection": {"n_candidates": 1, "epochs_ratio": 0.5, "baselines": False},
}
"""Changes to a recipe: a model of 13,000 random weights that trains in a second."""


def arguments(description: str | None, **options: Any) -> argparse.Namespace:
    """Return the arguments of an example: ``--small``, ``--runs`` and its own with defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--small", action="store_true", help="seconds on a CPU, no download")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    for name, default in options.items():
        parser.add_argument(f"--{name}", default=default)
    return parser.parse_args()


def photos(folder: Path, *, classes: int = 3, per_class: int = 24, invert: bool = False) -> Path:
    """Write scikit-learn's digits as photos, one folder per class; returns the folder."""
    bunch = load_digits()
    for label in range(classes):
        place = folder / f"digit-{label}"
        place.mkdir(parents=True, exist_ok=True)
        chosen = bunch.images[bunch.target == label][:per_class]
        for number, pixels in enumerate(chosen):
            grey = (pixels * 15).astype(np.uint8)
            Image.fromarray(255 - grey if invert else grey).save(place / f"{number}.png")
    return folder
