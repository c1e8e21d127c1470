"""Classification tasks: train, validation and test images with their classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from glora_automl.tasks._images import Images, InputFormat, Normalization

__all__ = ["Domain", "Task"]


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

    def repeated(self) -> dict[str, int]:
        """Return the number of test images per test set that are also train or validation images.

        Test sets without such duplicates are left out.
        """
        known = {*self.train.image_digests(), *self.validation.image_digests()}
        sets = {"test": self.test} | {name: d.images for name, d in self.domains.items()}
        counts = {
            name: sum(digest in known for digest in images.image_digests())
            for name, images in sets.items()
        }
        return {name: count for name, count in counts.items() if count}
