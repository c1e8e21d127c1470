"""Optuna samplers. Nothing here knows torch."""

from glora_automl.samplers._evolution import EvolutionSampler, Region, trial_positions

__all__ = ["EvolutionSampler", "Region", "trial_positions"]
