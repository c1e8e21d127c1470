"""Images for tests: scikit-learn's digits as PNG and JPEG, and random images."""

import functools

import numpy as np
import torch
from PIL import Image
from sklearn import datasets

from glora_automl.tasks import ImageSet


@functools.cache
def _digits():
    bunch = datasets.load_digits()
    return np.rint(bunch.images * 255 / 16).astype(np.uint8), bunch.target


def picture(digit, index, size=(24, 20)):
    """Return the index-th picture of a digit in colour, of width and height ``size``."""
    images, targets = _digits()
    grey = images[np.flatnonzero(targets == digit)[index]]
    colours = np.stack([grey, 255 - grey, grey // 2], -1)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def write_classes(folder, counts, first=0, suffixes=(".png", ".jpg")):
    """Write pictures of digits into class folders; ``counts`` has the images per class."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        digit = sum(map(ord, name)) % 10
        for i in range(first, first + count):
            picture(digit, i).save(folder / name / f"{i:03}{suffixes[i % len(suffixes)]}")
    return folder


def random_images(channels=3, size=(8, 8), count=4, seed=0):
    """Return a set of random images of two classes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, *size), generator=generator)
    return ImageSet(images.to(torch.uint8), torch.arange(count) % 2)
