"""Architectures of a study: of its winner, its best trial or any trial."""

from __future__ import annotations

import optuna

from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.samplers import DONE
from glora_automl.study._load import get_attribute, read_space
from glora_automl.study._ranking import best_trials
from glora_automl.study._result import Selection

__all__ = ["find_architecture", "parse_trial"]


def parse_trial(text: str) -> int | None:
    """Return the number of a trial; None for ``best``.

    Raises:
        StudyError: If the text is neither.

    Example:
        >>> parse_trial("12"), parse_trial("best")
        (12, None)
    """
    if text == "best":
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise StudyError(f"trial must be best or a number, got {text[:40]!r}. Correct `trial`.")
    return int(text)


def find_architecture(
    study: optuna.Study, trial: int | None = None
) -> tuple[int | None, Architecture]:
    """Return a trial's architecture, or the best one, with the number of its trial.

    A selected preset has no trial. Reads nothing but the storage.

    Args:
        study: A study of this package.
        trial: Number of a trial. None takes the winner, before the selection the best trial.

    Raises:
        StudyError: If the trial does not exist or was not evaluated.
    """
    name = study.study_name
    selection = get_attribute(study, "selection")
    if trial is None and selection is not None:
        record = Selection.from_json(selection)
        return record.trial, Architecture.parse(record.architecture)
    space = read_space(study)
    if trial is None:
        best = best_trials(study, 1)
        if not best:
            raise StudyError(
                f"The study {name!r} must have a complete trial within its budget, got none. Run "
                f"'glora resume {name}'."
            )
        return best[0].number, space.architecture(best[0].params)
    trials = study.get_trials(deepcopy=False)
    if not 0 <= trial < len(trials):
        known = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise StudyError(f"trial must be one of the study {name!r} ({known}), got {trial}.")
    found = trials[trial]
    if found.state not in DONE:
        raise StudyError(
            f"trial must be evaluated, got number {trial} of the study {name!r}, which is "
            f"{found.state.name.lower()}. Choose another `trial`."
        )
    return trial, space.architecture(found.params)
