"""The order of trials: feasibility, violation, objectives, number."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

__all__ = [
    "ScoredTrial",
    "crowding_distances",
    "is_feasible",
    "param_key",
    "pareto_front",
    "score_trial",
    "sort_scored",
    "sort_trials",
]


class ScoredTrial(NamedTuple):
    """A complete trial with its scores, all to minimize.

    Attributes:
        violation: Sum of the constraints above 0; 0 if feasible.
        losses: Objective values, negated where they are maximized.
        trial: The trial.
    """

    violation: float
    losses: tuple[float, ...]
    trial: FrozenTrial


def score_trial(trial: FrozenTrial, directions: Sequence[StudyDirection]) -> ScoredTrial:
    """Score a complete trial in its first ``len(directions)`` objectives."""
    losses = tuple(
        -value if direction == StudyDirection.MAXIMIZE else value
        for value, direction in zip(trial.values, directions, strict=False)
    )
    return ScoredTrial(_violation(trial), losses, trial)


def _violation(trial: FrozenTrial) -> float:
    return sum(max(0.0, value) for value in trial.constraints.values())


def is_feasible(trial: FrozenTrial) -> bool:
    """Return whether a trial violates no constraint."""
    return _violation(trial) == 0


def sort_trials(
    trials: Iterable[FrozenTrial],
    directions: Sequence[StudyDirection],
    n_trials: int | None = None,
) -> list[FrozenTrial]:
    """Return the complete trials with different parameters, best first.

    Feasible trials precede infeasible ones, which are sorted by their violation. Feasible trials
    are sorted by their loss. With several objectives they are sorted by non-dominated front, and
    the last front is cut by crowding distance (Deb et al., A fast and elitist multiobjective
    genetic algorithm: NSGA-II, 2002, sections III and VI). The trial number breaks ties.

    Args:
        trials: Trials of one study. Trials that are not complete are ignored.
        directions: Directions of the first objectives; further objectives are ignored.
        n_trials: Maximum number of trials; None returns all.

    Example:
        >>> import optuna
        >>> from optuna.distributions import FloatDistribution
        >>> space = {"x": FloatDistribution(0, 9)}
        >>> def trial(x, values):
        ...     return optuna.create_trial(params={"x": x}, distributions=space, values=values)
        >>> trials = [trial(1.0, (1, 5)), trial(2.0, (2, 6)), trial(3.0, (3, 1))]
        >>> minimize = [StudyDirection.MINIMIZE] * 2
        >>> [t.params["x"] for t in sort_trials(trials, minimize, 2)]
        [1.0, 3.0]
    """
    scored = [
        score_trial(trial, directions)
        for trial in trials
        if trial.state == TrialState.COMPLETE and len(trial.values) >= len(directions)
    ]
    return sort_scored(scored, len(scored) if n_trials is None else n_trials)


def sort_scored(scored: Sequence[ScoredTrial], n_trials: int) -> list[FrozenTrial]:
    """Return the best trials as :func:`sort_trials` does, from their scores."""
    best: dict[Hashable, FrozenTrial] = {}
    for group in _groups(scored):
        # A configuration that was evaluated twice takes one place.
        fresh: dict[Hashable, ScoredTrial] = {}
        for candidate in group:
            key = param_key(candidate.trial.params)
            if key not in best:
                fresh.setdefault(key, candidate)
            if len(candidate.losses) == 1 and len(fresh) + len(best) == n_trials:
                break  # the group is sorted
        keys = list(fresh)
        if len(best) + len(keys) > n_trials:
            distances = crowding_distances(np.array([fresh[key].losses for key in keys]))
            order = np.argsort(-distances, kind="stable")
            keys = [keys[i] for i in order[: n_trials - len(best)]]
        best.update((key, fresh[key].trial) for key in keys)
        if len(best) == n_trials:
            break
    return list(best.values())


def _groups(scored: Sequence[ScoredTrial]) -> Iterator[list[ScoredTrial]]:
    """Yield groups from best to worst: one sorted group, or fronts sorted by trial number."""
    if not scored:
        return
    if len(scored[0].losses) == 1:
        yield sorted(scored, key=lambda s: (s.violation, s.losses[0], s.trial.number))
        return
    by_number = sorted(scored, key=lambda s: (s.violation, s.trial.number))
    feasible = [s for s in by_number if s.violation == 0]
    losses = np.array([s.losses for s in feasible])
    left = np.arange(len(feasible))
    while left.size:
        front = pareto_front(losses[left])
        yield [feasible[i] for i in left[front]]
        left = left[~front]
    # Infeasible trials with equal violations do not dominate each other.
    begin = len(feasible)
    while begin < len(by_number):
        end = begin
        while end < len(by_number) and by_number[end].violation == by_number[begin].violation:
            end += 1
        yield by_number[begin:end]
        begin = end


def pareto_front(losses: np.ndarray) -> np.ndarray:
    """Return which points of an array are on its Pareto front.

    Args:
        losses: Losses to minimize (points, objectives); may be empty.

    Returns:
        A mask (points); equal points are on the front together.

    Example:
        >>> pareto_front(np.array([[1, 5], [2, 6], [3, 1]])).tolist()
        [True, False, True]
    """
    on_front = np.zeros(len(losses), dtype=bool)
    if not losses.size:
        return on_front
    # In lexicographic order no point dominates an earlier one.
    left = np.lexsort(losses.T[::-1])
    while left.size:
        rows = losses[left]
        on_front[left[(rows == rows[0]).all(axis=1)]] = True
        left = left[(rows < rows[0]).any(axis=1)]
    return on_front


def crowding_distances(losses: np.ndarray) -> np.ndarray:
    """Return the crowding distances of the points of a front (Deb et al. 2002, section III-B).

    An infinite loss is set one range of the finite losses beyond them.

    Args:
        losses: Losses (points, objectives).

    Returns:
        Distances (points); infinite for the extreme points of each objective.

    Example:
        >>> crowding_distances(np.array([[0, 8], [1, 6], [2, 2], [8, 0]])).tolist()
        [inf, 1.0, 1.625, inf]
    """
    distances = np.zeros(len(losses))
    for column in losses.T.astype(float):
        finite = column[np.isfinite(column)]
        low, high = finite.min(initial=np.inf), finite.max(initial=-np.inf)
        if not low < high:
            low, high = (low, low + 1.0) if np.isfinite(low) else (0.0, 1.0)
        width = high - low
        values = np.clip(column, low - width, high + width)
        order = np.argsort(values, kind="stable")
        if values[order[0]] == values[order[-1]]:
            continue  # a constant objective separates no points
        distances[order[[0, -1]]] = np.inf
        distances[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / width
    return distances


def param_key(params: Mapping[str, Any], names: Sequence[str] | None = None) -> Hashable:
    """Return a hashable key that is equal for equal parameters.

    Args:
        params: Parameters; their values need not be hashable.
        names: The parameters to compare, all of them in ``params``; by default all.

    Example:
        >>> param_key({"x": 1, "y": 2}) == param_key({"y": 2, "x": 1})
        True
    """
    if names is None:
        names = sorted(params)
        return (*names, param_key(params, names))
    values = tuple([params[name] for name in names])
    return values if _is_hashable(values) else repr(values)


def _is_hashable(values: tuple[Any, ...]) -> bool:
    try:
        hash(values)
    except TypeError:
        return False
    return True
