"""Domain generalisation: trained on one domain, tested on all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from glora_automl._declarations import suggest
from glora_automl.errors import TaskError
from glora_automl.progress import Progress
from glora_automl.tasks._finding import PassedOver
from glora_automl.tasks._folder import existing_folder, folder_examples
from glora_automl.tasks._layout import class_folders, find_layout, find_splits
from glora_automl.tasks._reading import Reader
from glora_automl.tasks._settings import DomainsSettings
from glora_automl.tasks._splits import Examples, encoded_sets, encoded_task
from glora_automl.tasks._task import Domain, Task

__all__ = ["load_domains"]


def load_domains(settings: DomainsSettings, seed: int, progress: Progress | None = None) -> Task:
    """Load a task of several domains.

    Raises:
        TaskError: If a domain is missing or has a class that the training domain has not.
    """
    folder = existing_folder(settings.path)
    known = class_folders(folder)
    for key, name in (("train", settings.train), *(("test", name) for name in settings.test)):
        if name not in known:
            raise TaskError(
                f"task.{key} must name domains in {str(folder)!r}, got {name!r}. "
                f"{suggest(name, known)}"
            )
    tests = settings.test or tuple(name for name in known if name != settings.train)
    if not tests or settings.train in tests or len(set(tests)) < len(tests):
        raise TaskError(
            f"task.test must name other domains than {settings.train!r}, each once, got "
            f"{list(tests)}. Choose from {', '.join(known)}."
        )
    layout = find_layout(folder / settings.train)
    classes = class_folders(layout.splits["train"])
    reader = Reader(settings, progress)
    for remark in layout.remarks:
        reader.progress.log(remark)
    passed_over = PassedOver()
    domains = {name: _domain(folder / name, classes, reader, passed_over) for name in tests}
    examples: dict[str, Examples] = {
        split: folder_examples(path, classes, passed_over=passed_over)
        for split, path in layout.splits.items()
    }
    passed_over.log(reader.progress)
    return encoded_task(folder.name, classes, examples, settings, seed, reader, domains)


def _domain(folder: Path, classes: list[str], reader: Reader, passed_over: PassedOver) -> Domain:
    """Return the test set of a domain's folder."""
    own = {split: path for split, path in find_splits(folder).items() if path.name not in classes}
    folder = own.get("test") or own.get("val") or folder
    found = class_folders(folder)
    numbers = [str(i) for i in range(len(classes))]
    is_numbered = set(found) <= set(numbers) and not set(found) & set(classes)
    names = numbers if is_numbered else classes
    examples = folder_examples(folder, classes, names, passed_over)
    present = np.array(sorted(names.index(name) for name in found))
    among = None if len(present) == len(classes) else torch.from_numpy(present)
    return Domain(encoded_sets({folder.name: examples}, reader)[folder.name], among)
