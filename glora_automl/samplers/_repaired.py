"""An Optuna sampler whose proposals are repaired into a region."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from glora_automl.samplers._history import trial_positions
from glora_automl.samplers._region import Region, repair_around
from glora_automl.samplers._values import single_value

__all__ = ["RepairedSampler"]


class RepairedSampler(BaseSampler):
    """A sampler that repairs the proposals of a base sampler into a region.

    The trials hold the repaired proposals, so the base sampler learns from those. Parameters that
    the base sampler draws one by one are drawn together, so that they can be repaired. A new base
    sampler is made for each trial, seeded by the position of the trial. Its draws therefore do
    not depend on interruptions, if they depend only on its seed and the finished trials.

    Args:
        make_sampler: Makes a base sampler from a seed.
        search_space: Distributions of all parameters.
        region: Region of the proposals; None leaves them as they are.
        seed: Seed of all random numbers.

    Example:
        >>> import optuna
        >>> class AtMostOne:
        ...     def draw(self, rng):
        ...         return {"a": 0, "b": 0}
        ...     def repair(self, params, rng):
        ...         return {"a": 0, "b": params["b"]} if sum(params.values()) > 1 else params
        >>> space = {name: optuna.distributions.CategoricalDistribution([0, 1]) for name in "ab"}
        >>> sampler = RepairedSampler(optuna.samplers.RandomSampler, space, AtMostOne())
        >>> study = optuna.create_study(sampler=sampler)
        >>> study.optimize(lambda t: sum(t.suggest_categorical(n, [0, 1]) for n in "ab"), 20)
        >>> max(trial.value for trial in study.trials)
        1.0
    """

    def __init__(
        self,
        make_sampler: Callable[[int], BaseSampler],
        search_space: Mapping[str, BaseDistribution],
        region: Region | None,
        seed: int = 0,
    ) -> None:
        self._make_sampler = make_sampler
        self._search_space = dict(search_space)
        self._region = region
        self._seed = seed
        self._samplers: dict[int, tuple[int, BaseSampler]] = {}

    def reseed_rng(self) -> None:
        """Do nothing, as the position of a trial seeds its random numbers."""

    def _base(self, study: Study, trial: FrozenTrial) -> tuple[int, BaseSampler]:
        """Return the position of a trial and its base sampler."""
        if trial._trial_id not in self._samplers:
            position = trial_positions(study.get_trials(deepcopy=False))[trial.number]
            seed = int(np.random.default_rng([self._seed, position]).integers(2**32))
            self._samplers[trial._trial_id] = position, self._make_sampler(seed)
        return self._samplers[trial._trial_id]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the distributions with more than one value."""
        return {name: dist for name, dist in self._search_space.items() if not dist.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose all parameters at once, repaired."""
        position, sampler = self._base(study, trial)
        relative = sampler.infer_relative_search_space(study, trial)
        params = dict(sampler.sample_relative(study, trial, relative))
        single = {n: single_value(d) for n, d in self._search_space.items() if d.single()}
        # The base sampler sees the values before, as where a trial suggests one by one.
        drawn = copy.copy(trial)
        drawn.params = {**trial.params, **single}
        drawn.distributions = {**trial.distributions, **{n: self._search_space[n] for n in single}}
        for name, dist in search_space.items():
            if name not in params:
                params[name] = sampler.sample_independent(study, drawn, name, dist)
            drawn.distributions[name], drawn.params[name] = dist, params[name]
        proposal = {**params, **single}
        if self._region is None:
            return {name: proposal[name] for name in search_space}
        fixed = {**trial.params, **trial.system_attrs.get("fixed_params", {})}
        fixed = {name: value for name, value in fixed.items() if name in proposal}
        rng = np.random.default_rng([self._seed, zlib.crc32(b"repair"), position])
        repaired = repair_around(self._region, proposal, fixed, rng)
        return {name: repaired[name] for name in search_space}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter that is not in the search space with the base sampler."""
        sampler = self._base(study, trial)[1]
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See :class:`optuna.samplers.BaseSampler`."""
        self._base(study, trial)[1].before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """See :class:`optuna.samplers.BaseSampler`."""
        self._base(study, trial)[1].after_trial(study, trial, state, values)
        self._samplers.pop(trial._trial_id, None)
