"""A stateless evolutionary sampler."""

from __future__ import annotations

import secrets
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from ._history import Histories
from ._ranking import sort_scored
from ._region import Region, repair_around
from ._values import contains, convert, single_value

__all__ = ["EvolutionSampler"]

_ATTEMPTS = 20

_Gene = Callable[[str, BaseDistribution], Any]


class EvolutionSampler(BaseSampler):
    """The evolutionary search of GLoRA, made resumable.

    The first ``population_size`` trials are drawn from the region, or at random without one. Each
    later generation has as many trials. A fraction of them are mutations of one of the best
    ``n_parents`` earlier trials; the others are crossovers of two of them (Chavan et al.,
    One-for-All, arXiv 2306.07967, section 3.3). Proposals are repaired into the region, and
    duplicates are drawn again.

    Feasible trials precede infeasible ones, which are sorted by violation
    (:meth:`optuna.Trial.set_constraint`). With several objectives the parents are the first
    non-dominated fronts, and the last one is cut by crowding distance (Deb et al., NSGA-II, 2002).
    Pruned trials are never parents, but their parameters are not proposed again.

    All state is in the study. The seed and the position of a trial determine its random numbers,
    its position determines its generation, and its parents are complete trials of earlier
    generations. The position is the trial number without retries: a retry
    (:class:`optuna.storages.RetryHeartbeatStaleTrialCallback`) has the position of the failed
    trial. With one worker, an interrupted and resumed study therefore has the same trials as an
    uninterrupted one.

    Fixed parameters (:meth:`optuna.study.Study.enqueue_trial`,
    :class:`optuna.samplers.PartialFixedSampler`) are kept when a proposal is repaired; only the
    free parameters change.

    Args:
        population_size: Trials per generation.
        n_parents: Number of best trials that become parents.
        mutation_fraction: Fraction of mutations in each later generation; the others are
            crossovers.
        mutation_prob: Probability that a parameter of a mutation is drawn again.
        search_space: Distributions, if they are known before the first trial. Otherwise they are
            those that all complete trials have in common, and other parameters are drawn at
            random. With all parameters of a conditional space, it evolves as one.
        region: Region of the proposals. The first trials ignore it without ``search_space``.
        initial: First proposals, repaired into the region; missing parameters are drawn.
        seed: Seed; None draws one.

    Raises:
        ValueError: If an argument is out of its range, or if ``initial`` has a name or a value
            that ``search_space`` does not contain. Without ``search_space``, unknown names are
            ignored, and unknown values are ignored with a warning.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> sampler = EvolutionSampler(population_size=10, n_parents=3, seed=0)
        >>> study = optuna.create_study(sampler=sampler)
        >>> def objective(trial):
        ...     return sum(trial.suggest_categorical(f"x{i}", [0, 1, 2]) for i in range(8))
        >>> study.optimize(objective, n_trials=200)
        >>> study.best_value
        0.0
    """

    def __init__(
        self,
        *,
        population_size: int = 50,
        n_parents: int = 10,
        mutation_fraction: float = 0.5,
        mutation_prob: float = 0.2,
        search_space: Mapping[str, BaseDistribution] | None = None,
        region: Region | None = None,
        initial: Sequence[Mapping[str, Any]] = (),
        seed: int | None = None,
    ) -> None:
        for name, count in (("population_size", population_size), ("n_parents", n_parents)):
            if count < 1:
                raise ValueError(f"`{name}` must be >= 1, got {count}. Raise `{name}`.")
        for name, fraction in (
            ("mutation_fraction", mutation_fraction),
            ("mutation_prob", mutation_prob),
        ):
            if not 0 <= fraction <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {fraction}. Change `{name}`.")
        if seed is not None and seed < 0:
            raise ValueError(f"`seed` must be >= 0, got {seed}. Choose another `seed`.")
        self._population_size = population_size
        self._n_parents = n_parents
        self._mutation_fraction = mutation_fraction
        self._mutation_prob = mutation_prob
        self._search_space = None if search_space is None else dict(search_space)
        self._region = region
        self._initial = [dict(proposal) for proposal in initial]
        self._check_initial()
        self._seed = secrets.randbits(32) if seed is None else seed
        self._histories = Histories()

    def _check_initial(self) -> None:
        if len(self._initial) > self._population_size:
            raise ValueError(
                f"`initial` must have at most {self._population_size} proposals, got "
                f"{len(self._initial)}. Remove proposals, or raise `population_size`."
            )
        if self._search_space is None:
            return
        for proposal in self._initial:
            for name, value in proposal.items():
                if name not in self._search_space:
                    known = ", ".join([*self._search_space][:6])
                    raise ValueError(
                        f"`initial` must name parameters of `search_space`, got {name!r}. "
                        f"Choose among names such as {known}."
                    )
                dist = self._search_space[name]
                if not contains(dist, value):
                    raise ValueError(
                        f"`initial` must have values of `search_space`, got {value!r} for "
                        f"{name!r}. Choose a value of {dist}."
                    )

    def reseed_rng(self) -> None:
        """Do nothing, as the position of a trial seeds its random numbers."""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the known distributions with more than one value."""
        return {name: dist for name, dist in self._known(study).items() if not dist.single()}

    def _known(self, study: Study) -> Mapping[str, BaseDistribution]:
        if self._search_space is not None:
            return self._search_space
        with self._histories.read(study) as history:
            return history.space()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose all parameters at once."""
        if not search_space:
            return {}
        with self._histories.read(study) as history:
            position = history.positions[trial.number]
            generation, index = divmod(position, self._population_size)
            # Other workers may run trials of this generation, so parents come from earlier ones.
            begin = generation * self._population_size
            parents = history.derive(
                begin, "parents", lambda scored: sort_scored(scored, self._n_parents)
            )
            is_duplicate = history.duplicates(tuple(search_space), trial.number)
        rng = np.random.default_rng([self._seed, position])
        gene = self._gene(study, trial, rng)
        repair = self._repair(study, trial, rng)
        is_mutation = index < self._mutation_fraction * self._population_size
        params: dict[str, Any] = {}
        for attempt in range(_ATTEMPTS):
            if not parents:
                params = self._draw(search_space, gene, rng)
            # Crossovers of parents that have converged are duplicates.
            elif is_mutation or attempt >= _ATTEMPTS // 2:
                params = _child(search_space, self._mutate(parents, rng), gene)
            else:
                params = _child(search_space, _cross(parents, rng), gene)
            if attempt == 0:
                params.update(self._initial_at(position, search_space))
            params = repair(params, {})
            if not is_duplicate(params):
                break
        # A retry keeps the parameters of the failed trial and may have other parents.
        if any(params.get(name, value) != value for name, value in trial.params.items()):
            params = repair(params, trial.params)
        return {name: params[name] for name in search_space}

    def _initial_at(
        self, position: int, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of an initial proposal that the search space contains."""
        proposal = self._initial[position] if position < len(self._initial) else {}
        params = {}
        for name, value in proposal.items():
            if name not in search_space:
                continue
            if contains(search_space[name], value):
                params[name] = convert(search_space[name], value)
            else:
                warnings.warn(
                    f"`initial` should have a value of {search_space[name]} for {name!r}, got "
                    f"{value!r}. The value is drawn instead.",
                    stacklevel=3,
                )
        return params

    def _repair(
        self, study: Study, trial: FrozenTrial, rng: np.random.Generator
    ) -> Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]]:
        """Return a function that repairs a proposal around its fixed parameters."""
        region = self._region
        if region is None:
            return lambda params, suggested: params
        fixed: dict[str, Any] = {}
        sampler = study.sampler
        while isinstance(sampler, PartialFixedSampler):
            fixed = {**sampler._fixed_params, **fixed}
            sampler = sampler._base_sampler
        fixed.update(trial.system_attrs.get("fixed_params", {}))
        known = self._known(study)

        def repair(params: dict[str, Any], suggested: Mapping[str, Any]) -> dict[str, Any]:
            kept = {
                name: value
                for name, value in {**fixed, **suggested}.items()
                if name in known and contains(known[name], value)
            }
            kept.update((n, single_value(dist)) for n, dist in known.items() if dist.single())
            if not known.keys() <= params.keys() | kept.keys():
                # Another sampler sets the missing parameters later; a draw stands in for them.
                params = {**region.draw(rng), **params}
            return repair_around(region, params, kept, rng)

        return repair

    def _draw(
        self, search_space: Mapping[str, BaseDistribution], gene: _Gene, rng: np.random.Generator
    ) -> dict[str, Any]:
        params = {} if self._region is None else self._region.draw(rng)
        for name, dist in search_space.items():
            if name not in params:
                params[name] = gene(name, dist)
        return params

    def _mutate(
        self, parents: Sequence[FrozenTrial], rng: np.random.Generator
    ) -> Callable[[], FrozenTrial | None]:
        """Return a function that returns one random parent, or None to draw a parameter."""
        parent = parents[int(rng.integers(len(parents)))]
        return lambda: None if rng.random() < self._mutation_prob else parent

    def _gene(self, study: Study, trial: FrozenTrial, rng: np.random.Generator) -> _Gene:
        """Return a function that draws one parameter."""

        def draw(name: str, dist: BaseDistribution) -> Any:
            if isinstance(dist, CategoricalDistribution):
                return dist.choices[rng.integers(len(dist.choices))]
            sampler = RandomSampler(seed=int(rng.integers(2**32)))
            return sampler.sample_independent(study, trial, name, dist)

        return draw

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter that is not in the relative search space."""
        position = self._histories.position(study, trial)
        initial = self._initial_at(position, {param_name: param_distribution})
        if param_name in initial:
            return initial[param_name]
        rng = np.random.default_rng([self._seed, position, zlib.crc32(param_name.encode())])
        return self._gene(study, trial, rng)(param_name, param_distribution)


def _cross(
    parents: Sequence[FrozenTrial], rng: np.random.Generator
) -> Callable[[], FrozenTrial | None]:
    """Return a function that returns either of two random parents."""
    pair = rng.choice(len(parents), size=2, replace=len(parents) < 2)
    return lambda: parents[pair[rng.integers(2)]]


def _child(
    search_space: Mapping[str, BaseDistribution],
    choose: Callable[[], FrozenTrial | None],
    gene: _Gene,
) -> dict[str, Any]:
    """Return parameters, each of the parent that ``choose`` returns or drawn if it is None."""
    params = {}
    for name, dist in search_space.items():
        parent = choose()
        if parent is not None and name in parent.params and contains(dist, parent.params[name]):
            params[name] = convert(dist, parent.params[name])
        else:
            params[name] = gene(name, dist)
    return params
