"""The command line's entry point: commands, and errors as one line."""

from __future__ import annotations

import re
import sys

import typer

from glora_automl.cli import (
    _architecture,
    _compare,
    _dashboard,
    _export,
    _layers,
    _lists,
    _predict,
    _report,
    _resume,
    _search,
    _select,
    _show,
    _status,
    _suite,
    _train,
)
from glora_automl.errors import GLoRAError

__all__ = ["app", "main"]

app = typer.Typer(
    name="glora",
    help="AutoML for adapters: search GLoRA adapters under a parameter budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    _search.search,
    _train.train,
    _resume.resume,
    _select.select,
    _compare.compare,
    _export.export,
    _predict.predict,
    _suite.suite,
    _status.status,
    _show.show,
    _architecture.architecture,
    _report.report,
    _dashboard.dashboard,
    _lists.recipes,
    _lists.spaces,
    _lists.suites,
    _layers.layers,
):
    app.command()(command)

_ARGUMENT = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)`")


def main() -> None:
    """Run the command line. Invalid input ends it with one line and exit code 2."""
    try:
        app()
    except GLoRAError as error:
        typer.echo(f"Error: {with_flags(str(error), _options())}", err=True)
        sys.exit(2)


def with_flags(message: str, options: dict[str, str]) -> str:
    """Return a message with the flags of the arguments that it names in backticks.

    Args:
        message: Message of the library.
        options: Flags of the running command, by argument.

    Example:
        >>> options = {"n_trials": "--n-trials", "changes": "--set"}
        >>> with_flags("Lower `n_trials`, or raise `training.lr`.", options)
        'Lower --n-trials, or raise --set training.lr=....'
        >>> with_flags("Choose another `trial`.", options)
        'Choose another trial.'
    """

    def flag(match: re.Match[str]) -> str:
        name = match.group(1)
        if name in options:
            return options[name]
        return f"--set {name}=..." if "." in name and "changes" in options else name

    return _ARGUMENT.sub(flag, message)


def _options() -> dict[str, str]:
    """Return the flags of the running command by argument; none before a command is known."""
    commands = getattr(typer.main.get_command(app), "commands", {})
    command = next((commands[word] for word in sys.argv[1:2] if word in commands), None)
    if command is None:
        return {}
    flags = {p.name: p.opts[0] for p in command.params if p.param_type_name == "option"}
    return flags | ({"set": flags["changes"]} if "changes" in flags else {})
