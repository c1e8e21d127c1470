"""The command line, one file per command.

torch and Optuna are imported inside the commands, so that ``glora --help`` answers at once.
"""

from glora_automl.cli._main import EXIT_CODES, app, main

__all__ = ["EXIT_CODES", "app", "main"]
