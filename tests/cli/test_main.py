import subprocess
import sys

import pytest

from glora_automl.cli._main import with_flags
from tests.cli.conftest import COMMANDS

OPTIONS = {"n_trials": "--n-trials", "budget": "--budget", "changes": "--set", "set": "--set"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Raise `n_trials`.", "Raise --n-trials."),
        ("Lower `training.lr`.", "Lower --set training.lr=...."),
        ("Correct `set`.", "Correct --set."),
        ("Choose another `trial`.", "Choose another trial."),
        ("n_trials must be 1 or more, got 0.", "n_trials must be 1 or more, got 0."),
        ("Write `lora-4 ` or `5%`.", "Write `lora-4 ` or `5%`."),
        ("Raise `budget` or `n_trials`.", "Raise --budget or --n-trials."),
    ],
)
def test_with_flags_argument_in_backticks_becomes_flag(message, expected):
    assert with_flags(message, OPTIONS) == expected


def test_with_flags_command_without_set_keeps_setting_name():
    assert with_flags("Lower `training.lr`.", {"n_trials": "--n-trials"}) == "Lower training.lr."


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


def test_module_runs_the_command_line(tmp_path):
    command = [sys.executable, "-m", "glora_automl", "status"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert (ran.stdout, ran.stderr.count("\n")) == ("", 1)
    assert "no such file" in ran.stderr
