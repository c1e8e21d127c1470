"""Figures of a study, in the style of :mod:`optuna.visualization`.

Each function takes a study and returns a plotly figure; the module ``matplotlib`` has the same
functions for matplotlib. A study that ``glora search`` created needs nothing else; one of your own
needs the :class:`~glora_automl.AdapterProblem` whose objective it has.
"""

from __future__ import annotations

import optuna
import plotly.graph_objects as go

from glora_automl.problem import AdapterProblem
from glora_automl.report import Grouping, to_figure
from glora_automl.visualization._figures import draw, draw_importances

__all__ = [
    "plot_architecture",
    "plot_generations",
    "plot_importances",
    "plot_pareto_front",
]


def plot_importances(
    study: optuna.Study, by: Grouping | None = None, *, problem: AdapterProblem | None = None
) -> go.Figure:
    """Plot how important the trainable parameters of each group are for the first objective.

    Importances are PED-ANOVA's (Watanabe et al., 2023) of the number of trainable parameters per
    group; they add up to 100% per grouping.

    Args:
        study: A study of ``glora search``, or one whose objective is that of ``problem``.
        by: ``block``, ``kind`` of layer, ``tensor`` or ``layer``; None shows the first three.
        problem: The problem of a study of your own.

    Raises:
        ReportError: If the study has less than ten trials, or all are equally good.
    """
    return to_figure(draw_importances(study, by, problem))


def plot_architecture(study: optuna.Study, *, problem: AdapterProblem | None = None) -> go.Figure:
    """Plot the choice and the trainable parameters per layer and support tensor, as a heatmap.

    The architecture is the selected one, or the best one before the selection.

    Args:
        study: A study of ``glora search``, or one whose objective is that of ``problem``.
        problem: The problem of a study of your own.

    Raises:
        ReportError: If the study has no trial within its budget.
    """
    return to_figure(draw(study, "architecture", problem))


def plot_pareto_front(study: optuna.Study, *, problem: AdapterProblem | None = None) -> go.Figure:
    """Plot the first objective against trainable parameters, with Pareto front and budget.

    Args:
        study: A study of ``glora search``, or one whose objective is that of ``problem``.
        problem: The problem of a study of your own.

    Raises:
        ReportError: If the study has no complete trial.
    """
    return to_figure(draw(study, "front", problem))


def plot_generations(study: optuna.Study, *, problem: AdapterProblem | None = None) -> go.Figure:
    """Plot best, median and quartiles of the first objective per generation of the sampler.

    Args:
        study: A study of ``glora search``, or one whose objective is that of ``problem``.
        problem: The problem of a study of your own.

    Raises:
        ReportError: If the study has less than two generations.
    """
    return to_figure(draw(study, "generations", problem))
