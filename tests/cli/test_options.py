import json
import os
import signal
import time
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from glora_automl.cli._options import given as given_options
from glora_automl.cli._options import read_timeout, stoppable, with_workspace
from glora_automl.errors import Stopped
from glora_automl.progress import LineProgress, LogProgress, Progress
from tests import processes
from tests.cli.conftest import COMMANDS, FAST, flags
from tests.refusals import refusal

WORKSPACE = {
    "--artifacts",
    "--data",
    "--device",
    "--heartbeat",
    "--log-file",
    "--log-format",
    "--patience",
    "--quiet",
    "--runs",
    "--storage",
    "--track",
}
RECIPE = {"--budget", "--model", "--set"}
OPTIONS = {
    "search": WORKSPACE
    | RECIPE
    | {
        "--effort",
        "--margin",
        "--metric",
        "--n-trials",
        "--name",
        "--sampler",
        "--seed",
        "--timeout",
        "--warm-start",
        "--cpus-per-worker",
        "--n-workers",
        "--workers",
    },
    "train": WORKSPACE | RECIPE | {"--architecture", "--metric", "--name", "--seed"},
    "resume": WORKSPACE - {"--heartbeat"} | {"--n-trials", "--timeout"},
    "select": WORKSPACE - {"--heartbeat", "--track"} | {"--architecture", "--budget", "--margin"},
    "compare": WORKSPACE - {"--heartbeat", "--track"} | {"--n-architectures", "--only"},
    "export": WORKSPACE - {"--heartbeat", "--track"}
    | {
        "--architecture",
        "--budget",
        "--force",
        "--out",
        "--preprocess",
        "--private",
        "--push",
        "--to",
        "--trial",
    },
    "suite": WORKSPACE - {"--heartbeat"} | RECIPE | {"--n-seeds", "--n-trials", "--timeout"},
    "predict": {"--backbone", "--batch-size", "--device", "--quiet", "--top"},
    "status": {"--runs", "--storage"},
    "show": {"--classes", "--runs", "--storage"},
    "architecture": {"--runs", "--storage", "--trial"},
    "report": {"--out", "--png", "--runs", "--storage"},
    "dashboard": {"--artifacts", "--by", "--host", "--port", "--runs", "--storage", "--write"},
    "recipes": set(),
    "spaces": set(),
    "suites": set(),
    "layers": set(),
    "doctor": {"--artifacts", "--runs", "--storage", "--timeout"},
}


def test_options_of_every_command_are_listed_here():
    assert set(OPTIONS) == set(COMMANDS)


@pytest.mark.parametrize("command", OPTIONS)
def test_command_has_its_options_each_with_help(command):
    texts = set() if command in ("report", "dashboard") else {"--json"}
    assert flags(command) - {"--help"} == OPTIONS[command] | texts
    assert all(getattr(param, "help", None) for param in COMMANDS[command].params)


@pytest.fixture
def seen():
    """The workspaces that the command got."""
    return []


@pytest.fixture
def command(seen, monkeypatch, capsys):
    """Runs a command line with one command that has a workspace."""

    @with_workspace(leave_out=("heartbeat",))
    def show(workspace: object, name: str, n_trials: int = 3) -> None:
        seen.append((workspace, name, n_trials))

    app = typer.Typer()
    app.command()(show)

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            app(list(map(str, arguments)))
        return stop.value.code, capsys.readouterr().err

    return run


def test_with_workspace_options_become_its_fields(command, seen):
    options = ("--runs", "there", "--storage", "a.log", "--artifacts", "s3://b/c", "--data", "d")
    options += ("--device", "cpu", "--patience", 2.5, "--n-trials", 7)
    assert command("tiny", *options) == (0, "")
    ((workspace, name, n_trials),) = seen
    assert (name, n_trials) == ("tiny", 7)
    assert (workspace.runs, workspace.storage) == (Path("there"), "a.log")
    assert (workspace.artifacts, workspace.data) == ("s3://b/c", "d")
    assert (workspace.device, workspace.patience) == ("cpu", 2.5)
    shown, log = workspace.progress._members
    assert isinstance(shown, LineProgress)
    assert isinstance(log, LogProgress)
    assert workspace.publish is not None
    assert workspace.stop() is False


def test_with_workspace_no_options_are_the_defaults_of_the_library(command, seen):
    from glora_automl import Workspace

    assert command("tiny", "--quiet")[0] == 0
    ((workspace, _, n_trials),) = seen
    assert n_trials == 3
    expected = Workspace()
    for field in ("storage", "artifacts", "data", "device", "heartbeat", "patience"):
        assert getattr(workspace, field) == getattr(expected, field)
    assert str(workspace.runs) == str(expected.runs)
    assert type(workspace.progress._members[0]) is Progress
    assert (workspace.log_format, workspace.trackers) == ("text", [])


def test_with_workspace_left_out_option_is_unknown(command, seen):
    code, err = command("tiny", "--heartbeat", 3)
    assert code == 2
    assert "--heartbeat" in err
    assert not seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stoppable_signal_stops_at_the_safe_point_with_its_exit_code(number, capsys):
    reached = []
    with pytest.raises(typer.Exit) as stop, stoppable() as asked:
        signal.raise_signal(number)
        reached.append(asked())
        raise Stopped
    assert reached == [True]
    assert stop.value.exit_code == 128 + number
    assert capsys.readouterr().err == (
        "Stopping at the next safe point; another Ctrl-C stops at once.\n"
        "Interrupted: run the same command again to continue.\n"
    )


def test_stoppable_second_ctrl_c_stops_at_once(capsys):
    reached = []
    with pytest.raises(KeyboardInterrupt), stoppable():
        signal.raise_signal(signal.SIGTERM)
        reached.append("once")
        signal.raise_signal(signal.SIGINT)
        reached.append("twice")
    assert reached == ["once"]
    assert capsys.readouterr().err.endswith("run the same command again to continue.\n")


def test_stoppable_without_signal_restores_the_handlers(capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stoppable() as asked:
        assert signal.getsignal(signal.SIGINT) != before[0]
        assert not asked()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_search_signal_stops_and_the_same_command_continues(folder, glora, number):
    arguments = ("search", "tiny.toml", "--quiet", "--n-trials", 3)
    process = processes.start(processes.glora, *arguments, folder=folder)
    try:
        process.wait_until((folder / "runs/tiny").exists)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        process.kill()
    assert process.out == ""
    assert process.err == (
        "Stopping at the next safe point; another Ctrl-C stops at once.\n"
        "Interrupted: run the same command again to continue.\n"
    )
    code, out, err = glora(*arguments)
    assert (code, err) == (0, "")
    assert "Winner: runs/tiny/winner.json" in out


def glora_without_answer(*arguments):
    """Run the command line where a download never ends, as of a hub that does not answer."""
    from glora_automl.backbones import _create

    def wait(*args):
        Path("downloading").touch()
        end = time.monotonic() + 600  # a signal does not end the wait of a library
        while time.monotonic() < end:
            time.sleep(0.1)

    _create.check_hub = lambda settings: None
    _create.create_model = wait
    processes.glora(*arguments)


def test_search_signal_during_a_download_stops_at_once(folder):
    arguments = ("search", "tiny.toml", "--model", "test_vit", "--quiet")
    process = processes.start(glora_without_answer, *arguments, folder=folder)
    try:
        process.wait_until((folder / "downloading").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert process.err.endswith("Interrupted: run the same command again to continue.\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("90m", 5400), ("1h30m", 5400), ("30s", 30), ("1.5h", 5400), ("2d", 172_800),
     ("45", 45), ("0.5", 0.5), (" 1H ", 3600)],
)  # fmt: skip
def test_read_timeout_returns_seconds(text, seconds):
    assert read_timeout(text) == seconds


@given(st.one_of(st.text(max_size=30), st.from_regex(r"[0-9.dhms -]{0,12}", fullmatch=True)))
def test_read_timeout_of_any_text_is_a_time_or_one_line(text):
    if refusal(read_timeout, text) is None:
        assert read_timeout(text) >= 0


def test_given_leaves_out_options_without_a_value():
    assert given_options(budget=None, seed=0, name="") == {"seed": 0, "name": ""}


def test_search_takes_its_places_from_the_environment(folder, glora, monkeypatch):
    monkeypatch.setenv("GLORA_RUNS", "elsewhere")
    monkeypatch.setenv("GLORA_STORAGE", "other.log")
    monkeypatch.setenv("GLORA_ARTIFACTS", "files")
    monkeypatch.setenv("GLORA_DEVICE", "cpu")
    options = ("--log-file", "all.log", "--log-format", "json", "--track", "tensorboard")
    code, out, err = glora("search", "tiny.toml", *FAST, *options, "--quiet")
    assert (code, err) == (0, "")
    assert "elsewhere/tiny/winner.json" in out
    assert (folder / "other.log").is_file()
    assert (folder / "files").is_dir()
    assert list((folder / "elsewhere/tiny/tensorboard").iterdir())
    (own,) = (folder / "elsewhere/tiny/logs").glob("*.log")
    messages = [json.loads(line)["message"] for line in own.read_text().splitlines()]
    assert any(message.startswith("Search: 3/3 trials") for message in messages)
    everything = [json.loads(line)["message"] for line in (folder / "all.log").open()]
    assert everything[-len(messages) :] == messages
    assert "tiny" in glora("status")[1]
    monkeypatch.setenv("GLORA_DEVICE", "abacus")
    assert "abacus" in glora("search", "tiny.toml", *FAST, "--name", "b", "--quiet")[2]


def test_resume_records_its_trials_and_a_log_of_its_own(folder, glora):
    pytest.importorskip("tensorboard")
    assert glora("search", "tiny.toml", *FAST, "--quiet")[0] == 0
    code, _out, err = glora(
        "resume", "tiny", "--n-trials", "4", "--track", "tensorboard", "--quiet"
    )
    assert (code, err) == (0, "")
    first, second = sorted((folder / "runs/tiny/logs").iterdir(), key=lambda f: f.stat().st_mtime)
    assert "Search: 3/3 trials" in first.read_text()
    assert "Search: 4/4 trials" in second.read_text()
    assert list((folder / "runs/tiny/tensorboard").iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--log-format", "xml"), "--log-format must be text or json, got 'xml'"),
        (("--track", "mlflaw"), "--track must be one of mlflow, wandb, tensorboard"),
        (("--log-file", "."), "log file must be writable"),
    ],
)
def test_search_with_wrong_log_options_is_one_line(folder, error, options, words):
    assert words in error("search", "tiny.toml", *options)
