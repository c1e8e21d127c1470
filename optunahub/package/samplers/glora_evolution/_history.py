"""Incremental reading of a study: each finished trial is processed once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ._ranking import ScoredTrial, param_key, score_trial

__all__ = ["DONE", "Histories", "History", "trial_positions"]

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of evaluated trials."""

_Derived = TypeVar("_Derived")

_MAX_ENTRIES = 4
"""Studies, spaces and generations in a cache: those in use at the same time."""

_MAX_RUNNING = 64
"""Running trials in a cache."""


def trial_positions(trials: Sequence[FrozenTrial]) -> list[int]:
    """Return the position of each trial in the study without retries.

    The position of a trial is its number less the retries before it. A retry has the position of
    the trial that it repeats, which Optuna's retry callbacks record as ``failed_trial``.

    Args:
        trials: All trials of a study, by number.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> for attributes in ({}, {"failed_trial": 0}, {}):
        ...     study.add_trial(optuna.create_trial(state=TrialState.FAIL, system_attrs=attributes))
        >>> trial_positions(study.trials)
        [0, 0, 1]
    """
    positions: list[int] = []
    _extend(positions, trials)
    return positions


def _extend(positions: list[int], trials: Iterable[FrozenTrial]) -> None:
    """Append the positions of further trials."""
    next_position = max(positions, default=-1) + 1
    for trial in trials:
        original = trial.system_attrs.get("failed_trial")
        # A trial copied from another study may name a trial that this study does not have.
        if isinstance(original, int) and 0 <= original < len(positions):
            positions.append(positions[original])
        else:
            positions.append(next_position)
            next_position += 1


class History:
    """The trials of one study at the last update.

    A history is a function of the trials alone, so a new one of the same trials is equal. Results
    from finished trials are cached, as these never change; unfinished trials are read at each
    update.

    Args:
        directions: Directions of the study.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._directions = directions
        self._clear()

    def _clear(self) -> None:
        self.positions: list[int] = []
        self._unfinished: list[FrozenTrial] = []
        self._evaluated: list[FrozenTrial] = []  # in the order of their discovery
        self._complete: list[ScoredTrial] = []
        self._last: FrozenTrial | None = None
        self._keys: dict[tuple[str, ...], tuple[int, set[Hashable]]] = {}
        self._derived: dict[tuple[int, Hashable], tuple[int, Any]] = {}
        self._space: tuple[int, dict[str, BaseDistribution] | None] = (0, None)

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Read the trials of the study again.

        Args:
            trials: All its trials, by number.
        """
        if not self._is_continued_by(trials):
            self._clear()
        n_known = len(self.positions)
        _extend(self.positions, trials[n_known:])
        changed = [*(trials[t.number] for t in self._unfinished), *trials[n_known:]]
        self._unfinished = []
        for trial in changed:
            if not trial.state.is_finished():
                self._unfinished.append(trial)
                continue
            self._last = trial
            if trial.state != TrialState.FAIL:
                self._evaluated.append(trial)
            # A trial copied from a study with other objectives cannot be compared.
            if trial.state == TrialState.COMPLETE and len(trial.values) == len(self._directions):
                self._complete.append(score_trial(trial, self._directions))

    def _is_continued_by(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether the trials are the known ones and possibly more.

        The successor of a deleted study may have the same id in the storage.
        """
        if self._last is None or len(trials) < len(self.positions):
            return False
        same = trials[self._last.number]
        return same.state == self._last.state and (
            same._trial_id,
            same.datetime_complete,
        ) == (self._last._trial_id, self._last.datetime_complete)

    def derive(
        self, before: int, name: Hashable, make: Callable[[Sequence[ScoredTrial]], _Derived]
    ) -> _Derived:
        """Return a cached result from the complete trials with positions below ``before``.

        Args:
            before: First position of a generation.
            name: Cache key; each name belongs to one ``make``.
            make: Computes the result; called again if there are further such trials.
        """
        n_read, derived = self._derived.pop((before, name), (-1, None))
        if n_read < 0 or any(
            self.positions[s.trial.number] < before for s in self._complete[n_read:]
        ):
            derived = make([s for s in self._complete if self.positions[s.trial.number] < before])
        _cache(self._derived, (before, name), (len(self._complete), derived))
        return cast(_Derived, derived)

    def duplicates(
        self, names: tuple[str, ...], number: int
    ) -> Callable[[Mapping[str, Any]], bool]:
        """Return a function that tells whether a proposal repeats another trial.

        Failed trials are ignored, as their parameters may be evaluated again.

        Args:
            names: Parameters of a proposal.
            number: Number of the trial that the proposal is for.
        """
        n_read, keys = self._keys.pop(names, (0, set()))
        keys.update(_param_keys(self._evaluated[n_read:], names))
        _cache(self._keys, names, (len(self._evaluated), keys))
        running = set(_param_keys([t for t in self._unfinished if t.number != number], names))

        def is_duplicate(params: Mapping[str, Any]) -> bool:
            key = param_key(params, names)
            return key in keys or key in running

        return is_duplicate

    def space(self) -> dict[str, BaseDistribution]:
        """Return the distributions that all complete trials have in common, by name.

        The result is that of :class:`optuna.search_space.IntersectionSearchSpace`, which is bound
        to one study and copies each distribution for each trial.
        """
        n_read, space = self._space
        for scored in self._complete[n_read:]:
            others = scored.trial.distributions
            if space is None:
                space = dict(others)
            else:
                space = {n: d for n, d in space.items() if _equal(others.get(n), d)}
        self._space = len(self._complete), space
        return dict(sorted((space or {}).items()))


def _equal(one: BaseDistribution | None, other: BaseDistribution) -> bool:
    return one is other or one == other  # most storages share them, and comparison is slow


def _param_keys(trials: Iterable[FrozenTrial], names: tuple[str, ...]) -> Iterator[Hashable]:
    """Yield the keys of the trials that have all the parameters."""
    for trial in trials:
        if len(trial.params) >= len(names) and all(map(trial.params.__contains__, names)):
            yield param_key(trial.params, names)


def _cache(entries: dict[Any, Any], key: Any, value: Any, max_entries: int = _MAX_ENTRIES) -> None:
    """Append an entry and drop the least recently used ones."""
    entries[key] = value
    while len(entries) > max_entries:
        del entries[next(iter(entries))]


class Histories:
    """A thread-safe cache of the histories of the studies that a sampler used last.

    It may be cleared at any time. Copies and pickles of it are empty.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.add_trial(optuna.create_trial(value=0.0))
        >>> with Histories().read(study) as history:
        ...     history.positions
        [0]
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._by_storage: weakref.WeakKeyDictionary[BaseStorage, dict[int, History]]
        self._by_storage = weakref.WeakKeyDictionary()
        self._positions: dict[tuple[Any, ...], int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Histories, ()

    @contextmanager
    def read(self, study: Study) -> Iterator[History]:
        """Yield the updated history of a study, locked until the end of the block."""
        with self._lock:
            # All trials, as a study passed by a pruner with brackets lists only one bracket.
            trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
            histories = self._by_storage.setdefault(study._storage, {})
            history = histories.pop(study._study_id, None) or History(study.directions)
            history.update(trials)
            _cache(histories, study._study_id, history)
            yield history

    def position(self, study: Study, trial: FrozenTrial) -> int:
        """Return the position of a trial; read the study once per trial.

        The position never changes, so parameters of define-by-run spaces need no further read.
        """
        key = id(study._storage), trial._trial_id, trial.datetime_start
        with self._lock:
            if (position := self._positions.pop(key, None)) is None:
                with self.read(study) as history:
                    position = history.positions[trial.number]
            _cache(self._positions, key, position, max_entries=_MAX_RUNNING)
        return position
