import os
import shutil
from pathlib import Path

# Tiny models are slower on many threads, and much slower beside other work. Before torch is
# imported, so that the processes which tests start have it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
from optuna.storages import InMemoryStorage

from glora_automl.commands import search
from glora_automl.pipeline import Workspace
from glora_automl.recipes import Recipe, load_recipe, parse_recipe
from glora_automl.storages import open_storage

# The same examples in each run; `--hypothesis-profile=default` draws others.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

TINY = (Path(__file__).parents[1] / "studies/smoke.toml").read_text(encoding="utf-8")
"""The recipe that runs in seconds."""


@pytest.fixture
def tiny_toml():
    """A recipe that runs in seconds, as its text."""
    return TINY


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    """A recipe that runs in seconds."""
    import tomllib

    from glora_automl.search_space import load_search_space

    table = tomllib.loads(TINY)
    table["search_space"] = load_search_space("lean").model_dump(mode="json")
    return parse_recipe({**table, "name": "tiny"}, "recipe tiny")


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
    """The result of that run."""
    path = finished_runs / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return search(load_recipe(str(path)), workspace=Workspace(runs=finished_runs))


@pytest.fixture
def finished_workspace(finished, finished_runs, tmp_path):
    """A workspace with a copy of that study, which may be changed."""
    shutil.copytree(finished_runs, tmp_path / "runs")
    return Workspace(runs=tmp_path / "runs", artifacts=str(tmp_path / "runs/artifacts"))
