"""When what people look at is refreshed in a study, and by whom."""

from __future__ import annotations

import time

from glora_automl.pipeline._run import Run

__all__ = ["Publisher"]


class Publisher:
    """Lets one worker at a time publish, after a generation and at the end.

    Args:
        run: The study, and what publishes, if anything does.
    """

    share = 0.05
    """Of a worker's time, the most that is spent on it before the end."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._next = 0.0

    def after_trials(self, before: int, now: int) -> None:
        """Publish if a generation was completed between two counts of trials."""
        generation = self._run.setup.recipe.search.population_size
        if now // generation > before // generation and time.monotonic() >= self._next:
            self.publish()

    def publish(self) -> None:
        """Publish, unless another worker does; what goes wrong is told and ends nothing."""
        publish, study = self._run.publish, self._run.study
        if publish is None:
            return
        begin = time.monotonic()
        try:
            self._run.stages.unless_taken("report", lambda: publish(study))
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self._run.setup.progress.log(f"The study's pictures were not refreshed: {reason}")
        end = time.monotonic()
        self._next = end + (end - begin) / self.share
