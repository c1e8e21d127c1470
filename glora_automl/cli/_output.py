"""Output of the commands: results on standard output, progress on standard error."""

from __future__ import annotations

import importlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from glora_automl._messages import hide, printable, redact, shorten
from glora_automl.cli._flags import with_flags
from glora_automl.progress import ProgressGroup

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from rich.console import Console

    from glora_automl.commands import SearchResult
    from glora_automl.export import Export, Predictions
    from glora_automl.pipeline import Workspace
    from glora_automl.progress import Progress
    from glora_automl.study import Comparison

__all__ = [
    "READ_PATIENCE",
    "FlagProgress",
    "best_text",
    "is_main_process",
    "open_to_read",
    "out_console",
    "print_classes",
    "print_comparison",
    "print_export",
    "print_found",
    "print_json",
    "print_list",
    "print_predictions",
    "print_study",
    "print_summary",
    "start_progress",
    "storage_url",
]


READ_PATIENCE = 10
"""Seconds to wait for a database that is only read: a person or a browser asks again."""


class FlagProgress(ProgressGroup):
    """Displays of a progress whose lines have flags in place of arguments, as errors have."""

    def log(self, text: str) -> None:
        """See :meth:`ProgressGroup.log`."""
        super().log(with_flags(text) if "`" in text else text)


def best_text(summary: dict[str, Any]) -> str:
    """Return the best trial of a study's summary, if there is one."""
    from glora_automl.progress import SearchState

    best = summary["best"]
    if best is None:
        return "–"
    objective = summary["recipe"]["search"]["objectives"][0]
    if objective == "metric":
        objective = summary["metric"].replace("_", " ")
    state = SearchState(best["value"], objective, best["n_params"])
    return f"{state.best_text}{state.size_text}"


def storage_url(storage: str | None, runs: Path) -> str:
    """Return the given storage, or that of the runs folder."""
    from glora_automl.storages import default_url

    return storage or default_url(runs)


def open_to_read(storage: str | None, runs: Path) -> BaseStorage:
    """Open the given storage, or that of the runs folder, for a command that only reads.

    Raises:
        StorageError: If it cannot be opened.
    """
    from glora_automl.storages import open_storage

    url = storage_url(storage, runs)
    return open_storage(url, create=False, write=False, patience=READ_PATIENCE)


def is_main_process() -> bool:
    """Return whether this is the process that prints, of those that torchrun started."""
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK", "0") == "0"


_LIBRARIES = ("torch", "timm", "sklearn.model_selection", "optuna", "glora_automl.commands")


def start_progress(quiet: bool) -> Progress:
    """Return a live view on a terminal, plain lines elsewhere; both on standard error.

    A terminal also shows the import of the libraries, which takes seconds.
    """
    from rich.console import Console

    from glora_automl.progress import LineProgress, Progress, TerminalProgress

    if quiet or not is_main_process():
        return Progress()
    console = Console(stderr=True, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        terminal = TerminalProgress(console)
        if missing := [name for name in _LIBRARIES if name not in sys.modules]:
            with terminal.stage("Load", len(missing), "libraries") as advance:
                for name in missing:
                    importlib.import_module(name)
                    advance(1)
        return terminal
    return LineProgress(lambda line: print(shorten(printable(line)), file=sys.stderr, flush=True))


def out_console() -> Console:
    """Return a console on standard output; names from outside are no markup."""
    from rich.console import Console

    return Console(markup=False, emoji=False)


def print_json(value: object) -> None:
    """Print a JSON document, in ASCII where the terminal's encoding has not all characters."""
    everything = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not everything))


def print_list(descriptions: dict[str, str], as_json: bool) -> None:
    """Print names with their descriptions."""
    if as_json:
        print_json(descriptions)
        return
    width = max(map(len, descriptions), default=0)
    for name, description in descriptions.items():
        typer.echo(f"{name:<{width}}  {description}")


def print_found(result: SearchResult, workspace: Workspace, as_json: bool) -> None:
    """Print the result of a search."""
    from glora_automl.storages import storage_errors
    from glora_automl.study import summarize

    if not is_main_process():
        return
    with storage_errors():
        summary = summarize(result.study)
    if as_json:
        print_json(summary)
        return
    _print_result(summary)
    _print_preset(result, summary)
    location = workspace.storage_location
    typer.echo(f"Winner: {workspace.folder / summary['study'] / 'winner.json'}")
    if isinstance(location, str):
        typer.echo(f"Study:  glora dashboard --storage {_shell_word(location)}")


def _shell_word(location: str) -> str:
    """Return a storage as a word of a shell, which shows no password."""
    hide(location)
    if redact(location) == location:
        return shlex.quote(location)
    known = os.environ.get("GLORA_STORAGE") == location
    return '"$GLORA_STORAGE"' + ("" if known else "  # set it to the URL of the database first")


def _print_preset(result: SearchResult, summary: dict[str, Any]) -> None:
    """Print that a baseline was selected instead of the searched architecture."""
    from glora_automl.report import metric_title
    from glora_automl.training import metric_value

    selection, first = result.selection, result.rows[0].validation
    if selection.preset is None:
        return
    values, metric, own = "", summary["metric"], selection.trained
    if first is not None and own is not None:
        pair = [metric_value(metric, score.value(metric)) for score in (own, first)]
        values = f" ({metric_title(metric)} {pair[0]} against {pair[1]})"
    typer.echo(
        f"Selected: {selection.preset}, which is shown to validate better than the searched "
        f"architecture{values}"
    )


def print_summary(study: optuna.Study, summary: dict[str, Any]) -> None:
    """Print settings, progress and result of a study."""
    from glora_automl.report import result_table
    from glora_automl.study import Comparison, Row, Selection

    trials = summary["trials"]
    typer.echo(f"{summary['study']}: {summary['stage']}, {summary['recipe']['description']}")
    typer.echo(
        f"Trials: {trials['complete']} of {trials['target']} complete, {trials['pruned']} pruned, "
        f"{trials['running']} running, {trials['failed']} failed"
    )
    seconds = ", ".join(f"{stage} {spent:.0f}" for stage, spent in summary["seconds"].items())
    typer.echo(f"Seconds: {seconds or 'none yet'}")
    for worker, done in summary["workers"].items():
        at = f", at {done['at']}" if done["at"] else ""
        stages = "".join(f", {stage}" for stage in done["stages"])
        typer.echo(f"Worker {worker}: {done['trials']} trials{stages}{at}")
    if summary["best"] is not None:
        typer.echo(f"Best trial: {summary['best']['trial']}, {best_text(summary)}")
    if summary["selection"] is not None:
        selection = Selection.from_json(summary["selection"])
        typer.echo(f"Selected: {printable(selection.origin)}")
    print_study(study)
    if summary["result"] is not None:
        _print_result(summary)
    for found in summary["selects"]:
        row = Row.from_json(found["row"])
        lines, metric = summary["data"]["captions"], summary["metric"]
        out_console().print(result_table([row], found["budget"], lines, metric))
    if summary["comparison"] is not None:
        print_comparison(Comparison.from_json(summary["comparison"]))


def print_study(study: optuna.Study) -> None:
    """Print the parameters of the best architecture, the Pareto front and the cost."""
    from glora_automl.report import (
        PICTURES,
        Snapshot,
        cost_table,
        front_table,
        grid_blocks,
        plain_table,
        ranking_table,
    )
    from glora_automl.study import read_ranking, stage_costs

    snapshot, console = Snapshot.of(study), out_console()
    picture = PICTURES["architecture"](snapshot)
    if picture is not None:
        console.print(grid_blocks(picture), soft_wrap=True)
    if (ranking := read_ranking(study)) is not None:
        console.print(plain_table("Backbones", *ranking_table(ranking)))
    front = front_table(snapshot)
    if front.lines:
        console.print(plain_table("Pareto front", *front))
    costs = cost_table(stage_costs(study))
    if costs.lines:
        console.print(plain_table("Cost", *costs))


def _print_result(summary: dict[str, Any]) -> None:
    from glora_automl.report import ladder_table, result_table
    from glora_automl.study import Ladder, Row

    rows = [Row.from_json(row) for row in summary["result"]]
    lines, metric = summary["data"]["captions"], summary["metric"]
    preset = (summary["selection"] or {}).get("preset")
    out_console().print(result_table(rows, summary["budget"], lines, metric, preset))
    if summary["ladder"] is not None:
        out_console().print(ladder_table(Ladder.from_json(summary["ladder"])))


def print_classes(study: optuna.Study) -> None:
    """Print the selected adapter by class, and its most frequent confusions.

    Raises:
        StudyError: If the study has no test score yet.
    """
    from glora_automl.errors import StudyError
    from glora_automl.report import (
        Snapshot,
        class_table,
        classes_title,
        confusion_table,
        matrix_table,
        plain_table,
    )

    report = Snapshot.of(study).classes
    if report is None:
        raise StudyError(
            f"The study {study.study_name!r} must be finished and have test images to show "
            f"classes. Run 'glora resume {study.study_name}', or add test images."
        )
    console = out_console()
    console.print(plain_table(classes_title(report), *class_table(report)))
    confusions, matrix = confusion_table(report), matrix_table(report, max_classes=10)
    if confusions.lines:
        console.print(plain_table("Most frequent confusions", *confusions))
    if matrix is not None:
        console.print(plain_table("Confusion matrix", *matrix))


def print_comparison(comparison: Comparison) -> None:
    """Print the result of ``glora compare``."""
    from glora_automl.report import correlation_text, result_table

    out_console().print(
        result_table(comparison.rows, comparison.budget, comparison.notes, comparison.metric)
    )
    if comparison.best_preset is not None:
        typer.echo(f"Best preset by validation: {printable(comparison.best_preset)}")
    if comparison.inherited is not None:
        typer.echo(correlation_text(comparison.inherited))


def print_export(written: Export) -> None:
    """Print path, content and verification of an export."""
    record, verification = written.record, written.verification
    about = record.about
    what = f"{record.kind} of {about['study']!r}"
    if record.architecture:
        what += f", {about['origin']} ({about['weights']}), {record.n_params:,} parameters"
    files = ", ".join(f"{name} {size:,} bytes" for name, size in written.sizes.items())
    typer.echo(f"Export: {written.path} ({what})")
    typer.echo(f"Files: {files}")
    typer.echo(
        f"Verified: logits of {verification.n_images} validation images differ by at most "
        f"{verification.difference:.1e}, {verification.n_same_predictions} predictions are the same"
    )
    if written.url is not None:
        typer.echo(f"Hub: {written.url}")


def print_predictions(found: Predictions) -> None:
    """Print the most likely classes of each image, and the speed.

    Other programs get a line per image, with tabs, whose file names are whole.
    """
    if not out_console().is_terminal:
        for file, best in found.best():
            classes = (f"{printable(name)}\t{p:.4f}" for name, p in best)
            typer.echo("\t".join([printable(file), *classes]))
        return
    from rich.table import Column, Table

    columns: list[Column] = [Column("image", overflow="fold"), Column("class")]
    columns += [Column(f"{place}.") for place in range(2, found.classes.shape[1] + 1)]
    table = Table(*columns)
    for file, best in found.best():
        table.add_row(printable(file), *(f"{printable(name)} {p:.3f}" for name, p in best))
    out_console().print(table)
    speed = len(found.files) / max(found.seconds, 1e-9)
    typer.echo(f"{len(found.files)} images in {found.seconds:.2f} s, {speed:,.1f} images/s")
