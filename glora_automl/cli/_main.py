"""The command line's entry point: commands, and errors as one line."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from glora_automl._messages import hide, one_line, printable, redact, shorten
from glora_automl._version import __version__
from glora_automl.cli import (
    _architecture,
    _compare,
    _dashboard,
    _doctor,
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
from glora_automl.cli._flags import with_flags
from glora_automl.errors import GLoRAError

__all__ = ["EXIT_CODES", "app", "main"]

app = typer.Typer(
    name="glora",
    help="AutoML for adapters: search GLoRA adapters under a parameter budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"glora {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


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
    _doctor.doctor,
):
    app.command()(command)

UNEXPECTED = 70
"""Exit code of an error of the program itself, as in sysexits.h."""

EXIT_CODES = {
    0: "The command has done its work.",
    1: "`glora doctor` found a failure, or the reader of standard output has ended.",
    2: "The input is wrong. One line on standard error says what must hold.",
    UNEXPECTED: "The program has an error. The line names a file with the traceback.",
    130: "Ctrl-C stopped the command. Repeat it to continue.",
    143: "SIGTERM stopped the command at a safe point. Repeat it to continue.",
}
"""How a command may end."""

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""The base of click's errors, which some versions of typer bring along."""


def main() -> None:
    """Run the command line.

    Invalid input ends it with one line and exit code 2. An error of the program itself is one line,
    too: its traceback is in a file, and the exit code is 70.
    """
    sys.exit(_run())


def _run() -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            # Names from outside may have characters that the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for argument in sys.argv[1:]:
        hide(argument)
    try:
        with _printed_warnings():
            code: int | None = typer.main.get_command(app).main(standalone_mode=False)
        sys.stdout.flush()
    except GLoRAError as error:
        return _fail(with_flags(str(error)), 2)
    except _USAGE_ERROR as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if _is_output(error):
            return _lost_output(error)
        return _fail(_unexpected(error), UNEXPECTED)
    return code or 0


class _Printer(logging.Handler):
    """Prints records on standard error, above a live display."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            typer.echo(shorten(printable(redact(record.getMessage()))), err=True)


@contextlib.contextmanager
def _printed_warnings() -> Iterator[None]:
    """Print the warnings of the package inside the block, such as a wait for the database."""
    logger, printer = logging.getLogger("glora_automl"), _Printer(logging.WARNING)
    logger.addHandler(printer)
    try:
        yield
    finally:
        logger.removeHandler(printer)


def _fail(message: str, code: int) -> int:
    """Print a message as one line and return the exit code."""
    line = f"Error: {printable(redact(message))}"
    with contextlib.suppress(OSError):
        typer.echo(shorten(line), err=True)
    with contextlib.suppress(OSError):
        sys.stdout.flush()  # what was printed before
    return code


_INVALID = re.compile(r"^Invalid value for '(--[\w-]+)'(?: \(env var: [^)]*\))?: must ")


def _usage(error: Any) -> int:
    """Print why the arguments are no command; without any arguments, the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    message = _INVALID.sub(r"\1 must ", str(error.format_message())).strip()
    message += "" if message.endswith((".", "?")) else "."
    command = "glora" if error.ctx is None else error.ctx.command_path
    return _fail(f"{message} Try '{shorten(command, 60)} --help'.", 2)


def _is_output(error: Exception) -> bool:
    """Return whether standard output cannot be written; errors of files have a name."""
    return isinstance(error, OSError) and error.filename is None and error.errno in _OUTPUT


_OUTPUT = (errno.ENOSPC, errno.EPIPE, errno.EIO, errno.EDQUOT, errno.EFBIG)


def _lost_output(error: Exception) -> int:
    assert isinstance(error, OSError)
    with contextlib.suppress(OSError, ValueError):
        # The interpreter writes the rest of the buffer when it ends, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return 1  # the reader, such as head, has seen enough
    return _fail(
        f"Standard output must be writable, got: {error.strerror}. Free disk space, or write the "
        "output elsewhere.",
        2,
    )


def _unexpected(error: Exception) -> str:
    """Return the message for an error of the program, whose traceback is in the file it names."""
    text = "".join(traceback.format_exception(error))
    report = (
        f"glora_automl {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{shlex.join(['glora', *sys.argv[1:]])}\n\n{text}"
    )
    what = f"an unexpected {type(error).__name__} ({shorten(one_line(error), 120)})"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="glora-error-", suffix=".txt", delete=False,
            encoding="utf-8", errors="backslashreplace",
        ) as file:  # fmt: skip
            file.write(redact(report))
    except OSError:
        return f"{what} ended the command. Please report it to the authors."
    return f"{what} ended the command. Please report it with the file {file.name}"
