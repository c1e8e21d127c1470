"""Image files that the tests write: scikit-learn's digits as PNG and JPEG."""

import functools

import numpy as np
from PIL import Image
from sklearn import datasets


@functools.cache
def _digits():
    bunch = datasets.load_digits()
    return np.rint(bunch.images * 255 / 16).astype(np.uint8), bunch.target


def picture(digit, index, size=(24, 20)):
    """The index-th picture of a digit, in colours, width and height ``size``."""
    images, targets = _digits()
    grey = images[np.flatnonzero(targets == digit)[index]]
    colours = np.stack([grey, 255 - grey, grey // 2], -1)
    return Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)


def write_classes(folder, counts, first=0, suffixes=(".png", ".jpg")):
    """Write pictures of digits into class folders: ``counts`` are classes and their images."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        digit = sum(map(ord, name)) % 10
        for i in range(first, first + count):
            picture(digit, i).save(folder / name / f"{i:03}{suffixes[i % len(suffixes)]}")
    return folder
