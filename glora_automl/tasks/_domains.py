"""Domain generalisation: learnt on one domain, tested on others too."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from glora_automl._declarations import suggest
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._folder import (
    class_folders,
    existing_folder,
    folder_examples,
    split_folders,
)
from glora_automl.tasks._images import Domain, Task
from glora_automl.tasks._labelled import LabelledSettings
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._splits import encoded_sets, encoded_task

__all__ = ["DomainsSettings", "load_domains"]


class DomainsSettings(LabelledSettings, ReadingSettings):
    """A folder of domains, each with a folder of images for each class.

    The domain that is learnt may have ``train``, ``val`` and ``test`` below it like any folder of
    images. Of the others all images are tested on, or those below ``test`` or ``val`` if there
    are such folders. They may have fewer classes (ImageNet-A, ImageNet-R): the decision is then
    among these. Folders named 0, 1, ... (ImageNet V2) are the classes in their order.

    Attributes:
        source: Names this kind of task.
        path: The folder; in a recipe file a path from its folder.
        train: The domain that is learnt.
        test: The others that are tested on; none means all.
    """

    source: Literal["domains"]
    path: str
    train: str
    test: tuple[str, ...] = ()


def load_domains(settings: DomainsSettings, seed: int, progress: Progress | None = None) -> Task:
    """Load a task of several domains.

    Raises:
        TaskError: If a domain is not there, or has classes that are not learnt.
    """
    folder = existing_folder(settings.path)
    known = class_folders(folder)
    for name in (settings.train, *settings.test):
        if name not in known:
            raise TaskError(f"task: {str(folder)!r} has no domain {name!r}; {suggest(name, known)}")
    tests = settings.test or tuple(name for name in known if name != settings.train)
    if not tests or settings.train in tests or len(set(tests)) < len(tests):
        raise TaskError(
            f"task.tests must name other domains than {settings.train!r}, each once, got "
            f"{list(tests)}; {str(folder)!r} holds {', '.join(known)}."
        )
    splits = split_folders(folder / settings.train)
    classes = class_folders(splits["train"])
    reader = Reader(settings, progress)
    domains = {name: _domain(folder / name, classes, reader) for name in tests}
    examples = {split: folder_examples(path, classes) for split, path in splits.items()}
    return encoded_task(folder.name, classes, examples, settings, seed, reader, domains)


def _domain(folder: Path, classes: list[str], reader: Reader) -> Domain:
    """A test set of class folders."""
    below = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    folder = below[0] if below and below[0].name not in classes else folder
    found = class_folders(folder)
    numbered = set(found) <= {str(i) for i in range(len(classes))} and not set(found) & set(classes)
    names = [str(i) for i in range(len(classes))] if numbered else classes
    examples = folder_examples(folder, classes, names)
    present = np.array(sorted(names.index(name) for name in found))
    among = None if len(present) == len(classes) else torch.from_numpy(present)
    return Domain(encoded_sets({folder.name: examples}, reader)[folder.name], among)
