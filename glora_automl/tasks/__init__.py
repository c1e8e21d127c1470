"""Where images come from."""

from glora_automl.tasks._decoding import Unreadable, decode, resizing
from glora_automl.tasks._digits import DigitsSettings, load_digits
from glora_automl.tasks._domains import DomainsSettings, load_domains
from glora_automl.tasks._folder import FolderSettings, load_folder
from glora_automl.tasks._images import (
    Domain,
    Images,
    ImageSet,
    InputFormat,
    Normalisation,
    NormalisedImages,
    Task,
    stratified_split,
)
from glora_automl.tasks._labelled import LabelledSettings, draw_labelled, stratified_draw
from glora_automl.tasks._memory import ArraysSettings, load_arrays
from glora_automl.tasks._npz import NpzSettings, load_npz
from glora_automl.tasks._reading import Reader, ReadingSettings
from glora_automl.tasks._sources import TaskSettings, load_task
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
    "Normalisation",
    "NormalisedImages",
    "NpzSettings",
    "Reader",
    "ReadingSettings",
    "Task",
    "TaskSettings",
    "TimmSettings",
    "TorchvisionSettings",
    "Unreadable",
    "VtabSettings",
    "decode",
    "draw_labelled",
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
