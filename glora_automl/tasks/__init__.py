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

__all__ = [
    "BackboneSettings",
    "DigitsSettings",
    "ImageSet",
    "InputFormat",
    "Task",
    "check_backbone",
    "check_pretraining",
    "create_backbone",
    "create_model",
    "input_format",
    "load_digits",
    "stratified_split",
]
