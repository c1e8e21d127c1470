"""The architecture that a study has chosen, or that one of its trials has."""

from __future__ import annotations

import optuna

from glora_automl.architecture import Architecture
from glora_automl.errors import StudyError
from glora_automl.samplers import DONE
from glora_automl.study._ranking import best_trials
from glora_automl.study._study import get_attribute, read_space

__all__ = ["find_architecture", "parse_trial"]


def parse_trial(text: str) -> int | None:
    """The number of a trial, as the command line takes it; None for ``best``.

    Raises:
        StudyError: If it is neither.

    Example:
        >>> parse_trial("12"), parse_trial("best")
        (12, None)
    """
    if text == "best":
        return None
    if not (text.isascii() and text.isdecimal()):
        raise StudyError(f"--trial must be best or the number of a trial, got {text!r}.")
    return int(text)


def find_architecture(
    study: optuna.Study, trial: int | None = None
) -> tuple[int | None, Architecture]:
    """The architecture of a trial, or the best one, with the number of its trial.

    A winner that is a control has none.

    Nothing but the storage is needed.

    Args:
        study: A study of ours.
        trial: Number of a trial; None takes the winner, or where none is chosen yet the best trial
            so far.

    Raises:
        StudyError: If there is no such trial, or it was not evaluated.
    """
    name = study.study_name
    selection = get_attribute(study, "selection")
    if trial is None and selection is not None:
        return selection["trial"], Architecture.parse(selection["architecture"])
    space = read_space(study)
    if trial is None:
        best = best_trials(study, 1)
        if not best:
            raise StudyError(
                f"The study {name!r} must have a complete trial within its budget; run 'glora "
                f"resume {name}'."
            )
        return best[0].number, space.architecture(best[0].params)
    trials = study.get_trials(deepcopy=False)
    if not 0 <= trial < len(trials):
        known = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise StudyError(f"The trial must be one of the study {name!r}, {known}, got {trial}.")
    found = trials[trial]
    if found.state not in DONE:
        raise StudyError(
            f"The trial must be one that was evaluated, number {trial} of the study {name!r} is "
            f"{found.state.name.lower()}; 'glora show {name}' names good ones."
        )
    return trial, space.architecture(found.params)
