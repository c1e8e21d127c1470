"""Which trials are the best: by constraints first, then by one objective or by several."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

__all__ = ["Scored", "best", "crowding", "identity", "pareto_front", "score"]


class Scored(NamedTuple):
    """A complete trial in numbers of which each is the better the lower it is.

    Attributes:
        violation: Sum of the constraints above 0; 0 is feasible.
        losses: Values of the objectives, those to maximise negated.
        trial: The trial.
    """

    violation: float
    losses: tuple[float, ...]
    trial: FrozenTrial


def score(trial: FrozenTrial, directions: Sequence[StudyDirection]) -> Scored:
    """Read constraints and values of a complete trial."""
    violation = sum(max(0.0, value) for value in trial.constraints.values())
    losses = tuple(
        -value if direction == StudyDirection.MAXIMIZE else value
        for value, direction in zip(trial.values, directions, strict=True)
    )
    return Scored(violation, losses, trial)


def best(scored: Sequence[Scored], count: int) -> list[FrozenTrial]:
    """The best trials with different parameters.

    Feasible trials are better than infeasible ones, and those better the less they violate. Among
    feasible ones the lower loss decides; of several objectives, the earlier non-dominated front
    and, in the last front that has a place, the larger crowding distance (Deb et al., A fast and
    elitist multiobjective genetic algorithm: NSGA-II, 2002, sections III and VI). Ties are broken
    by trial number.

    Args:
        scored: Complete trials.
        count: How many to take.

    Returns:
        At most ``count`` trials, best first.

    Example:
        >>> import optuna
        >>> from optuna.distributions import FloatDistribution
        >>> space = {"x": FloatDistribution(0, 9)}
        >>> def trial(x, values):
        ...     return optuna.create_trial(params={"x": x}, distributions=space, values=values)
        >>> values = {1.0: (1, 5), 2.0: (2, 6), 3.0: (3, 1)}
        >>> minimize = [StudyDirection.MINIMIZE] * 2
        >>> scored = [score(trial(x, both), minimize) for x, both in values.items()]
        >>> [t.params["x"] for t in best(scored, 2)]
        [1.0, 3.0]
    """
    chosen: dict[Hashable, FrozenTrial] = {}
    for front in _fronts(scored):
        # One configuration that was evaluated twice must not take two places.
        fresh: dict[Hashable, Scored] = {}
        for candidate in front:
            key = identity(candidate.trial.params)
            if key not in chosen:
                fresh.setdefault(key, candidate)
            if len(candidate.losses) == 1 and len(fresh) + len(chosen) == count:
                break  # already in order
        members = list(fresh.values())
        if len(chosen) + len(members) > count:
            distances = crowding(np.array([member.losses for member in members]))
            order = np.argsort(-distances, kind="stable")
            members = [members[i] for i in order[: count - len(chosen)]]
        chosen.update((identity(member.trial.params), member.trial) for member in members)
        if len(chosen) == count:
            break
    return list(chosen.values())


def _fronts(scored: Sequence[Scored]) -> Iterator[list[Scored]]:
    """Groups from better to worse, each by number; with one objective all as one, in order."""
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
    # Infeasible trials that violate the same do not dominate each other.
    begin = len(feasible)
    while begin < len(by_number):
        end = begin
        while end < len(by_number) and by_number[end].violation == by_number[begin].violation:
            end += 1
        yield by_number[begin:end]
        begin = end


def pareto_front(losses: np.ndarray) -> np.ndarray:
    """Which rows no other row dominates.

    Args:
        losses: A row a point, a column an objective, all to minimise.

    Returns:
        True for each row that is on the front.

    Example:
        >>> pareto_front(np.array([[1, 5], [2, 6], [3, 1]])).tolist()
        [True, False, True]
    """
    on_front = np.zeros(len(losses), dtype=bool)
    # What comes earlier in this order is not dominated by what comes later.
    left = np.lexsort(losses.T[::-1])
    while left.size:
        rows = losses[left]
        on_front[left[(rows == rows[0]).all(axis=1)]] = True
        left = left[(rows < rows[0]).any(axis=1)]
    return on_front


def crowding(losses: np.ndarray) -> np.ndarray:
    """Crowding distances of the points of a front: how far apart the neighbours of each are.

    Deb et al. 2002, section III-B; infinite losses count as one range beyond the finite ones.

    Args:
        losses: A row a point, a column an objective.

    Returns:
        A distance for each row; infinite for the extreme points of each objective.

    Example:
        >>> crowding(np.array([[0, 8], [1, 6], [2, 2], [8, 0]])).tolist()
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
            continue  # says nothing about who is crowded
        distances[order[[0, -1]]] = np.inf
        distances[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / width
    return distances


def identity(params: Mapping[str, Any], names: Sequence[str] | None = None) -> Hashable:
    """What parameters with equal values have in common.

    Args:
        params: Parameters.
        names: The parameters that count, all of them in ``params``; by default all there are.

    Returns:
        A key for sets, also where a value (a list among the choices) cannot be hashed.

    Example:
        >>> identity({"x": 1, "y": 2}) == identity({"y": 2, "x": 1})
        True
    """
    if names is None:
        names = sorted(params)
        return (*names, identity(params, names))
    values = tuple([params[name] for name in names])
    return values if _hashable(values) else repr(values)


def _hashable(values: Iterable[Any]) -> bool:
    try:
        hash(tuple(values))
    except TypeError:
        return False
    return True
