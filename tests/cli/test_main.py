import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from glora_automl import __version__
from glora_automl.cli import _lists, app
from glora_automl.errors import GLoRAError
from tests.cli.conftest import COMMANDS
from tests.refusals import TEXTS, check_line


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "nothing"],
        ["search", "missing.toml"],
        ["train", "nothing"],
        ["resume", "tiny"],
        ["select", "tiny", "--budget", "1%"],
        ["compare", "tiny"],
        ["export", "tiny", "--to", "timm", "--out", "model"],
        ["predict", "model", "images"],
        ["suite", "nothing"],
        ["status"],
        ["show", "tiny"],
        ["architecture", "tiny"],
        ["report", "tiny"],
        ["dashboard"],
        ["layers", "missing.toml"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_main_missing_input_is_one_line_and_leaves_no_file(folder, error, arguments):
    before = sorted(folder.rglob("*"))
    error(*arguments)
    assert sorted(folder.rglob("*")) == before


def test_main_unknown_command_or_option_exits_with_2(glora):
    for arguments in (["serach"], ["search", "digits", "--bugdet", "3"]):
        code, out, err = glora(*arguments)
        assert (code, out) == (2, "")
        assert arguments[-2 if len(arguments) > 1 else 0] in err
        assert "Traceback" not in err


def test_help_lists_every_command_with_a_line(glora):
    code, out, _ = glora("--help")
    assert code == 0
    for name, command in COMMANDS.items():
        assert name in out
        assert command.help
        assert "\n" not in command.help.strip()


WITHOUT_TORCH = """
import contextlib, sys
from glora_automl.cli import main

runs = ["--runs", sys.argv[1]]
for arguments in (
    ["--help"],
    ["status", *runs],
    ["show", "tiny", *runs],
    ["show", "tiny", "--json", *runs],
    ["architecture", "tiny", *runs],
    ["recipes"],
    ["spaces"],
    ["suites"],
):
    sys.argv = ["glora", *arguments]
    with contextlib.suppress(SystemExit):
        main()
    print(arguments[0], "imports", {"torch", "timm", "sklearn", "plotly"} & set(sys.modules))
"""


def test_main_commands_that_compute_nothing_import_no_torch(runs):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(runs)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    found = re.findall(r"^(.*) imports (.*)$", ran.stdout, flags=re.MULTILINE)
    assert len(found) == 8
    assert {modules for _, modules in found} == {"set()"}, found


def test_module_runs_the_command_line(tmp_path):
    command = [sys.executable, "-m", "glora_automl", "status"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert (ran.stdout, ran.stderr.count("\n")) == ("", 1)
    assert "no such file" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "smoke", "--n-trials", "9" * 4000],
        ["search", "smoke", "--seed", "x" * 4000],
        ["search", "smoke", "--set", "x" * 4000],
        ["search", "smoke", "--set", "search.n_trials=" + "9" * 5000],
        ["search", "smoke", "--set", "training.lr=" + "[" * 2000],
        ["search", "smoke", "--budget=101%"],
        ["search", "smoke", "--patience=nan"],
        ["search", "smoke", "--patience=-1"],
        ["search", "smoke", "--patience=inf"],
        ["search", "smoke", "--heartbeat=inf"],
        ["search", "smoke", "--name="],
        ["search", "smoke", "--device", "cpu:99"],
        ["search", "smoke", "--data", "~nosuchuser/x"],
        ["search", "smoke", "--runs", "x" * 5000],
        ["search", "x" * 5000 + ".toml"],
        ["search", "smoke", "--set", "training.warmup_epochs=1000"],
        ["search", "smoke", "--set", "training.lr=1e308"],
        ["show", "\x1b[31m" * 100, "--storage", "sqlite:///" + "y" * 5000],
        ["predict", "/dev/zero", "/dev/zero"],
        ["architecture", "tiny", "--trial", "9" * 4000],
        ["layers", "x" * 4000],
        ["layers", "\udcff"],
        ["dashboard", "--host", "\udcff", "--storage", "pipe.log"],
        ["status", "--storage", "pipe.log"],
        ["status", "--runs="],
        ["report", "tiny", "--png="],
        ["search", "smoke", "--margin", "x"],
        ["suite", "dg", "--n-seeds", "1.5"],
        ["predict", "model", "images", "--top", "abc"],
        ["dashboard", "--port", ""],
        ["doctor", "--timeout", "0"],
        ["doctor", "--timeout", "nan"],
    ],
    ids=lambda arguments: " ".join(arguments)[:60].encode("ascii", "replace").decode(),
)
def test_main_malformed_argument_is_one_line(folder, glora, arguments):
    os.mkfifo(folder / "pipe.log")
    code, out, err = glora(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert len(err) <= 301
    assert err.removesuffix("\n").isprintable()
    assert not (folder / "runs").exists()


def test_main_password_of_the_storage_is_not_shown(folder, glora, monkeypatch):
    monkeypatch.setattr("glora_automl.cli._output.READ_PATIENCE", 1)
    for url in (
        "postgresql://me:gehe1m99@host:port/db",
        "postgresql+psycopg://localhost:1/db?user=me&password=gehe1m99",
        "x://me:gehe1m99@host/db",
        "://me:gehe1m99@host/db",
        "host=localhost password='gehe1m99'",
    ):
        code, out, err = glora("status", "--storage", url)
        assert code == 2
        assert "gehe1m99" not in out + err


def test_main_unexpected_error_is_one_line_with_a_file(folder, glora, monkeypatch):
    def fail(*args):
        raise KeyError("[red]\npostgresql://me:gehe1m99@host/db")

    monkeypatch.setattr(_lists, "print_list", fail)
    code, out, err = glora("recipes")
    assert (code, out) == (70, "")
    assert err.count("\n") == 1
    assert len(err) <= 301
    file = Path(re.search(r"report it with the file (\S+)$", err)[1])
    text = file.read_text(encoding="utf-8")
    file.unlink()
    assert "Traceback" in text
    assert "in fail" in text
    assert "gehe1m99" not in text + err


SLOW = """
import time
print("importing", flush=True)
for _ in range(60):
    try:
        time.sleep(1)
    except BaseException as error:
        raise ImportError("swallowed") from error
"""
"""A library that turns any exception into its own."""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_main_signal_while_modules_are_imported_ends_it(tmp_path, number):
    """Process 1 of a container would not get SIGTERM without a handler."""
    (tmp_path / "typer.py").write_text(SLOW, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    # A process inherits ignored signals, as a background process of a shell does.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from glora_automl.__main__ import main; main()"
    command = [sys.executable, "-c", code, "recipes"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_main_full_disk_on_standard_output_is_one_line(tmp_path):
    command = [sys.executable, "-m", "glora_automl", "recipes", "--json"]
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("Error: Standard output must be writable")
    assert ran.stderr.count("\n") == 1


def test_main_encoding_without_a_character_escapes_it(tmp_path):
    suite = tmp_path / "größer-日本"
    for name in ("日本", "b"):
        (suite / name / "x").mkdir(parents=True)
    command = [sys.executable, "-m", "glora_automl", "suite", suite.name, "--device", "none"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment)
    assert ran.returncode == 2
    assert b"Traceback" not in ran.stderr
    assert b"\\u65e5" in ran.stderr


@st.composite
def command_lines(draw):
    """Draw a command with any values for its arguments and options."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    words = [name]
    for param in COMMANDS[name].params:
        if param.param_type_name == "argument":
            words += draw(st.lists(TEXTS, min_size=1, max_size=2 if param.nargs < 0 else 1))
        elif param.name != "help" and draw(st.sampled_from([False, False, True])):
            words += [param.opts[0]] if param.is_flag else [param.opts[0], draw(TEXTS)]
    # Searches are refused before anything is trained, and no storage exists.
    return [*words, "--device", "none"] if name in ("search", "train", "suite") else words


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(words=command_lines())
@example(words=["compare", "", "--log-file", "9" * 5000])  # no system has such a name
def test_command_any_arguments_are_a_result_or_one_line(folder, words):
    ran = CliRunner().invoke(app, words)
    if isinstance(ran.exception, GLoRAError):
        check_line(str(ran.exception))
    else:
        # The diagnosis has an exit code of its own for a part that fails.
        codes = (0, 1, 2) if words[0] == "doctor" else (0, 2)
        assert ran.exit_code in codes, (words, ran.exception)
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.toml"]


def test_version_is_printed(glora):
    assert glora("--version") == (0, f"glora {__version__}\n", "")


def test_completion_of_a_shell_is_printed(glora, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, out, _ = glora("--show-completion", "bash")
    assert code == 0
    assert "complete" in out
