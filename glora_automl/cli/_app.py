"""The command line: one function a command.

torch and Optuna are imported inside the commands, so that ``glora --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from glora_automl._signals import StopOnSignal
from glora_automl.cli._options import (
    ArtifactStore,
    AsJson,
    Budget,
    Changes,
    Data,
    Device,
    Model,
    Patience,
    Quiet,
    Runs,
    Storage,
    Trials,
)
from glora_automl.cli._output import (
    best_text,
    is_first_rank,
    out_console,
    print_applied,
    print_comparison,
    print_export,
    print_found,
    print_json,
    print_list,
    print_summary,
    start_progress,
    storage_url,
)
from glora_automl.errors import ExportError, GLoRAError, Stopped

__all__ = ["app", "main"]

app = typer.Typer(
    name="glora",
    help="AutoML for adapters: search GLoRA adapters under a parameter budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def search(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Name of a recipe, or path of a .toml file; with --data, own."),
    ] = None,
    data: Data = None,
    model: Model = None,
    changes: Changes = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    storage: Storage = None,
    artifacts: ArtifactStore = None,
    budget: Budget = None,
    trials: Trials = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all randomness.")] = None,
    sampler: Annotated[str | None, typer.Option(help="evolution, tpe, nsga2 or random.")] = None,
    warm_start: Annotated[
        str | None, typer.Option(help="Begin with the best architectures of an earlier study.")
    ] = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    heartbeat: Annotated[
        float, typer.Option(help="Seconds between a worker's signs of life, for a new study.")
    ] = 10.0,
    patience: Patience = 300.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe, go on where an earlier run stopped, or join those who run it."""
    progress = start_progress(quiet)
    from glora_automl.commands import search as run
    from glora_automl.recipes import override_recipe

    wanted = override_recipe(
        recipe,
        data=data,
        model=model,
        settings=changes or (),
        search=_changes(trials=trials, sampler=sampler),
        **_changes(budget=budget, seed=seed),
    )
    with _stoppable() as stop:
        result = run(
            wanted,
            name=name,
            runs=runs,
            storage=storage,
            artifacts=artifacts,
            device=device,
            warm_start=warm_start,
            heartbeat=heartbeat,
            patience=patience,
            stop=stop,
            progress=progress,
            publish=_publish,
        )
    print_found(result, runs, storage, as_json)


@app.command()
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Name of a recipe, or path of a .toml file; with --data, own."),
    ] = None,
    architecture: Annotated[
        str,
        typer.Option(
            help="File as 'glora architecture' prints it, or lora (the highest rank that fits), "
            "lora-4, bitfit, ssf or probe."
        ),
    ] = "lora",
    data: Data = None,
    model: Model = None,
    changes: Changes = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the study; by default the recipe's and that.")
    ] = None,
    storage: Storage = None,
    artifacts: ArtifactStore = None,
    budget: Budget = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all randomness.")] = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    patience: Patience = 300.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train one architecture without a search, and keep it like a search's winner."""
    progress = start_progress(quiet)
    from glora_automl.commands import search as run
    from glora_automl.recipes import override_recipe

    wanted = override_recipe(
        recipe,
        data=data,
        model=model,
        architecture=architecture,
        settings=changes or (),
        **_changes(budget=budget, seed=seed),
    )
    with _stoppable() as stop:
        result = run(
            wanted,
            name=name,
            runs=runs,
            storage=storage,
            artifacts=artifacts,
            device=device,
            patience=patience,
            stop=stop,
            progress=progress,
            publish=_publish,
        )
    print_found(result, runs, storage, as_json)


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    storage: Storage = None,
    artifacts: ArtifactStore = None,
    data: Data = None,
    trials: Trials = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    patience: Patience = 300.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a study, on any machine that reaches its storage and its artifacts."""
    progress = start_progress(quiet)
    from glora_automl.commands import resume as run

    with _stoppable() as stop:
        result = run(
            name,
            storage=storage,
            artifacts=artifacts,
            data=data,
            trials=trials,
            runs=runs,
            device=device,
            patience=patience,
            stop=stop,
            progress=progress,
            publish=_publish,
        )
    print_found(result, runs, storage, as_json)


@app.command()
def pick(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    budget: Annotated[str, typer.Option(help="Trainable parameters, at most the study's.")],
    storage: Storage = None,
    artifacts: ArtifactStore = None,
    data: Data = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    patience: Patience = 300.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Take the best adapter under a smaller budget from a finished study."""
    progress = start_progress(quiet)
    from glora_automl.commands import pick as run
    from glora_automl.report import result_table

    with _stoppable() as stop:
        result = run(
            name,
            budget,
            storage=storage,
            artifacts=artifacts,
            data=data,
            runs=runs,
            device=device,
            patience=patience,
            stop=stop,
            progress=progress,
        )
    if not is_first_rank():
        return
    if as_json:
        row = result.rows[0].to_json()
        print_json(
            {
                "study": name,
                "budget": result.budget,
                "selection": result.selection.to_json(),
                "row": row,
            }
        )
        return
    out_console().print(result_table(result.rows, result.budget))
    typer.echo(f"Winner: {runs / name / f'winner-{result.budget}.json'}")


@app.command()
def compare(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    architectures: Annotated[
        int, typer.Option(help="Random architectures to train alone, for the rank correlation.")
    ] = 10,
    storage: Storage = None,
    artifacts: ArtifactStore = None,
    data: Data = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    patience: Patience = 300.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Put a finished study beside random search, uniform adapters, and training from scratch."""
    progress = start_progress(quiet)
    from glora_automl.commands import compare as run

    with _stoppable() as stop:
        comparison = run(
            name,
            architectures=architectures,
            storage=storage,
            artifacts=artifacts,
            data=data,
            runs=runs,
            device=device,
            patience=patience,
            stop=stop,
            progress=progress,
        )
    if not is_first_rank():
        return
    if as_json:
        print_json({"study": name, **comparison.to_json()})
    else:
        print_comparison(comparison)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    to: Annotated[str, typer.Option(help="timm, adapter, peft, onnx or backbone.")],
    out: Annotated[Path, typer.Option(help="Folder to write, which must not be there yet.")],
    trial: Annotated[
        str, typer.Option(help="best is the winner; or the number of a complete trial.")
    ] = "best",
    budget: Annotated[
        str | None, typer.Option(help="Take what glora pick took for this budget instead.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export.")] = False,
    storage: Storage = None,
    artifacts: ArtifactStore = None,
    data: Data = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    patience: Patience = 300.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write an adapter of a study as a timm model, adapter, PEFT adapter or ONNX graph."""
    progress = start_progress(quiet)
    from glora_automl.export import export_model

    with _stoppable() as stop:
        written = export_model(
            name,
            to,
            out,
            trial=trial,
            budget=budget,
            force=force,
            storage=storage,
            artifacts=artifacts,
            data=data,
            runs=runs,
            device=device,
            patience=patience,
            stop=stop,
            progress=progress,
        )
    if as_json:
        print_json(written.to_json())
    else:
        print_export(written)


@app.command()
def apply(
    path: Annotated[Path, typer.Argument(help="What glora export wrote.")],
    images: Annotated[list[str], typer.Argument(help="Image files, or folders of them.")],
    top: Annotated[int, typer.Option(help="Most likely classes to tell of each image.")] = 1,
    backbone: Annotated[
        str | None,
        typer.Option(help="Weights for an adapter: a file, or what --to backbone wrote."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images a forward pass.")] = 64,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Classify images with what glora export wrote."""
    progress = start_progress(quiet)
    from glora_automl.export import apply as classify

    found = classify(
        path,
        images,
        top=top,
        backbone=backbone,
        device=device,
        batch_size=batch_size,
        progress=progress,
    )
    if as_json:
        print_json(found.to_json())
    else:
        print_applied(found)
    if found.unreadable:
        shown = [f"{file} ({why})" for file, why in found.unreadable.items()]
        more = ", ..." if len(shown) > 3 else ""
        raise ExportError(
            f"{len(shown)} of {len(shown) + len(found.files)} images cannot be read: "
            f"{', '.join(shown[:3])}{more}; the others are told."
        )


@app.command()
def suite(
    name: Annotated[
        str, typer.Argument(help="Name of a suite, path of a .toml file, or folder of tasks.")
    ],
    data: Annotated[
        str | None, typer.Option(help="Folder of the suite's images, if not where it says.")
    ] = None,
    model: Model = None,
    changes: Changes = None,
    seeds: Annotated[int, typer.Option(help="Studies a task, each with a seed of its own.")] = 1,
    storage: Storage = None,
    artifacts: ArtifactStore = None,
    budget: Budget = None,
    trials: Trials = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    patience: Patience = 300.0,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run the same recipe on many tasks, and print and save a table of them all."""
    progress = start_progress(quiet)
    from glora_automl.commands import run_suite
    from glora_automl.recipes import load_suite
    from glora_automl.report import save_suite, suite_table

    wanted = load_suite(name, data=data)
    with _stoppable() as stop:
        result = run_suite(
            wanted,
            data=data,
            model=model,
            settings=changes or (),
            seeds=seeds,
            changes=_changes(budget=budget, search=_changes(trials=trials)),
            runs=runs,
            storage=storage,
            artifacts=artifacts,
            device=device,
            patience=patience,
            stop=stop,
            progress=progress,
            publish=_publish,
        )
    if not is_first_rank():
        return
    saved = save_suite(result, runs / f"suite-{wanted.name}")
    if as_json:
        print_json(result.to_json())
        return
    out_console().print(suite_table(result))
    for path in saved:
        typer.echo(f"Table: {path}")


@app.command()
def status(storage: Storage = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """List the studies of a storage and how far they are."""
    from glora_automl.storages import open_storage, storage_errors
    from glora_automl.study import list_studies

    opened = open_storage(storage_url(storage, runs), create=False, write=False)
    with storage_errors():
        summaries = list_studies(opened)
    if as_json:
        print_json(summaries)
        return
    from rich.table import Table

    table = Table("study", "stage", "trials", "budget", "best")
    for summary in summaries:
        if "trials" not in summary:
            table.add_row(summary["study"], summary["stage"])
            continue
        trials = summary["trials"]
        table.add_row(
            summary["study"],
            summary["stage"],
            f"{trials['complete'] + trials['pruned']}/{trials['target']}",
            f"{summary['budget']:,}",
            best_text(summary),
        )
    out_console().print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    storage: Storage = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show what a study is made of and what it found."""
    from glora_automl.storages import open_storage, storage_errors
    from glora_automl.study import load_study, summarize

    opened = open_storage(storage_url(storage, runs), create=False, write=False)
    with storage_errors():
        study = load_study(opened, name)
        summary = summarize(study)
    if as_json:
        print_json(summary)
        return
    with storage_errors():
        print_summary(study, summary)


@app.command()
def architecture(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    trial: Annotated[
        str, typer.Option(help="best (the winner, if one is chosen) or a number.")
    ] = "best",
    storage: Storage = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Print the architecture of a study's winner or trial, for 'glora train --architecture'."""
    from glora_automl.storages import open_storage, storage_errors
    from glora_automl.study import find_architecture, load_study, parse_trial, read_space

    wanted = parse_trial(trial)
    opened = open_storage(storage_url(storage, runs), create=False, write=False)
    with storage_errors():
        study = load_study(opened, name)
        number, found = find_architecture(study, wanted)
        count = found.count(read_space(study).shapes)
    if as_json:
        print_json({"study": name, "trial": number, "n_params": count, "architecture": str(found)})
    else:
        typer.echo(str(found))


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write; by default NAME.html here.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help="Folder for the pictures alone, instead of a page.")
    ] = None,
    storage: Storage = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write a study's tables and pictures into one HTML file, or its pictures into a folder."""
    from glora_automl.report import save_pictures, save_report
    from glora_automl.storages import open_storage, quiet_optuna, storage_errors
    from glora_automl.study import load_study

    opened = open_storage(storage_url(storage, runs), create=False, write=False)
    with storage_errors(), quiet_optuna():
        study = load_study(opened, name)
        if png is not None:
            for path in save_pictures(study, png):
                typer.echo(f"Picture: {path}")
        if out is not None or png is None:
            path = out or Path(f"{name}.html")
            save_report(study, path)
            typer.echo(f"Report: {path}")


@app.command()
def dashboard(
    storage: Storage = None,
    artifacts: ArtifactStore = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes a free one.")] = 8080,
    by: Annotated[
        str, typer.Option(help="Count parameters by block, kind of layer, tensor or layer.")
    ] = "block",
    write: Annotated[
        bool, typer.Option("--write", help="Let notes and artifacts be added.")
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Show the studies of a storage in optuna-dashboard, with parameters counted by block."""
    from glora_automl.report import check_grouping, dashboard_app, open_server
    from glora_automl.storages import open_artifacts, open_storage, quiet_optuna

    grouping = check_grouping(by)
    # A page is asked for again in seconds; nobody waits minutes for it.
    opened = open_storage(storage_url(storage, runs), create=False, write=write, patience=10)
    shown = dashboard_app(
        opened,
        by=grouping,
        artifacts=lambda location: open_artifacts(location, cache=runs / "downloads", create=False),
        location=artifacts,
        write=write,
    )
    with open_server(shown, host, port) as server, quiet_optuna():
        typer.echo(f"Dashboard: {server.url} (Ctrl-C ends it)")
        if not server.is_local:
            may = "read and annotate" if write else "read"
            typer.echo(f"Whoever reaches this address may {may} the studies.", err=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """List the recipes that ship."""
    from glora_automl.recipes import list_recipes, load_recipe

    print_list({name: load_recipe(name).description for name in list_recipes()}, as_json)


@app.command()
def spaces(as_json: AsJson = False) -> None:
    """List the search spaces that ship."""
    from glora_automl.search_space import list_search_spaces, load_search_space

    found = {name: load_search_space(name).description for name in list_search_spaces()}
    print_list(found, as_json)


@app.command()
def suites(as_json: AsJson = False) -> None:
    """List the suites that ship."""
    from glora_automl.recipes import list_suites, load_suite

    print_list({name: load_suite(name).description for name in list_suites()}, as_json)


@app.command()
def layers(
    backbone: Annotated[str, typer.Argument(help="Name of a timm model or path of a recipe.")],
    as_json: AsJson = False,
) -> None:
    """List the layers of a backbone that can be adapted, and why others cannot."""
    from glora_automl.backbones import BackboneSettings, list_layers
    from glora_automl.recipes import list_recipes, load_recipe

    is_recipe = backbone.endswith(".toml") or backbone in list_recipes()
    settings = load_recipe(backbone).backbone if is_recipe else BackboneSettings(model=backbone)
    groups = list_layers(settings)
    if as_json:
        print_json([group._asdict() for group in groups])
        return
    from rich.table import Column, Table

    table = Table(Column("layers", overflow="fold"), "how many", "out x in", "tensors, or why not")
    for group in groups:
        size = "–" if group.size is None else " x ".join(map(str, group.size))
        table.add_row(group.pattern, str(group.layers), size, group.reason or group.tensors)
    out_console().print(table)


def _publish(study: Any) -> None:
    """:func:`glora_automl.report.publish`, which is imported when there is something to show."""
    from glora_automl.report import publish

    publish(study)


@contextmanager
def _stoppable() -> Iterator[StopOnSignal]:
    """End at a safe point when a signal asks for it, with the exit code that shells give it."""

    def say(text: str) -> None:
        typer.echo(text, err=True)

    again = "Interrupted: run the same command again to go on."
    with StopOnSignal(say) as stop:
        try:
            yield stop
        except Stopped:
            say(again)
            raise typer.Exit(128 + (stop.received or 0)) from None
        except KeyboardInterrupt:
            say(again)
            raise


def _changes(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def main() -> None:
    """Run the command line; wrong input ends it with one line and exit code 2."""
    try:
        app()
    except GLoRAError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
