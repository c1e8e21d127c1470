"""Stateless evolutionary sampler for many categorical parameters under a budget."""

from ._evolution import EvolutionSampler

__all__ = ["EvolutionSampler"]
