"""Who does what: workers, stages, trials. Nothing here knows images or display."""

from glora_automl.workers._meter import Meter
from glora_automl.workers._positions import Positions
from glora_automl.workers._stages import Claim, Stages, Work, stage_study_name
from glora_automl.workers._trials import Callback, Evaluation, run_trials
from glora_automl.workers._worker import Worker

__all__ = [
    "Callback",
    "Claim",
    "Evaluation",
    "Meter",
    "Positions",
    "Stages",
    "Work",
    "Worker",
    "run_trials",
    "stage_study_name",
]
