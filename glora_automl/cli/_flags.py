"""Flags of the running command, in place of the arguments that messages of the library name."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import typer

__all__ = ["Flags", "flags_here", "with_flags"]

_OPTIONS: dict[str, tuple[str, ...]] = {
    "search.n_trials": ("n_trials",),
    "search.sampler": ("sampler",),
    "selection.margin": ("margin",),
    "task.path": ("data",),
    "backbone.model": ("model",),
    "backbone.candidates": ("model",),
    "backbone.checkpoint": ("model", "backbone"),
}
"""Options that set a key of a recipe under another name."""

_ARGUMENT = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)(?: = ([^\s`]+))?`")


class Flags(NamedTuple):
    """Flags of a command.

    Attributes:
        all: Flags by argument.
        typed: Those on the command line, by argument and by key of the recipe that they set.
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
    flags = {p.name: p.opts[0] for p in command.params if p.param_type_name == "option"}
    if "changes" in flags:
        flags["set"] = flags["changes"]
    return Flags(flags, _typed(flags, sys.argv[2:]))


def _typed(flags: Mapping[str, str], words: Sequence[str]) -> dict[str, str]:
    found = {word.partition("=")[0] for word in words}
    typed = {}
    for before, word in zip(["", *words], words, strict=False):
        setting = word if before == "--set" else word.removeprefix("--set=")
        if "changes" in flags and (before == "--set" or setting != word):
            key = setting.partition("=")[0].strip()
            typed[key] = f"--set {key}=..."
    typed |= {name: flag for name, flag in flags.items() if flag in found}
    for key, names in _OPTIONS.items():
        for name in names:
            if flags.get(name) in found:
                typed[key] = flags[name]
    return typed


def with_flags(message: str, flags: Flags | None = None) -> str:
    """Return a message with the flags of the arguments that it names.

    Arguments in backticks always become flags. The subject of a message becomes one if the flag was
    typed.

    Args:
        message: Message of the library.
        flags: Flags of a command; by default of the running one.

    Example:
        >>> flags = Flags({"changes": "--set"}, {"search.n_trials": "--n-trials"})
        >>> with_flags("search.n_trials must be 1, got 0. Raise `search.n_trials`.", flags)
        '--n-trials must be 1, got 0. Raise --n-trials.'
        >>> with_flags("Raise `training.lr` or `selection.holdout = true`.", flags)
        'Raise --set training.lr=... or --set selection.holdout=true.'
        >>> with_flags("Choose another `trial`.", flags)
        'Choose another trial.'
    """
    flags = flags_here() if flags is None else flags

    def flag(match: re.Match[str]) -> str:
        name, value = match.groups()
        known = flags.typed.get(name) or flags.all.get(name)
        if known is not None and not known.startswith("--set "):
            return known if value is None else f"{known} {value}"
        # A command without --set can only tell of one that has it, with a value.
        if known is not None or ("." in name and ("changes" in flags.all or value is not None)):
            return f"--set {name}={value or '...'}"
        return name if value is None else f"{name} = {value}"

    message = re.sub(r"\bSet (?=--set )", "Use ", _ARGUMENT.sub(flag, message))
    for name, known in flags.typed.items():
        if not known.startswith("--set "):
            message = re.sub(rf"(^|: ){re.escape(name)}(?= must )", rf"\1{known}", message)
    return message
