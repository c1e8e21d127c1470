"""EvolutionSampler of glora_automl as an OptunaHub package."""

from glora_automl.samplers import EvolutionSampler

__all__ = ["EvolutionSampler"]
