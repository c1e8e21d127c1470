"""Flags of the running command, in place of the arguments that messages of the library name."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import typer

__all__ = ["Flags", "flags_here", "with_flags"]

_OPTIONS = {
    "search.n_trials": "n_trials",
    "search.sampler": "sampler",
    "selection.margin": "margin",
    "task.path": "data",
    "backbone.model": "model",
    "backbone.checkpoint": "backbone",
}
"""Options that set a key of a recipe under another name."""

_BEFORE_SET = ("task.", "backbone.")
"""Keys whose option is applied before ``--set``, which so wins; the others' are applied last."""

_ARGUMENT = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)(?: = ([^\s`]+))?`")
_CHANGE = re.compile(
    r"\b(?:(set|raise|lower|correct|change)|remove|leave out) (?:`[^`]+`(?:,|,? or|,? and) )*$",
    re.I,
)
"""The words before a key that its user is to change, or to remove."""

_END = re.compile(r"$|[.,;:)]| or | and ")
"""What may follow a key that is to be changed; others, such as `to 3`, need the plain key."""


class Flags(NamedTuple):
    """Flags of a command.

    Attributes:
        all: Flags by argument.
        typed: Those on the command line, by argument and by key of the recipe that they set. Of an
            argument that a variable of the environment gives, the variable.
    """

    all: Mapping[str, str] = {}
    typed: Mapping[str, str] = {}


def flags_here() -> Flags:
    """Return the flags of the running command; none before a command is known."""
    from glora_automl.cli._main import app

    commands = getattr(typer.main.get_command(app), "commands", {})
    command = next((commands[word] for word in sys.argv[1:2] if word in commands), None)
    if command is None:
        return Flags()
    options = [p for p in command.params if p.param_type_name == "option"]
    flags = {p.name: p.opts[0] for p in options}
    variables = {p.name: p.envvar for p in options if p.envvar and os.environ.get(p.envvar)}
    typed = variables | _typed(flags, sys.argv[2:])
    if "changes" in flags:
        flags["set"] = flags["changes"]
    return Flags(flags, typed)


def _typed(flags: Mapping[str, str], words: Sequence[str]) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    for word, after in zip(words, [*words[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        values.setdefault(flag, []).append(value if equals else after)
    typed = {}
    if "changes" in flags:
        keys = [setting.partition("=")[0].strip() for setting in values.get("--set", ())]
        typed = {key: f"--set {key}=..." for key in keys}
    typed |= {name: flag for name, flag in flags.items() if flag in values}
    for key, name in _OPTIONS.items():
        if name in typed and not (key in typed and key.startswith(_BEFORE_SET)):
            typed[key] = flags[name]
    if any("=" in value for value in values.get("--model", ())):  # NAME=FILE
        typed.setdefault("backbone.checkpoint", "--model")
    return typed


def with_flags(message: str, flags: Flags | None = None) -> str:
    """Return a message with the flags of the arguments that it names.

    Arguments in backticks become flags. A key of a recipe becomes ``--set`` where the message asks
    to change it. The subject of a message becomes a flag that was typed.

    Args:
        message: Message of the library.
        flags: Flags of a command; by default of the running one.

    Example:
        >>> flags = Flags({"changes": "--set"}, {"search.n_trials": "--n-trials"})
        >>> with_flags("search.n_trials must be 1, got 0. Raise `search.n_trials`.", flags)
        '--n-trials must be 1, got 0. Raise --n-trials.'
        >>> with_flags("Raise `training.lr` or set `selection.holdout = true`.", flags)
        'Raise --set training.lr=... or use --set selection.holdout=true.'
        >>> with_flags("Lower `task.shots` to at most 3. Choose another `trial`.", flags)
        'Lower task.shots to at most 3. Choose another trial.'
    """
    flags = flags_here() if flags is None else flags
    has_set = "changes" in flags.all

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        known = flags.typed.get(name) or flags.all.get(name)
        if known is None and not has_set:
            known = flags.all.get(_OPTIONS.get(name, ""))
        if known is not None and not known.startswith("--set "):
            between = " " if known.startswith("--") else "="
            return known if value is None else f"{known}{between}{value}"
        before = message[: match.start()]
        if value is not None:
            # Without --set, the hint may be of a command that has it: search again with ...
            is_set = "." in name and (has_set or before.endswith("with "))
            return f"--set {name}={value}" if is_set else f"{name} = {value}"
        change = _CHANGE.search(before)
        is_set = known is not None or (has_set and "." in name)
        if is_set and change and (known or change[1]) and _END.match(message, match.end()):
            return f"--set {name}=..."
        return name

    text = _ARGUMENT.sub(flag, message)
    text = re.sub(r"\b([Ss])et (?=--set )", lambda m: "Use " if m[1] == "S" else "use ", text)
    for name, known in flags.typed.items():
        if not known.startswith("--set "):
            text = re.sub(rf"(^|: ){re.escape(name)}(?= must )", rf"\1{known}", text)
    return text
