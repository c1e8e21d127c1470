"""Any sampler of Optuna, with its proposals brought into a region."""

from __future__ import annotations

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
    """Proposes what another sampler proposes, repaired into a region before it is evaluated.

    The other sampler learns from the repaired proposals, as they are what the trials hold. Its
    parameters that it would draw one by one are drawn together, so that they can be repaired. It
    is made anew for each trial, with a seed from the trial's position: so its draws do not depend
    on how often a study was interrupted, as far as the sampler depends on nothing but its seed and
    the finished trials.

    Args:
        make_sampler: Makes the other sampler from a seed.
        search_space: The distributions of all parameters.
        region: Where proposals must lie.
        seed: Seeds everything.

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
        region: Region,
        seed: int = 0,
    ) -> None:
        self._make_sampler = make_sampler
        self._search_space = dict(search_space)
        self._region = region
        self._seed = seed
        self._samplers: dict[int, tuple[int, BaseSampler]] = {}

    def reseed_rng(self) -> None:
        """Optuna's hook for parallel workers: nothing to do, trials have their own numbers."""

    def _of(self, study: Study, trial: FrozenTrial) -> tuple[int, BaseSampler]:
        """The position of a trial, and the sampler that was made for it."""
        if trial._trial_id not in self._samplers:
            position = trial_positions(study.get_trials(deepcopy=False))[trial.number]
            seed = int(np.random.default_rng([self._seed, position]).integers(2**32))
            self._samplers[trial._trial_id] = position, self._make_sampler(seed)
        return self._samplers[trial._trial_id]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All parameters that have more than one value."""
        return {name: dist for name, dist in self._search_space.items() if not dist.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The other sampler's proposal, repaired."""
        position, sampler = self._of(study, trial)
        known = sampler.infer_relative_search_space(study, trial)
        params = dict(sampler.sample_relative(study, trial, known))
        for name, dist in search_space.items():
            if name not in params:
                params[name] = sampler.sample_independent(study, trial, name, dist)
        single = {n: single_value(d) for n, d in self._search_space.items() if d.single()}
        whole = {**params, **single}
        fixed = {**trial.params, **trial.system_attrs.get("fixed_params", {})}
        fixed = {name: value for name, value in fixed.items() if name in whole}
        rng = np.random.default_rng([self._seed, zlib.crc32(b"repair"), position])
        repaired = repair_around(self._region, whole, fixed, rng)
        return {name: repaired[name] for name in search_space}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A parameter that is not in the search space, as the other sampler draws it."""
        sampler = self._of(study, trial)[1]
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See :class:`optuna.samplers.BaseSampler`."""
        self._of(study, trial)[1].before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """See :class:`optuna.samplers.BaseSampler`."""
        self._of(study, trial)[1].after_trial(study, trial, state, values)
        self._samplers.pop(trial._trial_id, None)
