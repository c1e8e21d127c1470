"""Search as a scikit-learn classifier."""

from glora_automl.estimator._classifier import GLoRAClassifier

__all__ = ["GLoRAClassifier"]
