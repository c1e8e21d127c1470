"""What a sampler has read of a study: each finished trial once, and nothing that could get old."""

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

from glora_automl.samplers._ranking import Scored, identity, score

__all__ = ["DONE", "Histories", "History", "trial_positions"]

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that were evaluated."""

_Derived = TypeVar("_Derived")

_KEPT = 4
"""How many studies, spaces and generations are remembered: those in use at the same time."""

_WORKERS = 64
"""How many running trials are remembered."""


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
        >>> for attributes in ({}, {"failed_trial": 0}, {}):
        ...     study.add_trial(optuna.create_trial(state=TrialState.FAIL, system_attrs=attributes))
        >>> trial_positions(study.trials)
        [0, 0, 1]
    """
    positions: list[int] = []
    _extend(positions, trials)
    return positions


def _extend(positions: list[int], trials: Iterable[FrozenTrial]) -> None:
    """Append the positions of the trials that follow."""
    following = max(positions, default=-1) + 1
    for trial in trials:
        original = trial.system_attrs.get("failed_trial")
        # A trial that was copied from another study may name one that is not here.
        if isinstance(original, int) and 0 <= original < len(positions):
            positions.append(positions[original])
        else:
            positions.append(following)
            following += 1


class History:
    """The trials of one study at the last look.

    Everything in it follows from the trials alone; a history that is made anew from them says the
    same. Finished trials never change, so what was derived from them is kept, whatever the order
    in which they finish; unfinished ones are looked at each time.

    Args:
        directions: Those of the study.
    """

    def __init__(self, directions: Sequence[StudyDirection]) -> None:
        self._directions = directions
        self._clear()

    def _clear(self) -> None:
        self.positions: list[int] = []
        self._unfinished: list[FrozenTrial] = []
        self._finished: list[FrozenTrial] = []  # without the failed ones, as they were found
        self._complete: list[Scored] = []
        self._last: FrozenTrial | None = None
        self._seen: dict[tuple[str, ...], tuple[int, set[Hashable]]] = {}
        self._derived: dict[tuple[int, Hashable], tuple[int, Any]] = {}
        self._space: tuple[int, dict[str, BaseDistribution] | None] = (0, None)

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Look at the study again.

        Args:
            trials: All its trials, by number.
        """
        if not self._continues_with(trials):
            self._clear()
        known = len(self.positions)
        _extend(self.positions, trials[known:])
        looked_at = [*(trials[t.number] for t in self._unfinished), *trials[known:]]
        self._unfinished = []
        for trial in looked_at:
            if not trial.state.is_finished():
                self._unfinished.append(trial)
                continue
            self._last = trial
            if trial.state != TrialState.FAIL:
                self._finished.append(trial)
            # A trial copied from a study with other objectives cannot be compared.
            if trial.state == TrialState.COMPLETE and len(trial.values) == len(self._directions):
                self._complete.append(score(trial, self._directions))

    def _continues_with(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether these are the trials that are known, and perhaps more.

        A study that was deleted may have a successor with the same number in the storage.
        """
        if self._last is None or len(trials) < len(self.positions):
            return False
        same = trials[self._last.number]
        return same.state == self._last.state and (
            same._trial_id,
            same.datetime_complete,
        ) == (self._last._trial_id, self._last.datetime_complete)

    def derive(
        self, before: int, name: Hashable, make: Callable[[Sequence[Scored]], _Derived]
    ) -> _Derived:
        """Something that follows from the complete trials with positions below ``before``.

        Args:
            before: The first position of a generation.
            name: What it is; the same name stands for the same ``make``.
            make: Makes it of those trials; called again only if there are others by now.
        """
        looked, derived = self._derived.pop((before, name), (-1, None))
        if looked < 0 or any(
            self.positions[s.trial.number] < before for s in self._complete[looked:]
        ):
            derived = make([s for s in self._complete if self.positions[s.trial.number] < before])
        _remember(self._derived, (before, name), (len(self._complete), derived))
        return cast(_Derived, derived)

    def seen(self, names: tuple[str, ...], number: int) -> Callable[[Mapping[str, Any]], bool]:
        """Which proposals other trials have: all but failed ones, which may be tried again.

        Args:
            names: The parameters of a proposal.
            number: The trial for which it is made; it is no other one.

        Returns:
            A function that tells whether a proposal was seen.
        """
        looked, keys = self._seen.pop(names, (0, set()))
        keys.update(_identities(self._finished[looked:], names))
        _remember(self._seen, names, (len(self._finished), keys))
        now = set(_identities([t for t in self._unfinished if t.number != number], names))

        def is_seen(params: Mapping[str, Any]) -> bool:
            key = identity(params, names)
            return key in keys or key in now

        return is_seen

    def space(self) -> dict[str, BaseDistribution]:
        """The distributions that all complete trials have in common, by name.

        The same as :class:`optuna.search_space.IntersectionSearchSpace`, without its bond to one
        study and its copy of each distribution for each trial.
        """
        looked, space = self._space
        for scored in self._complete[looked:]:
            theirs = scored.trial.distributions
            if space is None:
                space = dict(theirs)
            else:
                space = {n: d for n, d in space.items() if _same(theirs.get(n), d)}
        self._space = len(self._complete), space
        return dict(sorted((space or {}).items()))


def _same(one: BaseDistribution | None, other: BaseDistribution) -> bool:
    return one is other or one == other  # most storages share them, and comparing takes long


def _identities(trials: Iterable[FrozenTrial], names: tuple[str, ...]) -> Iterator[Hashable]:
    """The keys of those trials that have all the parameters."""
    for trial in trials:
        if len(trial.params) >= len(names) and all(map(trial.params.__contains__, names)):
            yield identity(trial.params, names)


def _remember(kept: dict[Any, Any], key: Any, value: Any, most: int = _KEPT) -> None:
    """Put in the end; forget what was not used for longest."""
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]


class Histories:
    """The histories of the studies that a sampler has worked on last, for any number of threads.

    It may be emptied at any time; copies and pickles of it are empty.

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
        self._kept: weakref.WeakKeyDictionary[BaseStorage, dict[int, History]]
        self._kept = weakref.WeakKeyDictionary()
        self._recent: dict[tuple[Any, ...], int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Histories, ()

    @contextmanager
    def read(self, study: Study) -> Iterator[History]:
        """Look at a study. Until the end of the block no other thread does."""
        with self._lock:
            # All trials, where a pruner's bracket would show its own ones only: positions are
            # those of the study, and complete trials can be compared whatever bracket they were in.
            trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
            histories = self._kept.setdefault(study._storage, {})
            history = histories.pop(study._study_id, None) or History(study.directions)
            history.update(trials)
            _remember(histories, study._study_id, history)
            yield history

    def position(self, study: Study, trial: FrozenTrial) -> int:
        """Where a trial stands; looks at the study only if it has not for this trial.

        It never changes, so define-by-run spaces do not pay for a look at each parameter.
        """
        key = id(study._storage), trial._trial_id, trial.datetime_start
        with self._lock:
            if (position := self._recent.pop(key, None)) is None:
                with self.read(study) as history:
                    position = history.positions[trial.number]
            _remember(self._recent, key, position, most=_WORKERS)
        return position
