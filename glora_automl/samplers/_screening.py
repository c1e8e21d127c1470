"""A cheap forecast of what proposals are worth, from the trials that are complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from glora_automl.samplers._ranking import Scored
from glora_automl.samplers._values import allows

__all__ = ["Screen"]

_MOST = 1000
"""Trials that are fitted, the last ones; the time grows with the third power."""

_RIDGES = np.geomspace(1e-3, 1e4, 15)


class Screen:
    """Ridge regression of losses and constraints on the parameters.

    A categorical parameter has one column a choice, a number two: its place in the range (of its
    logarithm, if it is searched so) and the square of that. The ridge of each loss is the one with
    the least generalised cross-validation error (Golub, Heath and Wahba, Generalized
    cross-validation as a method for choosing a good ridge parameter, 1979).

    Args:
        scored: Complete trials; those without all parameters or with infinite losses are left out.
        space: The parameters.

    Example:
        >>> import optuna
        >>> from glora_automl.samplers._ranking import score
        >>> minimize = [optuna.study.StudyDirection.MINIMIZE]
        >>> space = {"x": CategoricalDistribution("abc")}
        >>> worth = {"a": 3.0, "b": 1.0, "c": 2.0}
        >>> trials = [
        ...     optuna.create_trial(params={"x": x}, distributions=space, value=worth[x])
        ...     for x in "abcabc"
        ... ]
        >>> screen = Screen([score(trial, minimize) for trial in trials], space)
        >>> screen.choose([{"x": "a"}, {"x": "b"}, {"x": "c"}], np.random.default_rng(0))
        {'x': 'b'}
    """

    def __init__(self, scored: Sequence[Scored], space: Mapping[str, BaseDistribution]) -> None:
        self._space = dict(space)
        latest = sorted(scored, key=lambda s: -s.trial.number)
        usable = list(islice(filter(self._usable, latest), _MOST))
        constraints = [s.trial.constraints for s in usable]
        names = set(constraints[0]).intersection(*constraints) if usable else set()
        self._objectives = len(usable[0].losses) if usable else 0
        if not usable:
            return
        targets = np.array(
            [
                [*s.losses, *(known[name] for name in sorted(names))]
                for s, known in zip(usable, constraints, strict=True)
            ]
        )
        rows = np.array([self._row(s.trial.params) for s in usable])
        self._center, self._means = rows.mean(axis=0), targets.mean(axis=0)
        self._ranges = np.ptp(targets, axis=0)
        self._weights = _ridge(rows - self._center, targets - self._means)

    def _usable(self, scored: Scored) -> bool:
        params = scored.trial.params
        return bool(np.isfinite(scored.losses).all()) and all(
            name in params and allows(dist, params[name]) for name, dist in self._space.items()
        )

    def _row(self, params: Mapping[str, Any]) -> list[float]:
        row: list[float] = []
        for name, dist in self._space.items():
            if isinstance(dist, CategoricalDistribution):
                columns = [0.0] * len(dist.choices)
                columns[dist.choices.index(params[name])] = 1.0
                row += columns
            else:
                assert isinstance(dist, FloatDistribution | IntDistribution)
                ends = np.array([dist.low, dist.high, params[name]], dtype=float)
                low, high, value = np.log(ends) if dist.log else ends
                place = float((value - low) / (high - low)) if high > low else 0.0
                row += [place, place**2]
        return row

    def choose(
        self, proposals: Sequence[dict[str, Any]], rng: np.random.Generator
    ) -> dict[str, Any]:
        """The proposal that seems best: with the least violation, then with the least loss.

        Several losses are weighed at random and the greatest weighed one counts, so that
        proposals spread over the front (Knowles, ParEGO, 2006, section III).
        """
        if not self._objectives:
            return proposals[0]
        rows = np.array([self._row(params) for params in proposals])
        forecast = (rows - self._center) @ self._weights + self._means
        losses, constraints = np.split(forecast, [self._objectives], axis=1)
        violation = constraints.clip(min=0).sum(axis=1)
        ranges = self._ranges[: self._objectives]
        scaled = (losses - losses.min(axis=0)) / np.where(ranges > 0, ranges, 1.0)
        weighed = scaled * rng.dirichlet(np.ones(self._objectives))
        loss = weighed.max(axis=1) + 0.05 * weighed.sum(axis=1)
        return proposals[int(np.lexsort((loss, violation))[0])]


def _ridge(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weights of centred rows for each column of centred targets."""
    # In the space of trials, as parameters have more columns than there are trials at first.
    values, vectors = np.linalg.eigh(rows @ rows.T)
    values = values.clip(min=0)
    turned = vectors.T @ targets
    shrunk = np.empty_like(turned)
    for column in range(targets.shape[1]):
        errors = []
        for ridge in _RIDGES:
            rest = ridge / (values + ridge)
            errors.append(((rest * turned[:, column]) ** 2).sum() / rest.mean() ** 2)
        ridge = _RIDGES[int(np.argmin(errors))]
        shrunk[:, column] = turned[:, column] / (values + ridge)
    return np.asarray(rows.T @ (vectors @ shrunk))
