"""Interrupted runs, and the figures that must not depend on them."""

import contextlib
import re

from optuna.trial import TrialState

from glora_automl.commands import search
from glora_automl.study import summarize
from glora_automl.training import _position


class Interrupt(BaseException):
    """Ends a run like a signal: no handler of the package catches it."""


def figures(result):
    """Return all that must not depend on when and how often a run was interrupted."""
    summary = summarize(result.study)
    for row in summary["result"]:
        del row["seconds"]
    trials = result.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    # A failed trial keeps its number, so later ones are counted without it.
    places = {trial.number: place for place, trial in enumerate(trials)}
    selection = summary["selection"]
    selection["trial"] = places.get(selection["trial"])
    selection["candidates"] = [places[number] for number in selection["candidates"]]
    return (
        [(t.params, t.values, t.user_attrs["validation_loss"], t.constraints) for t in trials],
        selection,
        summary["result"],
        summary["digests"],
    )


def interrupt_after(monkeypatch, owner, name, calls=1):
    """Let a function raise after it has done its work for the n-th time."""
    original = getattr(owner, name)
    left = calls

    def wrapped(*args, **kwargs):
        nonlocal left
        value = original(*args, **kwargs)
        left -= 1
        if left == 0:
            raise Interrupt
        return value

    monkeypatch.setattr(owner, name, wrapped)


def interrupt_training(monkeypatch, stage, checkpoints=1):
    """Let the training of a stage, a regular expression, raise after its n-th checkpoint."""
    original, left = _position.save_checkpoint, checkpoints

    def wrapped(path, *args):
        nonlocal left
        digest = original(path, *args)
        if re.match(stage, path.name):
            left -= 1
            if left == 0:
                raise Interrupt
        return digest

    monkeypatch.setattr(_position, "save_checkpoint", wrapped)


def run_interrupted(monkeypatch, interrupt, *arguments, function=search, **keywords):
    """Run a command that an interrupt ends.

    Args:
        monkeypatch: Pytest's fixture.
        interrupt: Called with a monkeypatch that ends before this function does.
        arguments: Positional arguments of the function.
        function: The command; by default ``search``.
        keywords: Its other arguments.
    """
    with monkeypatch.context() as patch:
        interrupt(patch)
        with contextlib.suppress(Interrupt):
            function(*arguments, **keywords)
            raise AssertionError("the interrupt did not come")
