"""What is computed for a study, one file a stage."""

from glora_automl.pipeline._baselines import (
    adapter_outcome,
    baseline_architectures,
    baseline_stage,
    train_baseline,
    train_preset,
    uniform_architectures,
)
from glora_automl.pipeline._context import Setup, resolve_device
from glora_automl.pipeline._final_test import final_test, keep_winner
from glora_automl.pipeline._objective import Proposer, create_sampler
from glora_automl.pipeline._open import find, join
from glora_automl.pipeline._publishing import Publisher
from glora_automl.pipeline._run import Publish, Run
from glora_automl.pipeline._selection import TargetRaised, choose, competing_baselines, select
from glora_automl.pipeline._standalone import standalone, train_standalone
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
    "adapter_outcome",
    "baseline_architectures",
    "baseline_stage",
    "choose",
    "competing_baselines",
    "create_sampler",
    "fetch_supernet",
    "final_test",
    "find",
    "join",
    "keep_winner",
    "load_backbone",
    "load_supernet",
    "resolve_device",
    "select",
    "standalone",
    "train_baseline",
    "train_preset",
    "train_standalone",
    "uniform_architectures",
]
