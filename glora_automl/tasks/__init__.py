"""Images and labels of a task."""

from typing import TYPE_CHECKING

from glora_automl._lazy import lazy_names

if TYPE_CHECKING:
    from glora_automl.tasks._arrays import load_arrays
    from glora_automl.tasks._csv import load_csv
    from glora_automl.tasks._decoding import Unreadable, check_channels, decode, resizing
    from glora_automl.tasks._digits import load_digits
    from glora_automl.tasks._domains import load_domains
    from glora_automl.tasks._encoded import read_image
    from glora_automl.tasks._finding import find_images, is_hidden
    from glora_automl.tasks._folder import load_folder
    from glora_automl.tasks._images import (
        Images,
        ImageSet,
        InputFormat,
        Normalization,
        NormalizedImages,
    )
    from glora_automl.tasks._labelled import draw_labelled
    from glora_automl.tasks._npz import load_npz
    from glora_automl.tasks._reading import Reader
    from glora_automl.tasks._settings import (
        ArraysSettings,
        CropMode,
        CsvSettings,
        DigitsSettings,
        DomainsSettings,
        FolderSettings,
        LabelledSettings,
        NpzSettings,
        ReadingSettings,
        TaskSettings,
        TimmSettings,
        TorchvisionSettings,
        ValueRange,
        VtabSettings,
        check_value_range,
    )
    from glora_automl.tasks._sources import load_task
    from glora_automl.tasks._stratified import stratified_draw, stratified_split
    from glora_automl.tasks._task import Domain, Task
    from glora_automl.tasks._tensors import TensorImages, images_of, splits_of
    from glora_automl.tasks._timm import load_timm
    from glora_automl.tasks._torchvision import load_torchvision
    from glora_automl.tasks._vtab import load_vtab
    from glora_automl.tasks._vtab_tasks import VTAB

__all__ = [
    "VTAB",
    "ArraysSettings",
    "CropMode",
    "CsvSettings",
    "DigitsSettings",
    "Domain",
    "DomainsSettings",
    "FolderSettings",
    "ImageSet",
    "Images",
    "InputFormat",
    "LabelledSettings",
    "Normalization",
    "NormalizedImages",
    "NpzSettings",
    "Reader",
    "ReadingSettings",
    "Task",
    "TaskSettings",
    "TensorImages",
    "TimmSettings",
    "TorchvisionSettings",
    "Unreadable",
    "ValueRange",
    "VtabSettings",
    "check_channels",
    "check_value_range",
    "decode",
    "draw_labelled",
    "find_images",
    "images_of",
    "is_hidden",
    "load_arrays",
    "load_csv",
    "load_digits",
    "load_domains",
    "load_folder",
    "load_npz",
    "load_task",
    "load_timm",
    "load_torchvision",
    "load_vtab",
    "read_image",
    "resizing",
    "splits_of",
    "stratified_draw",
    "stratified_split",
]

__getattr__, __dir__ = lazy_names(__name__)
