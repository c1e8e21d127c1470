"""Publishing of note and pictures: when, and by which worker."""

from __future__ import annotations

import time

from glora_automl.pipeline._run import Run
from glora_automl.study import Stage

__all__ = ["Publisher"]


class Publisher:
    """Lets one worker at a time publish, after a generation and at the end.

    Args:
        run: The study, with the function that publishes.
    """

    max_share = 0.05
    """Largest share of a worker's time that is spent on publishing before the end."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._next = 0.0

    def after_trials(self, before: int, now: int) -> None:
        """Publish if a generation was completed between two counts of trials."""
        population_size = self._run.context.recipe.search.population_size
        completed = now // population_size > before // population_size
        if completed and time.monotonic() >= self._next:
            self.publish()

    def publish(self) -> None:
        """Publish, unless another worker does. An error is logged and ends nothing."""
        publish, study = self._run.publish, self._run.study
        if publish is None:
            return
        begin = time.monotonic()
        try:
            self._run.stages.unless_taken(Stage.REPORT, lambda: publish(study))
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self._run.context.progress.log(f"Note and pictures were not refreshed: {reason}")
        end = time.monotonic()
        self._next = end + (end - begin) / self.max_share
