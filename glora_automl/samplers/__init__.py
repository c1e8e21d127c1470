"""Optuna samplers. Nothing here knows torch."""

from glora_automl.samplers._evolution import EvolutionSampler, Region

__all__ = ["EvolutionSampler", "Region"]
