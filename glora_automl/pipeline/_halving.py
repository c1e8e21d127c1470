"""Candidates that are trained for real before one of them is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from glora_automl.architecture import Architecture
from glora_automl.pipeline._run import Run
from glora_automl.pipeline._standalone import Attempt, attempt, learning_rates, trained_row
from glora_automl.study import Row, quality
from glora_automl.supernet import Supernet

__all__ = ["HalvingResult", "successive_halving"]


class HalvingResult(NamedTuple):
    """How a contest ended.

    Attributes:
        place: Place of the winner among the candidates.
        supernet: The winner, trained alone.
        row: Its scores, and what all of them have cost.
    """

    place: int
    supernet: Supernet
    row: Row


def successive_halving(run: Run, stage: str, candidates: Sequence[Architecture]) -> HalvingResult:
    """Train candidates alone, round by round, fewer of them for longer.

    Weights that were inherited from a supernet rank architectures roughly; those that come first
    are trained from the backbone, for a fraction of the epochs, and the best by validation go on to
    the next round, which takes twice as long (successive halving: Jamieson and Talwalkar, 2016).
    The last round trains what is left for as long as a control. All that is at one learning rate:
    the winner alone is trained at the others that the recipe names, too, like a control.

    Args:
        run: The study. Its recipe says how many take part in each round.
        stage: The stage that this is.
        candidates: Best first.
    """
    recipe = run.setup.recipe
    rounds, rates = recipe.selection.rounds, learning_rates(run.setup)
    # The supernet's rate if that is one of them: candidates and winner are then trained alike.
    first = recipe.training.lr if recipe.training.lr in rates else rates[-1]
    left = list(range(len(candidates)))
    images, seconds = 0, 0.0
    best: Attempt | None = None

    def train(place: int, rates: Sequence[float], title: str, epochs: int) -> Attempt:
        digest = candidates[place].digest[:16]
        return attempt(
            run,
            f"{stage}-{digest}",
            f"contest-{digest}",
            candidates[place],
            rates,
            title=title,
            epochs=epochs,
        )

    for number, most in enumerate(rounds, 1):
        epochs = max(1, recipe.standalone_epochs // 2 ** (len(rounds) - number))
        found: list[tuple[tuple[float, ...], int]] = []
        for nth, place in enumerate(left[:most], 1):
            title = f"Round {number} of {len(rounds)}: candidate {nth} of {len(left[:most])}"
            tried = train(place, (first,), _WINNER if rounds == (1,) else title, epochs)
            images, seconds = images + tried.n_images, seconds + tried.seconds
            entry = (tuple(-q for q in quality(tried.score)), place)
            # The others are let go of: each is a whole model.
            best = tried if not found or entry < min(found) else best
            found.append(entry)
        left = [place for _, place in sorted(found)]
    assert best is not None, "somebody takes part"
    place, best = left[0], best._replace(n_images=images, seconds=seconds)
    if others := [rate for rate in rates if rate != first]:
        best = best.best_of(train(place, others, _WINNER, recipe.standalone_epochs))
    name, winner = f"contest-{candidates[place].digest[:16]}", candidates[place]
    supernet, row = trained_row(run, f"{stage}-winner", name, winner, best, title=_WINNER)
    return HalvingResult(place, supernet, row)


_WINNER = "Train the winner"
