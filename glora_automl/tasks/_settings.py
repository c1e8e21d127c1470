"""What a recipe declares about its images, without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, field_validator, model_validator

from glora_automl._declarations import Bool, Declaration, Int, suggest
from glora_automl._messages import short
from glora_automl.tasks._vtab_tasks import VTAB

__all__ = [
    "ArraysSettings",
    "CropMode",
    "CsvSettings",
    "DigitsSettings",
    "DomainsSettings",
    "FolderSettings",
    "LabelledSettings",
    "NpzSettings",
    "ReadingSettings",
    "TaskSettings",
    "TimmSettings",
    "TorchvisionSettings",
    "ValueRange",
    "VtabSettings",
    "check_value_range",
]

CropMode = Literal["squash", "center", "border"]
"""Way of resizing an image to the model's size; timm's ``crop_mode``."""

ValueRange = tuple[float, float] | None
"""Values of black and white in images of more than 8 bits; None is 0 and 65,535."""

ALLOWED: dict[str, type] = {"input_key": str, "target_key": str, "class_map": dict}
"""Keyword arguments of timm that only say which data are read, with their types."""


class LabelledSettings(Declaration):
    """Numbers of labelled images; base of the tasks that draw from a training split.

    Attributes:
        n_labelled: Labelled images, validation images included. None uses the whole training
            split.
        shots: Train images per class, instead of ``n_labelled``. Validation images are extra.
        validation_size: Validation images, as a count or as a fraction of the labelled images (with
            ``shots``, of the shots). None uses the source's validation split if all labelled
            images are used, otherwise a fifth. With ``shots``, None takes as many images per class
            as shots, at most 4 (CoOp, arXiv 2109.01134).
        test_size: Test images, as a count or as a fraction, for a source without test split. They
            are drawn before the labelled images. None is a fifth.
    """

    n_labelled: Int | None = Field(default=None, ge=2, le=10**9)
    shots: Int | None = Field(default=None, ge=1, le=10**9)
    validation_size: int | float | None = None
    test_size: int | float | None = None

    @field_validator("validation_size", "test_size", mode="before")
    @classmethod
    def _check_size(cls, value: object) -> object:
        if value is None or (type(value) is int and 1 <= value <= 10**9):
            return value
        if type(value) is float and 0 < value < 1:
            return value
        raise ValueError(
            f"must be a count of at least 1 or a fraction in (0, 1), got {short(value)}."
        )

    @model_validator(mode="after")
    def _check_exclusive(self) -> LabelledSettings:
        if self.n_labelled is not None and self.shots is not None:
            raise ValueError(
                "n_labelled and shots must not be combined, got "
                f"{self.n_labelled} and {self.shots}. Remove `task.n_labelled` or `task.shots`."
            )
        return self

    @property
    def takes_own_validation(self) -> bool:
        """Whether the source's own validation split is used."""
        return self.n_labelled is None and self.shots is None and self.validation_size is None


class ReadingSettings(Declaration):
    """Settings for reading image files; base of all tasks with image files.

    Attributes:
        crop_mode: ``squash`` resizes the whole image to the model's size, as is usual on VTAB.
            ``center`` keeps the aspect ratio and crops as in the backbone's evaluation. ``border``
            keeps the aspect ratio and pads.
        memory: Limit in bytes, such as ``"2GB"``, of decoded images kept on the training device.
            Images beyond it are read again in each epoch. The results do not depend on it.
        num_workers: Reader threads. None is one per available processor, at most 16.
        unreadable: ``refuse`` raises an error for an image that cannot be decoded. ``skip`` removes
            such images before the draw.
        value_range: Values of black and white in images of more than 8 bits, such as
            ``[0, 4095]`` for 12 bits in 16-bit files. None is 0 and 65,535.
    """

    crop_mode: CropMode = "squash"
    memory: ByteSize = Field(default=ByteSize(2_000_000_000), ge=0)
    num_workers: Int | None = Field(default=None, ge=1, le=1024)
    unreadable: Literal["refuse", "skip"] = "refuse"
    value_range: ValueRange = None

    @field_validator("memory", mode="before")
    @classmethod
    def _check_memory(cls, value: object) -> object:
        return [value] if isinstance(value, bool) else value  # pydantic reads true as one byte

    @field_validator("value_range", mode="before")
    @classmethod
    def _check_range(cls, value: object) -> object:
        return check_value_range(value)


def check_value_range(value: object) -> object:
    """Return a value range.

    Raises:
        ValueError: If it is not two finite numbers in ascending order.
    """
    if value is None:
        return None
    pair = list(value) if isinstance(value, list | tuple) else []
    if (
        len(pair) != 2
        or any(type(end) not in (int, float) or not abs(end) <= 1e9 for end in pair)
        or not pair[0] < pair[1]
    ):
        raise ValueError(
            "must be the values of black and white, such as [0, 4095] for 12 bits, got "
            f"{short(value)}."
        )
    return float(pair[0]), float(pair[1])


class ArraysSettings(LabelledSettings):
    """Images and labels from the argument ``arrays`` of :func:`glora_automl.search`.

    The study keeps their digest alone. Functions that read it later, such as ``export_model``, get
    them from ``Workspace(data=(images, labels))``.

    Attributes:
        source: Kind of task.
        test_size: As for other tasks, but None draws no test images.
    """

    source: Literal["arrays"]


class CsvSettings(LabelledSettings, ReadingSettings):
    """Table of image paths and labels, with a header: comma, semicolon or tab separated UTF-8.

    Column names are compared without regard to case. None looks for the usual names.

    Attributes:
        source: Kind of task.
        path: The table; a recipe file gives it relative to its own folder.
        root: Folder that the image paths are relative to, itself relative to the table's folder.
        image: Column of the paths: ``image``, ``path``, ``file``, ``filename``, ...
        label: Column of the classes, texts or integers: ``label``, ``class``, ``target``, ...
        split: Column of the splits, if there is one: ``split``, ``set``, ``subset``, ... Its values
            are names such as ``train``, ``validation`` and ``test``.
    """

    source: Literal["csv"]
    path: str
    root: str = "."
    image: str | None = None
    label: str | None = None
    split: str | None = None


class DigitsSettings(Declaration):
    """Classes of the task and of the backbone's pretraining, and images per class.

    Attributes:
        source: Kind of task.
        classes: Digits of the task.
        pretraining_classes: Other digits, for pretraining a backbone.
        train_per_class: Train images per class.
        validation_per_class: Validation images per class.
    """

    source: Literal["digits"]
    classes: tuple[Int, ...] = Field(min_length=2)
    pretraining_classes: tuple[Int, ...] = ()
    train_per_class: Int = Field(ge=1, le=1000)
    validation_per_class: Int = Field(ge=1, le=1000)

    @model_validator(mode="after")
    def _check_disjoint(self) -> DigitsSettings:
        digits = [*self.classes, *self.pretraining_classes]
        if len(set(digits)) < len(digits) or not set(digits) <= set(range(10)):
            raise ValueError(
                "classes and pretraining_classes must be digits from 0 to 9, each at most once, "
                f"got {list(self.classes)} and {list(self.pretraining_classes)}. "
                "Correct `task.classes` or `task.pretraining_classes`."
            )
        return self


class DomainsSettings(LabelledSettings, ReadingSettings):
    """Folder of domains, each with one folder of images per class.

    The training domain may have the folders ``train``, ``val`` and ``test``, like any folder task.
    Another domain is tested on its folder ``test`` or ``val``, otherwise on all its images. It may
    have fewer classes (ImageNet-A, ImageNet-R), to which predictions are then limited. Class
    folders named 0, 1, ... (ImageNet V2) are the classes in sorted order.

    Attributes:
        source: Kind of task.
        path: The folder; a recipe file gives it relative to its own folder.
        train: Training domain.
        test: Test domains; empty means all others.
    """

    source: Literal["domains"]
    path: str
    train: str
    test: tuple[str, ...] = ()


class FolderSettings(LabelledSettings, ReadingSettings):
    """Folder with one folder of images per class.

    The class folders may stand in the folders ``train`` and, optionally, ``val`` and ``test``, in
    any spelling such as ``Training`` or ``validation_set``. Hidden files and other files than
    images are passed over; the progress shows their number.

    Attributes:
        source: Kind of task.
        path: The folder; a recipe file gives it relative to its own folder.
    """

    source: Literal["folder"]
    path: str


class NpzSettings(LabelledSettings, ReadingSettings):
    """Images and labels in one ``.npz`` file, as written by ``numpy.savez``.

    ``x_train`` holds the images of the training split, uint8 of shape ``(n, height, width)`` or
    ``(n, height, width, channels)``, and ``y_train`` their labels ``(n,)``. Optional are ``x_val``
    and ``x_test`` with their labels, and ``class_names``.

    Image files may replace ``x_train``: ``jpeg_train`` holds their concatenated bytes, and
    ``off_train`` the ``n + 1`` offsets of the files.

    Attributes:
        source: Kind of task.
        path: The file; a recipe file gives it relative to its own folder.
        label: Labels of the task: ``elevation`` is ``elevation_train``. Labels that do not index
            ``class_names`` (``elevation_names``) are classes by their values.
        domain: Training domain, if ``domain_train`` holds the domain of each image (optionally as
            an index into ``domain_names``). Its test split is the test set; all images of each
            other domain are a further test set.
        only: The single split that all images are drawn from, such as when the splits have
            different classes. None uses each split under its own name.
    """

    source: Literal["npz"]
    path: str
    label: str = "y"
    domain: str | None = None
    only: Literal["train", "val", "test"] | None = None


class TimmSettings(LabelledSettings, ReadingSettings):
    """Data set that ``timm.data.create_dataset`` reads: a Hugging Face data set or a tar file.

    Attributes:
        source: Kind of task.
        name: timm's name of the data set. ``hfds/...`` is a data set of the Hugging Face hub, or a
            folder in its format (needs ``glora-automl[huggingface]``). The empty name is a tar
            file.
        path: The tar file, or the folder of downloads; a recipe file gives it relative to its own
            folder. None is the reader's default.
        train_split: Name of the training split.
        validation_split: Name of the validation split, if there is one.
        test_split: Name of the test split, if there is one.
        download: Whether timm downloads a missing data set.
        kwargs: Further keyword arguments: ``input_key``, ``target_key``, ``class_map`` as a table.
            timm's others would run code of the data set, or read a pickle.
    """

    source: Literal["timm"]
    name: str
    path: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = None
    download: Bool = False
    kwargs: dict[str, Any] = Field(default_factory=dict)

    @field_validator("kwargs")
    @classmethod
    def _check_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for key, value in kwargs.items():
            if ALLOWED.get(key) is not type(value):
                raise ValueError(
                    "must be texts input_key and target_key or a table class_map, got "
                    f"{short(key, 40)} = {short(value, 40)}."
                )
        return kwargs


class TorchvisionSettings(LabelledSettings, ReadingSettings):
    """Data set of torchvision.

    The CIFAR data sets are pickles; torchvision checks their MD5 before it reads them.

    Attributes:
        source: Kind of task.
        name: Class name, such as ``Food101``, ``StanfordCars``, ``Flowers102``, ``FGVCAircraft``,
            ``OxfordIIITPet`` or ``CIFAR10``.
        path: Root folder of torchvision's data sets; a recipe file gives it relative to its own
            folder.
        download: Whether torchvision downloads a missing data set.
        kwargs: Further keyword arguments of the class.
    """

    source: Literal["torchvision"]
    name: str
    path: str
    download: Bool = False
    kwargs: dict[str, Any] = Field(default_factory=dict)


class VtabSettings(ReadingSettings):
    """Task in the folder layout of NOAH (arXiv 2206.04673), FacT and SSF.

    ``<path>/<name>`` holds the images and the lists ``train800.txt``, ``val200.txt`` and
    ``test.txt``, with one line ``relative/path label`` per image.

    Attributes:
        source: Kind of task.
        name: One of the 19 names in :data:`VTAB`.
        path: The folder of all tasks; a recipe file gives it relative to its own folder.
        normalization: ``imagenet`` uses ImageNet's mean and standard deviation, ``none`` leaves
            pixels from 0 to 1, ``backbone`` uses the backbone's. Published accuracies differ by it.
    """

    source: Literal["vtab"]
    name: str
    path: str
    normalization: Literal["imagenet", "none", "backbone"] = "backbone"

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name not in VTAB:
            raise ValueError(f"must be one of the 19 VTAB tasks, got {name!r}. "
                             f"{suggest(name, list(VTAB))}")  # fmt: skip
        return name


TaskSettings = Annotated[
    DigitsSettings
    | NpzSettings
    | FolderSettings
    | CsvSettings
    | TorchvisionSettings
    | TimmSettings
    | VtabSettings
    | DomainsSettings
    | ArraysSettings,
    Field(discriminator="source"),
]
"""Settings of a task; ``source`` is its kind."""
