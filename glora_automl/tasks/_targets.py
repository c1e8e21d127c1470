"""Labels that are the numbers of a regression."""

from __future__ import annotations

import numpy as np

from glora_automl._messages import short
from glora_automl.errors import TaskError

__all__ = ["check_targets"]

MAX_NUMBERS = 20
"""Different texts of numbers, some not whole, up to which they are taken for classes."""


def check_targets(what: str, labels: np.ndarray) -> None:
    """Check that labels are classes.

    Floats that are not whole numbers are those of a regression, as in scikit-learn. So are texts
    of numbers, some not whole, of more than ``MAX_NUMBERS`` different values.

    Args:
        what: Name of the labels, for the message.
        labels: Labels ``(n,)``.

    Raises:
        TaskError: If they are numbers of a regression.

    Example:
        >>> check_targets("y_train", np.array([1.0, 2.0]))
        >>> check_targets("y_train", np.array([0.5, 0.25, 3.0]))
        Traceback (most recent call last):
        glora_automl.errors.TaskError: y_train must be classes, got 3 different numbers such as ...
    """
    distinct, limit = np.unique(labels), 0
    if distinct.dtype.kind in "US":
        limit = MAX_NUMBERS
        try:
            numbers = distinct.astype(np.float64)
        except ValueError:
            return
    elif distinct.dtype.kind == "f":
        numbers = distinct
    else:
        return
    with np.errstate(invalid="ignore"):
        parts = distinct[numbers % 1 != 0]
    if len(distinct) > limit and len(parts):
        raise TaskError(
            f"{what} must be classes, got {len(distinct):,} different numbers such as "
            f"{short(str(parts[0]), 20)}: regression is not supported. Write classes, such as "
            "ranges of the numbers, or name other labels."
        )
