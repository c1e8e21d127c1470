import shutil

import pytest
from optuna.storages import InMemoryStorage

from glora_automl.storages import open_storage
from glora_automl.study import load_recipe, search
from tests.conftest import TINY


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


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory):
    """The runs folder of one uninterrupted run of the tiny recipe."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="session")
def finished(finished_runs):
    """That run."""
    path = finished_runs / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return search(load_recipe(str(path)), runs=finished_runs)


@pytest.fixture
def finished_place(finished, finished_runs, tmp_path):
    """Where that study may be changed: arguments of whatever works on it."""
    shutil.copytree(finished_runs, tmp_path / "runs")
    return {"runs": tmp_path / "runs", "artifacts": str(tmp_path / "runs/artifacts")}
