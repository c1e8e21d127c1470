import pytest
from optuna.storages import InMemoryStorage

from glora_automl.storages import open_storage


@pytest.fixture(params=["sqlite", "journal", "memory"])
def storage(request, tmp_path):
    """Storages with Optuna's heartbeats and without."""
    opened = {
        "sqlite": lambda: open_storage(f"sqlite:///{tmp_path}/a.db"),
        "journal": lambda: open_storage(f"{tmp_path}/a.log"),
        "memory": InMemoryStorage,
    }[request.param]()
    yield opened
    if request.param == "sqlite":
        opened.engine.dispose()
