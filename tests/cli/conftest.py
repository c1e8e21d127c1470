import re
import sys

import pytest
import typer

from glora_automl.cli import app, main
from tests.conftest import TINY

FAST = ("--n-trials", 3)
"""Options of a search that ends soon."""

COMMANDS = typer.main.get_command(app).commands
"""The commands, by name."""


def sets(**settings):
    """Return the options that change settings of a recipe."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def flags(command):
    """Return the flags of a command."""
    return {flag for param in COMMANDS[command].params for flag in param.opts if flag[:2] == "--"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the recipe ``tiny.toml``."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work/tiny.toml").write_text(TINY, encoding="utf-8")
    return tmp_path / "work"


@pytest.fixture
def glora(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, standard output and error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["glora", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def error(glora):
    """Runs a command that fails; returns the one line on standard error.

    The line has no traceback and no backticks, and its flags are those of the command.
    """

    def run(*arguments):
        code, out, err = glora(*arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith("Error: ")
        assert err.count("\n") == 1
        assert not re.search(r"`[\w.]+`", err)
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", err))
        assert named <= flags(arguments[0]), err
        return err

    return run


@pytest.fixture
def runs(finished_workspace):
    """A copy of the runs folder of the finished study ``tiny``."""
    return finished_workspace.folder
