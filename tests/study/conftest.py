"""Settings of a study, and a storage in memory."""

import optuna
import pytest

from glora_automl.recipes import load_recipe
from glora_automl.study import Settings
from tests.report.studies import made_space


@pytest.fixture
def settings():
    space = made_space()
    recipe = load_recipe("digits").replace(search={"n_trials": 20})
    return Settings(
        recipe=recipe,
        budget=1000,
        target=20,
        digests={"data": "d" * 64, "search space": space.digest},
        versions={"python": "3.12"},
        heartbeat=10.0,
        artifacts="runs/artifacts",
        layers=space.shapes,
        initial=("01",),
    )


@pytest.fixture
def memory():
    return optuna.storages.InMemoryStorage()
