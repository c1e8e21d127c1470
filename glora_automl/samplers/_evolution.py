"""An evolutionary sampler without state of its own."""

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

from glora_automl.samplers._history import Histories
from glora_automl.samplers._ranking import best
from glora_automl.samplers._region import Region, repair_around
from glora_automl.samplers._values import allows, convert, single_value

__all__ = ["EvolutionSampler"]

_REDRAWS = 20

_Gene = Callable[[str, BaseDistribution], Any]


class EvolutionSampler(BaseSampler):
    """Regularised by nothing but selection: the evolution of GLoRA's search, made resumable.

    The first ``population_size`` trials are drawn from the region (or at random). Each later
    generation has as many trials. A fraction of them is mutated from one of the best ``n_parents``
    trials before it; the rest is crossed over from two of them (Chavan et al., One-for-All, arXiv
    2306.07967, section 3.3). Proposals are repaired into the region; known ones are drawn anew.

    Feasible trials are better than infeasible ones, and those better the less they violate
    (:meth:`optuna.Trial.set_constraint`). With several objectives, the best are those of the first
    non-dominated fronts, the least crowded ones of the last front (Deb et al., NSGA-II, 2002).
    Pruned trials are no parents, but they are not proposed again.

    All state is in the study. The random numbers of a trial come from the seed and the trial's
    position, its generation from its position, its parents from finished trials of earlier
    generations. The position is the trial number in a study that was never interrupted: a retry
    (:class:`optuna.storages.RetryHeartbeatStaleTrialCallback`) takes the place of the trial that
    failed. So with one worker, a study that was interrupted and resumed has the same trials as one
    that was not.

    Parameters that somebody has fixed (:meth:`optuna.study.Study.enqueue_trial`,
    :class:`optuna.samplers.PartialFixedSampler`) count when a proposal is repaired: the rest makes
    room for them if it can.

    Args:
        population_size: Trials a generation.
        n_parents: Best trials that become parents.
        mutation_fraction: Share of each later generation that is mutated instead of crossed over.
        mutation_prob: Chance of each parameter of a mutated trial to be drawn anew.
        search_space: The distributions, if they are known before the first trial; else they are
            those that all complete trials have in common, and other parameters are drawn at
            random. Given all parameters of a conditional space, it evolves as a whole.
        region: Where proposals must lie. Needs ``search_space``, or the first trials know nothing
            of it.
        initial: Proposals that take the first places of the first generation, repaired into the
            region; parameters that one does not name are drawn.
        seed: Seed; None draws one.

    Raises:
        ValueError: If an argument is out of its range, or an initial proposal has a name or a
            value that ``search_space`` does not have. Without ``search_space``, names that no
            trial asks for are ignored, and values that a trial cannot take as well, with a
            warning.

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
                raise ValueError(f"The `{name}` of EvolutionSampler must be >= 1, got {count}.")
        for name, share in (
            ("mutation_fraction", mutation_fraction),
            ("mutation_prob", mutation_prob),
        ):
            if not 0 <= share <= 1:
                raise ValueError(
                    f"The `{name}` of EvolutionSampler must be in [0, 1], got {share}."
                )
        if seed is not None and seed < 0:
            raise ValueError(f"The `seed` of EvolutionSampler must be >= 0, got {seed}.")
        self._population = population_size
        self._top = n_parents
        self._mutation_share = mutation_fraction
        self._mutation_probability = mutation_prob
        self._search_space = None if search_space is None else dict(search_space)
        self._region = region
        self._initial = [dict(proposal) for proposal in initial]
        self._check_initial()
        self._seed = secrets.randbits(32) if seed is None else seed
        self._histories = Histories()

    def _check_initial(self) -> None:
        rule = "The `initial` of EvolutionSampler must"
        if len(self._initial) > self._population:
            raise ValueError(
                f"{rule} have at most {self._population} proposals, the `population`, got "
                f"{len(self._initial)}."
            )
        if self._search_space is None:
            return
        for proposal in self._initial:
            for name, value in proposal.items():
                if name not in self._search_space:
                    known = ", ".join([*self._search_space][:6])
                    raise ValueError(f"{rule} name parameters such as {known}, got {name!r}.")
                if not allows(self._search_space[name], value):
                    dist = self._search_space[name]
                    raise ValueError(f"{rule} have a value of {dist} for {name!r}, got {value!r}.")

    def reseed_rng(self) -> None:
        """Optuna's hook for parallel workers: nothing to do, trials have their own numbers."""

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All known distributions with more than one value."""
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
            generation, place = divmod(position, self._population)
            # Trials of this generation may be running elsewhere, so parents come from earlier ones.
            begin = generation * self._population
            parents = history.derive(begin, "parents", lambda scored: best(scored, self._top))
            seen = history.seen(tuple(search_space), trial.number)
        rng = np.random.default_rng([self._seed, position])
        gene = self._gene(study, trial, rng)
        repair = self._repair(study, trial, rng)
        mutates = place < self._mutation_share * self._population
        params: dict[str, Any] = {}
        for attempt in range(_REDRAWS):
            if not parents:
                params = self._draw(search_space, gene, rng)
            # Parents that have become alike have no new child by crossover.
            elif mutates or attempt >= _REDRAWS // 2:
                params = _child(search_space, self._mutate(parents, rng), gene)
            else:
                params = _child(search_space, _cross(parents, rng), gene)
            if attempt == 0:
                params.update(self._initial_at(position, search_space))
            params = repair(params, {})
            if not seen(params):
                break
        # A retry keeps what its first try had suggested, and may have other parents by now.
        if any(params.get(name, value) != value for name, value in trial.params.items()):
            params = repair(params, trial.params)
        return {name: params[name] for name in search_space}

    def _initial_at(
        self, position: int, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """What is wanted at a position, as far as it can be had."""
        wanted = {}
        for name, value in self._initial[position].items() if position < len(self._initial) else ():
            if name not in search_space:
                continue
            if allows(search_space[name], value):
                wanted[name] = convert(search_space[name], value)
            else:
                warnings.warn(
                    f"The `initial` of EvolutionSampler should have a value of "
                    f"{search_space[name]} for {name!r}, got {value!r}; it is drawn instead.",
                    stacklevel=3,
                )
        return wanted

    def _repair(
        self, study: Study, trial: FrozenTrial, rng: np.random.Generator
    ) -> Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]]:
        """A function that brings a proposal into the region, with what is not ours to choose."""
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
            given = {**fixed, **suggested}.items()
            kept = {n: v for n, v in given if n in known and allows(known[n], v)}
            kept.update((n, single_value(dist)) for n, dist in known.items() if dist.single())
            if not known.keys() <= params.keys() | kept.keys():
                # Somebody else chooses the others, later on; this is how they may turn out.
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
        """Each parameter from one parent, or drawn anew."""
        parent = parents[int(rng.integers(len(parents)))]
        return lambda: None if rng.random() < self._mutation_probability else parent

    def _gene(self, study: Study, trial: FrozenTrial, rng: np.random.Generator) -> _Gene:
        """A function that draws one parameter."""

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
        """Draw one parameter that no proposal covers."""
        position = self._histories.position(study, trial)
        wanted = self._initial_at(position, {param_name: param_distribution})
        if param_name in wanted:
            return wanted[param_name]
        rng = np.random.default_rng([self._seed, position, zlib.crc32(param_name.encode())])
        return self._gene(study, trial, rng)(param_name, param_distribution)


def _cross(
    parents: Sequence[FrozenTrial], rng: np.random.Generator
) -> Callable[[], FrozenTrial | None]:
    """Each parameter from one of two parents."""
    pair = rng.choice(len(parents), size=2, replace=len(parents) < 2)
    return lambda: parents[pair[rng.integers(2)]]


def _child(
    search_space: Mapping[str, BaseDistribution],
    choose: Callable[[], FrozenTrial | None],
    gene: _Gene,
) -> dict[str, Any]:
    """Parameters of the parents that ``choose`` gives; drawn where it gives none."""
    params = {}
    for name, dist in search_space.items():
        parent = choose()
        if parent is not None and name in parent.params and allows(dist, parent.params[name]):
            params[name] = convert(dist, parent.params[name])
        else:
            params[name] = gene(name, dist)
    return params
