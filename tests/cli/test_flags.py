import ast
import re
from pathlib import Path

import pytest

import glora_automl
from glora_automl.cli._flags import Flags, flags_here, with_flags

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
        ("Free space, or set `task.unreadable = skip`.",
         "Free space, or use --set task.unreadable=skip."),
        ("Lower `task.shots` to at most 3.", "Lower task.shots to at most 3."),
        ("Lower `task.shots` or `task.size`.",
         "Lower --set task.shots=... or --set task.size=...."),
        ("`search.compile` must be false.", "search.compile must be false."),
        ("Choose a `backbone.model` of timm.", "Choose a backbone.model of timm."),
        ("Set img_size in `backbone.kwargs`.", "Set img_size in backbone.kwargs."),
        # Only what was typed can be left out; this is of the recipe's file.
        ("Leave out `selection.holdout`.", "Leave out selection.holdout."),
    ],
)  # fmt: skip
def test_with_flags_argument_in_backticks_becomes_flag(message, expected):
    assert with_flags(message, Flags(ALL)) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Lower `training.lr`.", "Lower training.lr."),
        # Such a hint is of another command, such as search.
        ("Search with `selection.holdout = true`.", "Search with --set selection.holdout=true."),
        ("Set `task.download = true`.", "Set task.download = true."),
        # The command's own option of a key, also where it was not typed.
        ("task.path must be a folder. Correct `task.path`.",
         "task.path must be a folder. Correct --data."),
    ],
)  # fmt: skip
def test_with_flags_command_without_set(message, expected):
    assert with_flags(message, Flags({"n_trials": "--n-trials", "data": "--data"})) == expected


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
        (["--model", "x"], "Set `backbone.checkpoint = FILE`.",
         "Use --set backbone.checkpoint=FILE."),
        (["--model", "a,b"], "Set `backbone.model = auto` or remove `backbone.candidates`.",
         "Set --model auto or remove backbone.candidates."),
        (["--set", "selection.holdout=false"], "Leave out `selection.holdout`, or add images.",
         "Leave out --set selection.holdout=..., or add images."),
        # The recipe takes the option of the first key, and of the second --set.
        (["--set", "search.n_trials=0", "--n-trials=5"], "search.n_trials must be 1.",
         "--n-trials must be 1."),
        (["--set", "task.path=x", "--data=y"], "task.path must be a folder. Correct `task.path`.",
         "task.path must be a folder. Correct --set task.path=...."),
        (["--data", "seed"], "The seed must be 1.", "The seed must be 1."),
    ],
)  # fmt: skip
def test_with_flags_names_what_was_typed(monkeypatch, words, message, expected):
    monkeypatch.setattr("sys.argv", ["glora", "search", "tiny.toml", *words])
    assert with_flags(message) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "GLORA_DEVICE must be free. Leave out GLORA_DEVICE, or set GLORA_DEVICE=cpu."),
        (["--device=x"], "--device must be free. Leave out --device, or set --device cpu."),
    ],
)
def test_with_flags_value_of_the_environment_names_its_variable(monkeypatch, words, expected):
    monkeypatch.setenv("GLORA_DEVICE", "x")
    monkeypatch.setattr("sys.argv", ["glora", "search", "tiny.toml", *words])
    message = "device must be free. Leave out `device`, or set `device = cpu`."
    assert with_flags(message) == expected


def _text(node):
    """Return the text of a string, with X in place of what an f-string inserts."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) else "X"


def messages():
    """Yield the strings of the package that name an argument, without docstrings."""
    for path in Path(glora_automl.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        skipped |= {id(p) for node in nodes if isinstance(node, ast.JoinedStr) for p in node.values}
        for node in nodes:
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in skipped:
                text = _text(node)
                if isinstance(text, str) and re.search(r"`[a-zA-Z_]\w*(\.\w+)*( = [^`]+)?`", text):
                    yield text


NONSENSE = re.compile(
    r"\bset --set|=\.\.\. (?!or |and )|\b(a|an|another|other|in|of|from|to) --set"
    r"|(remove|leave out) --set|^--set|[.:] --set",
    re.IGNORECASE,
)


@pytest.mark.parametrize("command", ["search", "resume"])
def test_with_flags_reads_well_in_every_message_of_the_package(monkeypatch, command):
    monkeypatch.setattr("sys.argv", ["glora", command, "x"])
    flags = flags_here()
    found = {text: with_flags(text, flags) for text in messages()}
    assert len(found) > 150
    assert [text for text in found.values() if NONSENSE.search(text)] == []
    assert any("--set " in text for text in found.values())
    # A command without --set can only name that of another command.
    if command == "resume":
        assert all(text.count("--set ") == text.count("with --set ") for text in found.values())
