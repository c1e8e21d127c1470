"""When what people look at is refreshed in a study, and by whom."""

from __future__ import annotations

import time
from collections.abc import Callable

import optuna

from glora_automl.study._run import Run

__all__ = ["Publish", "Publisher"]

Publish = Callable[[optuna.Study], object]
"""Writes what people look at into a study, such as :func:`glora_automl.report.publish`."""


class Publisher:
    """Lets one worker at a time publish, after a generation and at the end.

    Args:
        run: The study.
        publish: What publishes; nothing if it is None.
    """

    share = 0.05
    """Of a worker's time, the most that is spent on it before the end."""

    def __init__(self, run: Run, publish: Publish | None) -> None:
        self._run = run
        self._publish = publish
        self._next = 0.0

    def after_trials(self, before: int, now: int) -> None:
        """Publish if a generation was completed between two counts of trials."""
        generation = self._run.setup.recipe.search.population
        if now // generation > before // generation and time.monotonic() >= self._next:
            self.publish()

    def publish(self) -> None:
        """Publish, unless another worker does; what goes wrong is told and ends nothing."""
        publish, study = self._publish, self._run.study
        if publish is None:
            return
        begin = time.monotonic()
        try:
            self._run.stages.unless_taken("report", lambda: publish(study))
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self._run.setup.progress.say(f"The study's pictures were not refreshed: {reason}")
        end = time.monotonic()
        self._next = end + (end - begin) / self.share
