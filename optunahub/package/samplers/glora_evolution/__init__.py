"""EvolutionSampler of glora_automl, as OptunaHub loads it."""

from glora_automl.samplers import EvolutionSampler

__all__ = ["EvolutionSampler"]
