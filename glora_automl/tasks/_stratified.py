"""Stratified random draws of image indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glora_automl.errors import TaskError

__all__ = ["drawable", "stratified_draw", "stratified_split"]


def stratified_draw(
    labels: np.ndarray, count: int, rng: np.random.Generator, *, reserve: int = 0
) -> np.ndarray:
    """Draw images in proportion to the class sizes.

    Each class gets one image first if ``count`` allows it. The remaining images follow the largest
    remainders; ties are broken at random.

    Args:
        labels: Class indices ``(n,)``.
        count: Number of images to draw, at most :func:`drawable`.
        rng: Random generator of the draw.
        reserve: Images of each class that are not drawn.

    Returns:
        Indices in ascending order.

    Example:
        >>> labels = np.repeat([0, 1, 2], [1, 30, 60])
        >>> for reserve in (0, 1):
        ...     drawn = stratified_draw(labels, 10, np.random.default_rng(0), reserve=reserve)
        ...     print(np.bincount(labels[drawn]).tolist())
        [1, 3, 6]
        [0, 4, 6]
    """
    classes, sizes = np.unique(labels, return_counts=True)
    room = np.maximum(sizes - reserve, 0)
    seats = ((room > 0) & (count >= (room > 0).sum())).astype(int)
    free, left = count - seats.sum(), room - seats
    if free:
        quota = free * left / left.sum()
        seats += np.floor(quota).astype(int)
        remainders = quota - np.floor(quota)
        order = np.lexsort((rng.permutation(len(classes)), -remainders.round(9)))
        seats[order[: count - seats.sum()]] += 1
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:number]
        for label, number in zip(classes, seats, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def drawable(labels: np.ndarray, reserve: int) -> int:
    """Return the number of images beyond ``reserve`` images of each class.

    Example:
        >>> drawable(np.array([0, 1, 1, 1]), 2)
        1
    """
    sizes = np.unique(labels, return_counts=True)[1]
    return int(np.maximum(sizes - reserve, 0).sum())


def stratified_split(
    labels: Sequence[int] | np.ndarray, per_class: Sequence[int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Split images into disjoint sets of fixed size per class, and a set of the rest.

    Args:
        labels: Class indices ``(n,)``.
        per_class: Images per class in the first set, the second set, and so on.
        rng: Random generator of the split.

    Returns:
        Index arrays in ascending order, one more than ``per_class`` has entries.

    Raises:
        TaskError: If a class has no image left for the rest.

    Example:
        >>> parts = stratified_split([0, 1] * 5, [1, 2], np.random.default_rng(0))
        >>> [len(part) for part in parts]
        [2, 4, 4]
    """
    labels = np.asarray(labels)
    parts: list[list[np.ndarray]] = [[] for _ in range(len(per_class) + 1)]
    for label in np.unique(labels):
        indices = rng.permutation(np.flatnonzero(labels == label))
        if sum(per_class) >= len(indices):
            raise TaskError(
                f"Each class must have more than {' + '.join(map(str, per_class))} images, got "
                f"{len(indices)} of class {label}. Lower `task.train_per_class` or "
                "`task.validation_per_class`."
            )
        for part, chunk in zip(
            parts, np.split(indices, np.cumsum(np.asarray(per_class, dtype=int))), strict=True
        ):
            part.append(chunk)
    return [np.sort(np.concatenate(part)) for part in parts]
