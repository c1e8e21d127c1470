"""Optuna samplers and the order of trials, without torch."""

from glora_automl.samplers._evolution import EvolutionSampler
from glora_automl.samplers._history import DONE, trial_positions
from glora_automl.samplers._ranking import is_feasible, pareto_front, score_trial, sort_trials
from glora_automl.samplers._region import KeepingRegion, Region
from glora_automl.samplers._repaired import RepairedSampler

__all__ = [
    "DONE",
    "EvolutionSampler",
    "KeepingRegion",
    "Region",
    "RepairedSampler",
    "is_feasible",
    "pareto_front",
    "score_trial",
    "sort_trials",
    "trial_positions",
]
