"""An evolutionary sampler without state of its own."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

__all__ = ["EvolutionSampler", "Region", "trial_positions"]

_REDRAWS = 20


class Region(Protocol):
    """Where proposals must lie, such as under a budget."""

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the parameters of a proposal."""

    def repair(self, params: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Bring parameters into the region; those inside come back as they are."""


class EvolutionSampler(BaseSampler):
    """Regularised by nothing but selection: the evolution of GLoRA's search, made resumable.

    The first ``population`` trials are drawn from the region (or at random). In every later
    generation of as many trials, a share is mutated from one of the best ``top`` trials before it
    and the rest is crossed over from two of them (Chen et al., One-for-All, arXiv 2306.07967,
    section 3.3). Proposals are repaired into the region; those that were seen are drawn anew.

    Feasible trials are better than infeasible ones, and those better the less they violate.

    All state is in the study. The random numbers of a trial come from the seed and the trial's
    position, its generation from its position, its parents from finished trials of earlier
    generations. The position is the trial number in a study that was never interrupted: a retry
    (:class:`optuna.storages.RetryHeartbeatStaleTrialCallback`) takes the place of the trial that
    failed. So with one worker, a study that was interrupted and resumed has the same trials as one
    that was not.

    Args:
        population: Trials a generation.
        top: Best trials that become parents.
        mutation_share: Share of each later generation that is mutated instead of crossed over.
        mutation_probability: Chance of each parameter of a mutated trial to be drawn anew.
        search_space: The distributions, if they are known before the first trial; else they are
            those that all finished trials have in common.
        region: Where proposals must lie.
        seed: Seed; None draws one.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=EvolutionSampler(population=10, top=3, seed=0))
        >>> def objective(trial):
        ...     return sum(trial.suggest_categorical(f"x{i}", [0, 1, 2]) for i in range(8))
        >>> study.optimize(objective, n_trials=200)
        >>> study.best_value
        0.0
    """

    def __init__(
        self,
        *,
        population: int = 50,
        top: int = 10,
        mutation_share: float = 0.5,
        mutation_probability: float = 0.2,
        search_space: Mapping[str, BaseDistribution] | None = None,
        region: Region | None = None,
        seed: int | None = None,
    ) -> None:
        for name, count in (("population", population), ("top", top)):
            if count < 1:
                raise ValueError(f"The `{name}` of EvolutionSampler must be >= 1, got {count}.")
        for name, share in (
            ("mutation_share", mutation_share),
            ("mutation_probability", mutation_probability),
        ):
            if not 0 <= share <= 1:
                raise ValueError(
                    f"The `{name}` of EvolutionSampler must be in [0, 1], got {share}."
                )
        self._population = population
        self._top = top
        if seed is not None and seed < 0:
            raise ValueError(f"The `seed` of EvolutionSampler must be >= 0, got {seed}.")
        self._mutation_share = mutation_share
        self._mutation_probability = mutation_probability
        self._search_space = None if search_space is None else dict(search_space)
        self._intersection = IntersectionSearchSpace()
        self._region = region
        self._seed = secrets.randbits(32) if seed is None else seed

    def reseed_rng(self) -> None:
        """Optuna's hook for parallel workers: nothing to do, trials have their own numbers."""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All known distributions with more than one value."""
        known = self._search_space
        if known is None:
            known = self._intersection.calculate(study)
        return {name: dist for name, dist in known.items() if not dist.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose all parameters at once."""
        _check_objectives(study)
        if not search_space:
            return {}
        trials = study.get_trials(deepcopy=False)
        positions = trial_positions(trials)
        position = positions[trial.number]
        rng = np.random.default_rng([self._seed, position])
        generation, place = divmod(position, self._population)
        # Trials of this generation may be running elsewhere, so parents come from earlier ones.
        begin = generation * self._population
        parents = self._select(study, [t for t in trials if positions[t.number] < begin])
        seen = {
            _key(t.params, search_space)
            for t in trials
            if t.number != trial.number and t.state != TrialState.FAIL
        }
        params: dict[str, Any] = {}
        mutates = place < self._mutation_share * self._population
        for attempt in range(_REDRAWS):
            if not parents:
                params = self._draw(study, trial, search_space, rng)
            # Parents that have become alike have no new child by crossover.
            elif mutates or attempt >= _REDRAWS // 2:
                params = self._child(study, trial, search_space, self._mutate(parents, rng), rng)
            else:
                params = self._child(study, trial, search_space, self._cross(parents, rng), rng)
            if self._region is not None and set(params) == set(search_space):
                params = self._region.repair(params, rng)
            if _key(params, search_space) not in seen:
                break
        return params

    def _select(self, study: Study, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The best trials: feasible ones by value, then the others by violation."""
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0

        def rank(trial: FrozenTrial) -> tuple[float, float, int]:
            violation = sum(max(0.0, value) for value in trial.constraints.values())
            assert trial.value is not None
            return violation, sign * trial.value, trial.number

        complete = (t for t in trials if t.state == TrialState.COMPLETE and t.value is not None)
        chosen: dict[tuple[Any, ...], FrozenTrial] = {}
        for trial in sorted(complete, key=rank):
            # One architecture that was evaluated twice must not take two places.
            chosen.setdefault(tuple(sorted(trial.params.items(), key=str)), trial)
            if len(chosen) == self._top:
                break
        return list(chosen.values())

    def _draw(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: Mapping[str, BaseDistribution],
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        if self._region is not None:
            params = self._region.draw(rng)
            if set(params) == set(search_space):
                return params
        return {n: self._gene(study, trial, n, d, rng) for n, d in search_space.items()}

    def _mutate(
        self, parents: Sequence[FrozenTrial], rng: np.random.Generator
    ) -> Callable[[], FrozenTrial | None]:
        """Each parameter from one parent, or drawn anew."""
        parent = parents[int(rng.integers(len(parents)))]
        return lambda: None if rng.random() < self._mutation_probability else parent

    def _cross(
        self, parents: Sequence[FrozenTrial], rng: np.random.Generator
    ) -> Callable[[], FrozenTrial | None]:
        """Each parameter from one of two parents."""
        pair = rng.choice(len(parents), size=2, replace=len(parents) < 2)
        return lambda: parents[pair[rng.integers(2)]]

    def _child(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: Mapping[str, BaseDistribution],
        choose: Callable[[], FrozenTrial | None],
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        """Parameters of the parents that ``choose`` gives; drawn where it gives none."""
        params = {}
        for name, dist in search_space.items():
            parent = choose()
            if parent is not None and _inherits(parent, name, dist):
                params[name] = parent.params[name]
            else:
                params[name] = self._gene(study, trial, name, dist, rng)
        return params

    def _gene(
        self,
        study: Study,
        trial: FrozenTrial,
        name: str,
        dist: BaseDistribution,
        rng: np.random.Generator,
    ) -> Any:
        if isinstance(dist, CategoricalDistribution):
            return dist.choices[rng.integers(len(dist.choices))]
        sampler = RandomSampler(seed=int(rng.integers(2**32)))
        return sampler.sample_independent(study, trial, name, dist)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter that no proposal covers."""
        _check_objectives(study)
        position = trial_positions(study.get_trials(deepcopy=False))[trial.number]
        rng = np.random.default_rng([self._seed, position, zlib.crc32(param_name.encode())])
        return self._gene(study, trial, param_name, param_distribution, rng)


def _check_objectives(study: Study) -> None:
    if len(study.directions) > 1:
        raise ValueError(
            "EvolutionSampler must be used with one objective, got a study with "
            f"{len(study.directions)}."
        )


def trial_positions(trials: Sequence[FrozenTrial]) -> list[int]:
    """Where each trial would stand in a study without retries.

    ``failed_trial`` is where Optuna's retry callbacks keep the number of the first failed trial.

    Args:
        trials: All trials of a study, by number.

    Returns:
        A position for each trial: its number less the retries before it, or that of the trial
        which it retries.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> trial = study.tell(study.ask(), state=TrialState.FAIL)
        >>> optuna.storages.RetryHeartbeatStaleTrialCallback()(study, study.trials[0])
        >>> _ = study.ask(), study.ask()
        >>> trial_positions(study.trials)
        [0, 0, 1]
    """
    positions: list[int] = []
    retries = 0
    for trial in trials:
        original = trial.system_attrs.get("failed_trial")
        if original is None:
            positions.append(trial.number - retries)
        else:
            positions.append(positions[original])
            retries += 1
    return positions


def _key(params: Mapping[str, Any], names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(params.get(name) for name in names)


def _inherits(parent: FrozenTrial, name: str, dist: BaseDistribution) -> bool:
    """Whether a parent has a value for the parameter that its distribution still allows."""
    if name not in parent.params:
        return False
    if isinstance(dist, CategoricalDistribution):
        return parent.params[name] in dist.choices
    return bool(dist._contains(dist.to_internal_repr(parent.params[name])))
