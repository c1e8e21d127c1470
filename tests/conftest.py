import os
import shutil

# Tiny models are slower on many threads, and much slower beside other work. Before torch is
# imported, so that the processes which tests start have it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from optuna.storages import InMemoryStorage

from glora_automl.commands import search
from glora_automl.recipes import Recipe, load_recipe
from glora_automl.recipes._recipe import parse_recipe
from glora_automl.storages import open_storage

TINY = """
description = "a few seconds"
budget = "20%"
search_space = "default"

[task]
source = "digits"
classes = [5, 6, 7]
pretraining_classes = [0, 1, 2]
fit_per_class = 8
validation_per_class = 20

[backbone]
model = "vit_tiny_patch16_224"
kwargs = { img_size = 8, patch_size = 4, embed_dim = 16, depth = 2, num_heads = 2, drop_path_rate = 0.1 }

[backbone.pretraining]
epochs = 4
lr = 1e-3

[training]
epochs = 12
batch_size = 12
lr = 1e-2
warmup_epochs = 1
checkpoint_every = 2

[search]
n_trials = 12
population = 4
top = 2

[selection]
n_candidates = 3
finetune_epochs = 2
"""  # noqa: E501


@pytest.fixture
def tiny_toml():
    """A recipe that runs in seconds, as its text."""
    return TINY


@pytest.fixture
def tiny(tmp_path) -> Recipe:
    """A recipe that runs in seconds."""
    import tomllib

    from glora_automl.search_space import load_search_space

    table = tomllib.loads(TINY)
    table["search_space"] = load_search_space("default").model_dump(mode="json")
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
    """That run."""
    path = finished_runs / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return search(load_recipe(str(path)), runs=finished_runs)


@pytest.fixture
def finished_place(finished, finished_runs, tmp_path):
    """Where that study may be changed: arguments of whatever works on it."""
    shutil.copytree(finished_runs, tmp_path / "runs")
    return {"runs": tmp_path / "runs", "artifacts": str(tmp_path / "runs/artifacts")}
