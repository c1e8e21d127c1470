"""Processes that create one storage at the same time."""

import optuna

from glora_automl.storages import open_storage


def draw(trial):
    return trial.suggest_float("x", 0, 1)


def create_at_once(url, barrier, results):
    """Create a study and run a trial when all processes are ready; put the error, or nothing."""
    barrier.wait()
    try:
        study = optuna.create_study(study_name="a", storage=open_storage(url), load_if_exists=True)
        study.optimize(draw, n_trials=1)
        results.put("")
    except Exception as error:
        results.put(repr(error))
