import io
import json
import shlex
import sys
from dataclasses import replace

import pytest
import rich.console
import rich.table

from glora_automl import Workspace
from glora_automl.cli import _output
from glora_automl.progress import LineProgress, Progress, TerminalProgress
from glora_automl.study import Row, summarize
from glora_automl.training import Score


def test_start_progress_terminal_shows_the_loaded_libraries(monkeypatch, tmp_path):
    shown = io.StringIO()

    class Terminal(rich.console.Console):
        def __init__(self, stderr, **options):
            super().__init__(file=shown, force_terminal=True, width=100)

    (tmp_path / "slow_library.py").write_text("loaded = True\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(rich.console, "Console", Terminal)
    monkeypatch.setattr(_output, "_LIBRARIES", ("json", "slow_library"))
    assert isinstance(_output.start_progress(quiet=False), TerminalProgress)
    assert "1/1 libraries" in shown.getvalue()
    assert sys.modules.pop("slow_library").loaded
    assert not isinstance(_output.start_progress(quiet=True), TerminalProgress)
    assert "slow_library" not in sys.modules


def test_start_progress_elsewhere_prints_lines_on_standard_error(capsys):
    progress = _output.start_progress(quiet=False)
    assert isinstance(progress, LineProgress)
    progress.log("a line")
    assert capsys.readouterr() == ("", "a line\n")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"RANK": "1"}, True),  # of a SLURM job without torchrun
        ({"LOCAL_RANK": "0", "RANK": "0"}, True),
        ({"LOCAL_RANK": "0", "RANK": "8"}, False),
        ({"LOCAL_RANK": "1", "RANK": "1"}, False),
    ],
)
def test_is_main_process_torchrun_prints_once(monkeypatch, environment, expected):
    for key in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert _output.is_main_process() is expected
    shows = type(_output.start_progress(quiet=False)) is not Progress
    assert shows is expected


def test_print_list_aligns_descriptions(capsys):
    _output.print_list({"a": "first", "long": "second"}, as_json=False)
    assert capsys.readouterr().out == "a     first\nlong  second\n"
    _output.print_list({}, as_json=False)
    assert capsys.readouterr().out == ""


def test_print_json_keeps_letters(capsys):
    _output.print_json({"class": "Bär"})
    out = capsys.readouterr().out
    assert "Bär" in out
    assert json.loads(out) == {"class": "Bär"}


def test_best_text_study_without_trials_is_a_dash():
    assert _output.best_text({"best": None}) == "–"


def test_best_text_names_value_and_parameters(finished):
    summary = summarize(finished.study)
    text = _output.best_text(summary)
    assert f"{summary['best']['value']:.3f}" in text
    assert f"{summary['best']['n_params']:,} parameters" in text


def test_print_found_selected_baseline_is_printed_with_both_values(finished, capsys):
    row = Row("searched", 3, Score(0.5, 0.9, 60, 0.8))
    selection = replace(finished.selection, preset="LoRA r=2", trained=Score(0.6, 0.8, 60, 0.7))
    result = replace(finished, selection=selection, rows=(row,))
    _output.print_found(result, Workspace(runs="there"), as_json=False)
    out = capsys.readouterr().out
    assert (
        "Selected: LoRA r=2, which is shown to validate better than the searched architecture "
        "(accuracy 60.0 against 50.0)\n"
    ) in out
    assert "Winner: there/tiny/winner.json\n" in out


@pytest.mark.parametrize("known", [True, False])
def test_print_found_storage_with_password_names_the_variable(finished, capsys, monkeypatch, known):
    url = "postgresql+psycopg://me:geheim17@db/glora"
    monkeypatch.setenv("GLORA_STORAGE", url if known else "sqlite:///other.db")
    _output.print_found(finished, Workspace(storage=url), as_json=False)
    out = capsys.readouterr().out
    line = 'Study:  glora dashboard --storage "$GLORA_STORAGE"'
    assert f"{line}\n" * known in out
    assert known or f"{line}  # set it to the URL of the database first\n" in out
    assert "geheim17" not in out


def test_print_found_storage_can_be_pasted_into_a_shell(finished, capsys):
    url = "postgresql+psycopg://me@db/glora?sslmode=require&application_name=" + 100 * "a"
    _output.print_found(finished, Workspace(storage=url), as_json=False)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("Study:")]
    assert shlex.split(line)[1:] == ["glora", "dashboard", "--storage", url]


def test_out_console_prints_names_as_they_are(capsys):
    names = ["car [red]", "car [blue]", "car [/red]", ":smile:"]
    table = rich.table.Table("class")
    for name in names:
        table.add_row(name)
    _output.out_console().print(table)
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
