"""A reference of the sampler for one objective, without caches."""

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState


def propose(
    trials,
    number,
    space,
    *,
    seed,
    population_size,
    n_parents,
    mutation_fraction,
    mutation_prob,
    sign=1.0,
    region=None,
):
    """Return the parameters of trial ``number``, given all trials of the study."""
    n_positions, positions = 0, []
    for trial in trials:
        first = trial.system_attrs.get("failed_trial")
        positions.append(n_positions if first is None else positions[first])
        n_positions += first is None
    position = positions[number]
    generation, index = divmod(position, population_size)
    rng = np.random.default_rng([seed, position])
    earlier = [t for t in trials if positions[t.number] < generation * population_size]
    parents = sort([t for t in earlier if t.state == TrialState.COMPLETE], n_parents, sign)
    evaluated = [
        [t.params.get(name) for name in space]
        for t in trials
        if t.number != number and t.state != TrialState.FAIL
    ]

    def gene(name, dist):
        if isinstance(dist, CategoricalDistribution):
            return dist.choices[rng.integers(len(dist.choices))]
        sampler = RandomSampler(seed=int(rng.integers(2**32)))
        return sampler.sample_independent(None, None, name, dist)

    for attempt in range(20):
        if not parents:
            params = {n: gene(n, d) for n, d in space.items()} if region is None else {}
            params |= {} if region is None else region.draw(rng)
        elif index < mutation_fraction * population_size or attempt >= 10:
            parent = parents[int(rng.integers(len(parents)))]
            params = {
                n: gene(n, d) if rng.random() < mutation_prob else parent.params[n]
                for n, d in space.items()
            }
        else:
            pair = rng.choice(len(parents), size=2, replace=len(parents) < 2)
            params = {n: parents[pair[rng.integers(2)]].params[n] for n in space}
        if region is not None:
            params = region.repair(params, rng)
        if [params[name] for name in space] not in evaluated:
            break
    return params


def sort(trials, n_parents, sign):
    def key(trial):
        violation = sum(max(0.0, value) for value in trial.constraints.values())
        return violation, sign * trial.value, trial.number

    best = []
    for trial in sorted(trials, key=key):
        if len(best) < n_parents and trial.params not in [other.params for other in best]:
            best.append(trial)
    return best


def constrained_fronts(points, violations):
    """Return the non-dominated fronts by brute force."""

    def dominates(i, j):
        if violations[i] != violations[j] or violations[i] > 0:
            return violations[i] < violations[j]
        pairs = list(zip(points[i], points[j], strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    left, fronts = list(range(len(points))), []
    while left:
        front = [j for j in left if not any(dominates(i, j) for i in left)]
        fronts.append(front)
        left = [j for j in left if j not in front]
    return fronts


def crowding_distances(points):
    """Return the crowding distances of points with distinct values in each objective."""
    distances = []
    for point in points:
        total = 0.0
        for axis, value in enumerate(point):
            column = sorted(other[axis] for other in points)
            if column[0] == column[-1]:
                continue
            below = [other for other in column if other < value]
            above = [other for other in column if other > value]
            if not below or not above:
                total = float("inf")
            else:
                total += (above[0] - below[-1]) / (column[-1] - column[0])
        distances.append(total)
    return distances
