"""What is computed for a study, one file a stage."""

from glora_automl.pipeline._baselines import (
    arm_outcome,
    control_architectures,
    control_stage,
    train_control,
    train_given,
    uniform_architectures,
)
from glora_automl.pipeline._context import Setup, resolve_device
from glora_automl.pipeline._final_test import final_test, keep_winner
from glora_automl.pipeline._objective import Proposer, create_sampler
from glora_automl.pipeline._open import find, join
from glora_automl.pipeline._publishing import Publisher
from glora_automl.pipeline._run import Publish, Run
from glora_automl.pipeline._selection import TargetRaised, choose, rivals, select
from glora_automl.pipeline._standalone import alone, train_alone
from glora_automl.pipeline._supernet import fetch_supernet, load_backbone, load_supernet
from glora_automl.pipeline._watch import Watch

__all__ = [
    "Proposer",
    "Publish",
    "Publisher",
    "Run",
    "Setup",
    "TargetRaised",
    "Watch",
    "alone",
    "arm_outcome",
    "choose",
    "control_architectures",
    "control_stage",
    "create_sampler",
    "fetch_supernet",
    "final_test",
    "find",
    "join",
    "keep_winner",
    "load_backbone",
    "load_supernet",
    "resolve_device",
    "rivals",
    "select",
    "train_alone",
    "train_control",
    "train_given",
    "uniform_architectures",
]
