"""Optuna samplers. Nothing here knows torch."""

from glora_automl.samplers._evolution import EvolutionSampler
from glora_automl.samplers._history import DONE, trial_positions
from glora_automl.samplers._ranking import pareto_front
from glora_automl.samplers._region import KeepingRegion, Region
from glora_automl.samplers._repaired import RepairedSampler

__all__ = [
    "DONE",
    "EvolutionSampler",
    "KeepingRegion",
    "Region",
    "RepairedSampler",
    "pareto_front",
    "trial_positions",
]
