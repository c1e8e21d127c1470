import pytest

from glora_automl.cli._flags import Flags, with_flags

ALL = {"n_trials": "--n-trials", "budget": "--budget", "changes": "--set", "set": "--set"}


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
        ("Set `task.download = true`.", "Use --set task.download=true."),
        ("Set `budget = 1%`.", "Set --budget 1%."),
        ("Set `trial = 3`.", "Set trial = 3."),
    ],
)
def test_with_flags_argument_in_backticks_becomes_flag(message, expected):
    assert with_flags(message, Flags(ALL)) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Lower `training.lr`.", "Lower training.lr."),
        # Such a hint is of another command, such as search.
        ("Search with `selection.holdout = true`.", "Search with --set selection.holdout=true."),
    ],
)
def test_with_flags_command_without_set(message, expected):
    assert with_flags(message, Flags({"n_trials": "--n-trials"})) == expected


@pytest.mark.parametrize(
    ("words", "message", "expected"),
    [
        (["--n-trials", "0"], "recipe a: search.n_trials must be 1. Raise `search.n_trials`.",
         "recipe a: --n-trials must be 1. Raise --n-trials."),
        (["--set", "search.n_trials=0"], "search.n_trials must be 1. Raise `search.n_trials`.",
         "search.n_trials must be 1. Raise --set search.n_trials=...."),
        (["--set=seed=0"], "seed must be 1. Correct `seed`.",
         "seed must be 1. Correct --set seed=...."),
        (["--seed=0"], "seed must be 1. Correct `seed`.", "--seed must be 1. Correct --seed."),
        ([], "seed must be 1. Correct `seed`.", "seed must be 1. Correct --seed."),
        (["--data", "x"], "task.path must be a folder. Correct `task.path`.",
         "--data must be a folder. Correct --data."),
        (["--model", "x=y"], "backbone.checkpoint must be a file. Correct `backbone.checkpoint`.",
         "--model must be a file. Correct --model."),
        (["--data", "seed"], "The seed must be 1.", "The seed must be 1."),
    ],
)  # fmt: skip
def test_with_flags_names_what_was_typed(monkeypatch, words, message, expected):
    monkeypatch.setattr("sys.argv", ["glora", "search", "tiny.toml", *words])
    assert with_flags(message) == expected
