"""Progress of long work: a live display on a terminal, or plain lines."""

from glora_automl.progress._blocks import shade
from glora_automl.progress._group import ProgressGroup
from glora_automl.progress._lines import LineProgress
from glora_automl.progress._logging import LogFormat, LogProgress, log_to_file
from glora_automl.progress._pace import duration, parse_duration
from glora_automl.progress._progress import Advance, Progress
from glora_automl.progress._state import ParameterGrid, SearchState
from glora_automl.progress._terminal import TerminalProgress

__all__ = [
    "Advance",
    "LineProgress",
    "LogFormat",
    "LogProgress",
    "ParameterGrid",
    "Progress",
    "ProgressGroup",
    "SearchState",
    "TerminalProgress",
    "duration",
    "log_to_file",
    "parse_duration",
    "shade",
]
