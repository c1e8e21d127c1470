"""Candidates that are trained for real before one of them is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from glora_automl.architecture import Architecture
from glora_automl.study._alone import train_alone
from glora_automl.study._result import Row, quality
from glora_automl.study._run import Run
from glora_automl.supernet import Supernet

__all__ = ["Contest", "contest"]


class Contest(NamedTuple):
    """How a contest ended.

    Attributes:
        place: Place of the winner among the candidates.
        supernet: The winner, trained alone.
        row: Its scores.
        images: Images that all of them were trained on.
    """

    place: int
    supernet: Supernet
    row: Row
    images: int


def contest(run: Run, stage: str, candidates: Sequence[Architecture]) -> Contest:
    """Train candidates alone, round by round, fewer of them for longer.

    Weights that were inherited from a supernet rank architectures roughly; those that come first
    are trained from the backbone, for a fraction of the epochs, and the best by validation go on to
    the next round, which takes twice as long (successive halving: Jamieson and Talwalkar, 2016).
    The last round trains what is left like a control.

    Args:
        run: The study. Its recipe says how many take part in each round.
        stage: The stage that this is.
        candidates: Best first.
    """
    recipe = run.setup.recipe
    rounds = recipe.selection.rounds
    left = list(range(len(candidates)))
    images = 0
    for number, most in enumerate(rounds, 1):
        share = 2 ** (len(rounds) - number)
        found: list[tuple[tuple[float, float], int, Supernet, Row]] = []
        left = left[:most]
        for nth, place in enumerate(left, 1):
            architecture = candidates[place]
            title = f"Round {number} of {len(rounds)}: candidate {nth} of {len(left)}"
            supernet, row = train_alone(
                run,
                f"{stage}-{architecture.digest[:16]}",
                f"contest-{architecture.digest[:16]}",
                architecture,
                title="Train the winner" if rounds == (1,) else title,
                epochs=None if share == 1 else max(1, recipe.alone_epochs // share),
            )
            assert row.validation is not None
            images += row.images
            found.append((quality(row.validation), place, supernet, row))
        found.sort(key=lambda entry: (*(-q for q in entry[0]), entry[1]))
        left = [place for _, place, _, _ in found]
    _, place, supernet, row = found[0]
    return Contest(place, supernet, row, images)
