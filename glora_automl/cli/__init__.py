"""The command line."""

from glora_automl.cli._app import app, main

__all__ = ["app", "main"]
