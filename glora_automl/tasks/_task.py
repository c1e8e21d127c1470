"""Classification tasks: train, validation and test images with their classes."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from glora_automl.tasks._images import Images, InputFormat, Normalization

__all__ = ["Domain", "Task"]

DARK = 32
"""Images without a brighter pixel, of 255, are almost black; 12 of 16 bits are at most 16."""


class Domain(NamedTuple):
    """Test set of another domain than the training domain.

    Attributes:
        images: Test images of the domain.
        among: Classes ``(m,)`` that a prediction may take; None allows all classes.
    """

    images: Images
    among: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """Classification task with disjoint train, validation and test images.

    Attributes:
        name: Name of the task.
        classes: Class names; labels index them.
        train: Train images.
        validation: Validation images. They score trials and train nothing.
        test: Test images, used once at the end of a study; may be empty.
        pretraining: Images of other classes, with their own labels, for pretraining the backbone.
        domains: Test sets of other domains by name, used together with ``test``.
        normalization: Replaces the backbone's normalisation; None keeps it.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    pretraining: Images | None = None
    domains: Mapping[str, Domain] = field(default_factory=dict)
    normalization: Normalization | None = None

    def format(self, target: InputFormat) -> InputFormat:
        """Return the backbone's input format with the task's normalisation."""
        if self.normalization is None:
            return target
        mean, std = self.normalization
        if target.size[0] != len(mean):  # a model of grey images
            mean, std = ((sum(v) / len(v),) * target.size[0] for v in (mean, std))
        return target._replace(mean=mean, std=std)

    def digest(self) -> str:
        """Return the sha256 of all images, labels and class names."""
        parts = [self.train, self.validation, self.test]
        parts += [self.pretraining] if self.pretraining is not None else []
        texts = [*self.classes, *(part.digest() for part in parts)]
        for name, domain in self.domains.items():
            among = "" if domain.among is None else str(domain.among.tolist())
            texts += [name, domain.images.digest(), among]
        return hashlib.sha256("\n".join(texts).encode()).hexdigest()

    def splits(self) -> dict[str, Images]:
        """Return the image set of each split and of each further domain, by name."""
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        return sets | {
            f"domain {name}" if name in sets else name: domain.images
            for name, domain in self.domains.items()
        }

    @functools.cached_property
    def _digests(self) -> dict[str, list[bytes]]:
        """Digests of the images' pixels, per split."""
        return {name: images.image_digests() for name, images in self.splits().items()}

    def labelled_digests(self) -> list[bytes]:
        """Return the digest of each training image, then of each validation image."""
        return [*self._digests["train"], *self._digests["validation"]]

    def overlaps(self) -> dict[tuple[str, str], int]:
        """Return how many images of a split are copies of images in an earlier split.

        Pairs of splits without copies are left out.
        """
        known = {name: set(digests) for name, digests in self._digests.items()}
        counts = {
            (first, second): sum(digest in known[first] for digest in self._digests[second])
            for first, second in itertools.combinations(known, 2)
        }
        return {pair: count for pair, count in counts.items() if count}

    def absent(self) -> dict[str, tuple[str, ...]]:
        """Return the classes without an image in train, validation and test images.

        Splits with images of every class, and an empty test set, are left out.
        """
        sets = {"train": self.train, "validation": self.validation, "test": self.test}
        found = {
            split: tuple(
                name
                for name, count in zip(
                    self.classes, images.labels.bincount(minlength=len(self.classes)), strict=False
                )
                if not count
            )
            for split, images in sets.items()
            if len(images)
        }
        return {split: names for split, names in found.items() if names}

    def n_contradictions(self) -> int:
        """Return how many images have a copy of another class, in train, validation and test."""
        labels: dict[bytes, set[int]] = {}
        digests = [d for name in ("train", "validation", "test") for d in self._digests[name]]
        sets = (self.train, self.validation, self.test)
        for digest, label in zip(
            digests, (y for s in sets for y in s.labels.tolist()), strict=True
        ):
            labels.setdefault(digest, set()).add(label)
        return sum(len(labels[digest]) > 1 for digest in digests)

    def n_dark(self) -> int:
        """Return the number of train images that are almost black."""
        return int((self.train.peaks() < DARK).sum())
