"""Images and labels of a task."""

from glora_automl.tasks._arrays import ArraysSettings, load_arrays
from glora_automl.tasks._decoding import Unreadable, decode, resizing
from glora_automl.tasks._digits import DigitsSettings, load_digits
from glora_automl.tasks._domains import DomainsSettings, load_domains
from glora_automl.tasks._folder import FolderSettings, load_folder
from glora_automl.tasks._images import (
    Images,
    ImageSet,
    InputFormat,
    Normalization,
    NormalizedImages,
)
from glora_automl.tasks._labelled import LabelledSettings, draw_labelled
from glora_automl.tasks._npz import NpzSettings, load_npz
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._sources import TaskSettings, load_task
from glora_automl.tasks._stratified import stratified_draw, stratified_split
from glora_automl.tasks._task import Domain, Task
from glora_automl.tasks._tensors import TensorImages, images_of
from glora_automl.tasks._timm import TimmSettings, load_timm
from glora_automl.tasks._torchvision import TorchvisionSettings, load_torchvision
from glora_automl.tasks._vtab import VTAB, VtabSettings, load_vtab

__all__ = [
    "VTAB",
    "ArraysSettings",
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
    "VtabSettings",
    "decode",
    "draw_labelled",
    "images_of",
    "load_arrays",
    "load_digits",
    "load_domains",
    "load_folder",
    "load_npz",
    "load_task",
    "load_timm",
    "load_torchvision",
    "load_vtab",
    "resizing",
    "stratified_draw",
    "stratified_split",
]
