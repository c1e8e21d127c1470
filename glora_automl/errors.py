"""The exceptions of the package.

::

    GLoRAError
    ├── ArchitectureError   text that is no architecture, a choice a tensor does not allow
    ├── SearchSpaceError    a search space that is misspelt or does not fit the model
    ├── BudgetError         a budget that is misspelt or that nothing satisfies
    ├── LayerError          a layer that is not there or cannot be adapted
    ├── RecipeError         a recipe that is not found, misspelt or contradicts its study
    ├── TaskError           images or a backbone that cannot be had
    ├── TrainingError       a training that went wrong, such as a loss that is no number
    ├── CheckpointError     a checkpoint that is missing, altered or not ours
    ├── StorageError        a storage that cannot be opened or written
    ├── StudyError          a study that is missing, busy, finished or not ours
    ├── ReportError         a report or a dashboard that cannot be made or shown
    └── ExportError         an export that cannot be made, read or used

    Stopped                 no error: work that stops at a safe point because it was asked to

Every message names the argument, the rule, the value that was got and the way out. The command
line prints it as one line and exits with code 2.
"""

__all__ = [
    "ArchitectureError",
    "BudgetError",
    "CheckpointError",
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
    """Base of every exception that this package raises on purpose."""


class ArchitectureError(GLoRAError, ValueError):
    """Text that is no architecture, or a choice that a support tensor does not allow."""


class SearchSpaceError(GLoRAError, ValueError):
    """A search space that is misspelt or does not fit the model."""


class BudgetError(GLoRAError, ValueError):
    """A budget that is misspelt or that no architecture satisfies."""


class LayerError(GLoRAError, ValueError):
    """A layer that is not there or that cannot be adapted."""


class RecipeError(GLoRAError, ValueError):
    """A recipe that is not found, misspelt, or that contradicts its study."""


class TaskError(GLoRAError, ValueError):
    """Images or a backbone that cannot be had."""


class TrainingError(GLoRAError, RuntimeError):
    """A training that went wrong, such as a loss that is no number."""


class CheckpointError(GLoRAError, RuntimeError):
    """A checkpoint that is missing, altered or not ours."""


class StorageError(GLoRAError, RuntimeError):
    """A storage or a folder that cannot be opened or written."""


class StudyError(GLoRAError, RuntimeError):
    """A study that is missing, busy, finished or not ours."""


class ReportError(GLoRAError, RuntimeError):
    """A report or a dashboard that cannot be made or shown."""


class ExportError(GLoRAError, RuntimeError):
    """An export that cannot be made, read or used."""


class Stopped(BaseException):
    """Raised where work stops at a safe point because the user or the system asked for it.

    Outside the tree, like ``KeyboardInterrupt``: what catches errors must not catch it.
    """
