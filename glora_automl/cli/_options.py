"""Options that several commands have, and the workspace that they make."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glora_automl._messages import short
from glora_automl._signals import StopOnSignal
from glora_automl.cli._output import FlagProgress, is_main_process, start_progress
from glora_automl.errors import RecipeError, Stopped

if TYPE_CHECKING:
    import optuna

__all__ = [
    "AsJson",
    "Budget",
    "Changes",
    "Data",
    "Device",
    "Margin",
    "Metric",
    "Model",
    "NTrials",
    "Quiet",
    "RecipeName",
    "Runs",
    "Seed",
    "Storage",
    "StudyName",
    "Timeout",
    "given",
    "integer",
    "number",
    "path",
    "read_timeout",
    "with_workspace",
]


def path(text: str | Path) -> Path:
    """Return the path in an option. An empty one is refused: it would be the current folder."""
    if not str(text):
        raise typer.BadParameter("must be a path, got ''; is a variable of the shell empty?")
    return Path(text)


def integer(text: str | int) -> int:
    """Return the integer in an option."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"must be an integer, got {short(text)}") from None


def number(text: str | float) -> float:
    """Return the number in an option."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number, got {short(text)}") from None


StudyName = Annotated[str, typer.Argument(help="Name of the study.")]
RecipeName = Annotated[
    str | None,
    typer.Argument(help="Name of a recipe, or path of a .toml file; with --data, own."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="GLORA_STORAGE",
        help="URL of a database, or path of a journal file (.log); by default SQLite in the runs "
        "folder.",
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        help="A timm model with its pretrained weights, or NAME=FILE with a local checkpoint. Of "
        "several (repeated, with commas, or a .txt file) or auto, auto-small, auto-large: the best."
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting of the recipe, such as task.shots=4; repeatable."),
]
Budget = Annotated[str | None, typer.Option(help="Trainable parameters: 12000, 12k, 0.3M or 1%.")]
Margin = Annotated[
    float | None,
    typer.Option(
        parser=number,
        help="Points of accuracy that a smaller adapter may lose: take the smallest.",
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="Stands beside the accuracy; with held-out images it selects the adapter: accuracy, "
        "balanced_accuracy, macro_f1, auroc, log_loss or kappa."
    ),
]
Seed = Annotated[int | None, typer.Option(parser=integer, help="Seed of all randomness.")]
Runs = Annotated[
    Path,
    typer.Option(
        envvar="GLORA_RUNS",
        parser=path,
        help="Folder for database, artifacts and checkpoints.",
    ),
]
NTrials = Annotated[
    int | None, typer.Option(parser=integer, help="Complete trials to reach, of all workers.")
]
Timeout = Annotated[
    str | None,
    typer.Option(
        help="Time until the search ends, such as 1h, 90m, 1h30m or 30s, counted from now. "
        "Selection, refit and test come on top."
    ),
]
Device = Annotated[str, typer.Option(envvar="GLORA_DEVICE", help="auto, cpu, cuda, ...")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Your images: a folder with one folder per class, .npz, or a .csv of paths and labels."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]

_WORKSPACE: dict[str, tuple[Any, Any]] = {
    "data": (Data, None),
    "storage": (Storage, None),
    "artifacts": (
        Annotated[
            str | None,
            typer.Option(
                envvar="GLORA_ARTIFACTS",
                help="Folder or s3://bucket/prefix for supernet and winner; by default the "
                "study's, or in the runs folder.",
            ),
        ],
        None,
    ),
    "device": (Device, "auto"),
    "runs": (Runs, Path("runs")),
    "heartbeat": (
        Annotated[
            float,
            typer.Option(
                parser=number, help="Seconds between a worker's heartbeats, for a new study."
            ),
        ],
        10.0,
    ),
    "patience": (
        Annotated[
            float,
            typer.Option(
                parser=number, help="Seconds to wait for a database that does not answer."
            ),
        ],
        300.0,
    ),
    "quiet": (Quiet, False),
    "log_file": (
        Annotated[
            Path | None,
            typer.Option(help="Append the log to this file, even with --quiet."),
        ],
        None,
    ),
    "log_format": (
        Annotated[str, typer.Option(help="text or json, of all log files.")],
        "text",
    ),
    "track": (
        Annotated[
            list[str] | None,
            typer.Option(help="Record with mlflow, wandb or tensorboard, too; repeatable."),
        ],
        None,
    ),
}
"""Options of a workspace: annotation and default."""


def with_workspace(*, leave_out: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Any]:
    """Replace a command's argument ``workspace`` by the options that make it.

    SIGINT and SIGTERM stop the command at its next safe point.

    Args:
        leave_out: Options of a workspace that the command does not have.
    """
    names = [name for name in _WORKSPACE if name not in leave_out]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != "workspace"]
        options = [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=_WORKSPACE[name][1],
                annotation=_WORKSPACE[name][0],
            )
            for name in names
        ]

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            fields = {name: values.pop(name) for name in names}
            log_file, track = fields.pop("log_file"), fields.pop("track", None)
            _check_log_format(fields["log_format"])
            shown = start_progress(fields.pop("quiet"))
            from glora_automl.pipeline import Workspace
            from glora_automl.progress import LogProgress, log_to_file

            fields["progress"] = FlagProgress([shown, LogProgress()])
            fields["trackers"] = _trackers(track or ())
            written = (
                nullcontext()
                if log_file is None or not is_main_process()
                else log_to_file(log_file, fields["log_format"])
            )
            with written, stoppable() as stop:
                workspace = Workspace(stop=stop, publish=_publish, **fields)
                command(**values, workspace=workspace)

        wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *options]
        )
        wrapper.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
        del wrapper.__wrapped__  # typer would read the options of the command itself
        return wrapper

    return decorate


def _check_log_format(kind: str) -> None:
    if kind not in ("text", "json"):
        raise RecipeError(
            f"`log_format` must be text or json, got {short(kind)}. Correct `log_format`."
        )


def _trackers(names: Sequence[str]) -> list[Any]:
    """Open the trackers, in one process of those that torchrun started."""
    if not names or not is_main_process():
        return []
    from glora_automl.trackers import open_tracker

    return [open_tracker(name) for name in dict.fromkeys(names)]


def _publish(study: optuna.Study) -> None:
    """Write note and pictures; :mod:`glora_automl.report` is imported at the first call."""
    from glora_automl.report import publish

    publish(study)


@contextmanager
def stoppable() -> Iterator[StopOnSignal]:
    """Stop at a safe point after a signal, with the exit code that shells give it."""

    def log(text: str) -> None:
        typer.echo(text, err=True)

    again = "Interrupted: run the same command again to continue."
    with StopOnSignal(log) as stop:
        try:
            yield stop
        except Stopped:
            log(again)
            raise typer.Exit(128 + (stop.received or 0)) from None
        except KeyboardInterrupt:
            log(again)
            raise


def read_timeout(text: str | None) -> float | None:
    """Return the seconds of a time limit.

    Raises:
        RecipeError: If the text is no time.
    """
    from glora_automl.progress import parse_duration

    seconds = None if text is None else parse_duration(text)
    if text is not None and seconds is None:
        raise RecipeError(
            f"timeout must be a time such as 1h, 90m, 1h30m, 30s or a number of seconds, got "
            f"{short(text)}. Correct `timeout`."
        )
    return seconds


def given(**options: Any) -> dict[str, Any]:
    """Return the options with a value."""
    return {key: value for key, value in options.items() if value is not None}
