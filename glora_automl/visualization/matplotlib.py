"""The figures of :mod:`glora_automl.visualization`, drawn by matplotlib.

They need ``pip install "glora-automl[png]"``.
"""

from __future__ import annotations

from typing import Any

import optuna

from glora_automl.problem import AdapterProblem
from glora_automl.report import Grouping, to_matplotlib
from glora_automl.visualization._figures import draw, draw_importances

__all__ = [
    "plot_architecture",
    "plot_generations",
    "plot_importances",
    "plot_pareto_front",
]


def plot_importances(
    study: optuna.Study, by: Grouping | None = None, *, problem: AdapterProblem | None = None
) -> Any:
    """Plot importances; see :func:`glora_automl.visualization.plot_importances`."""
    return to_matplotlib(draw_importances(study, by, problem))


def plot_architecture(study: optuna.Study, *, problem: AdapterProblem | None = None) -> Any:
    """Plot an architecture; see :func:`glora_automl.visualization.plot_architecture`."""
    return to_matplotlib(draw(study, "architecture", problem))


def plot_pareto_front(study: optuna.Study, *, problem: AdapterProblem | None = None) -> Any:
    """Plot the Pareto front; see :func:`glora_automl.visualization.plot_pareto_front`."""
    return to_matplotlib(draw(study, "front", problem))


def plot_generations(study: optuna.Study, *, problem: AdapterProblem | None = None) -> Any:
    """Plot generations; see :func:`glora_automl.visualization.plot_generations`."""
    return to_matplotlib(draw(study, "generations", problem))
