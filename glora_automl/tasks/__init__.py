"""Where images and backbones come from."""

from glora_automl.tasks._backbone import (
    BackboneSettings,
    check_backbone,
    check_pretraining,
    create_backbone,
    create_model,
    input_format,
)
from glora_automl.tasks._digits import DigitsSettings, load_digits
from glora_automl.tasks._images import ImageSet, InputFormat, Task, stratified_split
from glora_automl.tasks._labelled import LabelledSettings, draw_labelled, stratified_draw
from glora_automl.tasks._npz import NpzSettings, load_npz
from glora_automl.tasks._sources import TaskSettings, load_task

__all__ = [
    "BackboneSettings",
    "DigitsSettings",
    "ImageSet",
    "InputFormat",
    "LabelledSettings",
    "NpzSettings",
    "Task",
    "TaskSettings",
    "check_backbone",
    "check_pretraining",
    "create_backbone",
    "create_model",
    "draw_labelled",
    "input_format",
    "load_digits",
    "load_npz",
    "load_task",
    "stratified_draw",
    "stratified_split",
]
