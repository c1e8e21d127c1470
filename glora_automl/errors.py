"""The exceptions of the package.

::

    GLoRAError
    ├── ArchitectureError   a malformed architecture, or a choice that a layer cannot have
    ├── SearchSpaceError    a malformed search space, or one that does not fit the model
    ├── BudgetError         a malformed budget, or one that no architecture satisfies
    ├── LayerError          a layer that is missing or cannot be adapted
    ├── RecipeError         a recipe that is missing, malformed or contradicts its study
    ├── TaskError           images or a backbone that cannot be loaded
    ├── TrainingError       a training that failed
    │   └── DivergenceError one whose loss or weights are not finite, or that collapsed
    ├── CheckpointError     a checkpoint that is missing, altered or foreign
    ├── StorageError        a storage or folder that cannot be opened or written
    ├── StudyError          a study that is missing, busy, finished or foreign
    ├── ReportError         a report or dashboard that cannot be created or served
    └── ExportError         an export that cannot be created, read or used

    Stopped                 not an error: work that stops at a safe point on request

Every message is one line of this form, with a hint in the imperative::

    <argument> must be <rule>, got <value>. <hint>

A long one is cut in its middle to 300 characters, and passwords are left out.

The hint names arguments in backticks, such as ``Lower `training.lr`.``, and never a command-line
flag. The command line prints the message with its own flags and exits with code 2.
"""

from glora_automl._messages import printable, redact, shorten

__all__ = [
    "ArchitectureError",
    "BudgetError",
    "CheckpointError",
    "DivergenceError",
    "ExportError",
    "GLoRAError",
    "LayerError",
    "RecipeError",
    "ReportError",
    "SearchSpaceError",
    "Stopped",
    "StorageError",
    "StudyError",
    "TaskError",
    "TrainingError",
]


class GLoRAError(Exception):
    """Base of every exception that this package raises on purpose.

    Args:
        message: The message, which may contain any text from outside.

    Example:
        >>> text = str(GLoRAError("The name must be short, got " + 1000 * "x" + ". Shorten it."))
        >>> len(text) <= 300, text[-11:]
        (True, 'Shorten it.')
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(shorten(printable(redact(str(message)))))


class ArchitectureError(GLoRAError, ValueError):
    """A malformed architecture, or a choice that a layer cannot have."""


class SearchSpaceError(GLoRAError, ValueError):
    """A malformed search space, or one that does not fit the model."""


class BudgetError(GLoRAError, ValueError):
    """A malformed budget, or one that no architecture satisfies."""


class LayerError(GLoRAError, ValueError):
    """A layer that is missing or cannot be adapted."""


class RecipeError(GLoRAError, ValueError):
    """A recipe that is missing, malformed or contradicts its study."""


class TaskError(GLoRAError, ValueError):
    """Images or a backbone that cannot be loaded."""


class TrainingError(GLoRAError, RuntimeError):
    """A training that failed, such as a loss that is not finite."""


class DivergenceError(TrainingError):
    """A training whose loss or weights are not finite, or that collapsed.

    Attributes:
        n_images: Images of its training steps, with those of earlier attempts.
        seconds: Its wall time, likewise.
    """

    def __init__(self, message: str, n_images: int = 0, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.n_images = n_images
        self.seconds = seconds


class CheckpointError(GLoRAError, RuntimeError):
    """A checkpoint that is missing, altered or foreign."""


class StorageError(GLoRAError, RuntimeError):
    """A storage or folder that cannot be opened or written."""


class StudyError(GLoRAError, RuntimeError):
    """A study that is missing, busy, finished or foreign."""


class ReportError(GLoRAError, RuntimeError):
    """A report or dashboard that cannot be created or served."""


class ExportError(GLoRAError, RuntimeError):
    """An export that cannot be created, read or used."""


class Stopped(BaseException):
    """Raised where work stops at a safe point because a user or scheduler asked for it.

    It is outside the tree, like ``KeyboardInterrupt``, so that no error handler catches it.
    """
