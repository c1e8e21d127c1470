from dataclasses import replace

import pytest
import torch

from glora_automl.commands import search
from glora_automl.errors import CheckpointError, Stopped
from glora_automl.pipeline import (
    Workspace,
    _training,
    fetch_supernet,
    load_backbone,
    load_supernet,
    new_supernet,
    open_run,
    prepare,
    train_supernet,
)
from glora_automl.study import Stage, SupernetOutcome
from glora_automl.supernet import widest_architecture
from glora_automl.training import evaluate


@pytest.fixture
def recipe(tiny):
    return tiny.replace(training={"epochs": 4, "checkpoint_every": 1})


@pytest.fixture
def workspace(tmp_path):
    return Workspace(runs=tmp_path, device="cpu")


@pytest.fixture
def context(recipe, workspace):
    context = prepare(recipe, workspace, "tiny")
    return context.with_backbone(context.create_backbone())


def is_ordered(supernet):
    """Whether the columns of all products are orthogonal with falling norms."""
    for layer in supernet.layers.values():
        left = layer.B_left.detach()
        gram = left.T @ left
        norms = gram.diagonal()
        if (gram - norms.diag()).abs().max() > 1e-4 * norms.max():
            return False
        if (norms[1:] > norms[:-1] + 1e-6).any():
            return False
    return True


def test_train_supernet_wide_trains_all_parameters_and_orders_the_factors(context):
    before = new_supernet(context).state_dict()
    trained = train_supernet(context, None)
    assert trained.widest == widest_architecture(context.space)
    after = trained.supernet.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert is_ordered(trained.supernet)


def test_train_supernet_uniform_has_no_widest_architecture(context):
    uniform = replace(context, recipe=context.recipe.replace(supernet={"paths": "uniform"}))
    trained = train_supernet(uniform, None)
    assert trained.widest is None
    assert not is_ordered(trained.supernet)


def test_train_supernet_fits_the_training_images(context):
    longer = replace(context, recipe=context.recipe.replace(supernet={"epochs_ratio": 10}))
    before, after = new_supernet(longer), train_supernet(longer, None)
    for supernet in (before, after.supernet):
        supernet.activate(after.widest)
    scores = [evaluate(s.model.eval(), *longer.train) for s in (before, after.supernet)]
    assert scores[1].loss < 0.8 * scores[0].loss


@pytest.fixture
def trainings(monkeypatch):
    """Epochs of each training of a supernet."""
    calls, original = [], _training.train

    def counted(*arguments, **keywords):
        if keywords["stage"] == Stage.SUPERNET:
            calls.append(arguments[4].epochs)
        return original(*arguments, **keywords)

    monkeypatch.setattr(_training, "train", counted)
    return calls


def test_load_supernet_trains_once_and_records_the_outcome(recipe, workspace, trainings, context):
    for _ in range(2):
        with open_run(recipe, workspace) as run:
            run = load_backbone(run)
            trained = load_supernet(run)
            outcome = run.stages.outcome(Stage.SUPERNET, SupernetOutcome)
            again = fetch_supernet(run).supernet
            recorded = run.study.user_attrs["glora:supernet"]
    assert trainings == [4]
    assert outcome.spent.n_trained == 4 * 24
    assert len(outcome.losses) == 4
    assert recorded == outcome.to_json()
    expected = train_supernet(context, None).supernet.state_dict()
    for found in (trained.supernet.state_dict(), again.state_dict()):
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not trained.supernet.model.training


def test_load_supernet_with_an_altered_artifact_raises(recipe, workspace):
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        load_supernet(run)
        outcome = run.stages.outcome(Stage.SUPERNET, SupernetOutcome)
        (workspace.folder / "artifacts" / outcome.artifact.id).write_bytes(b"other")
        with pytest.raises(CheckpointError, match="altered or cut short"):
            load_supernet(run)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same machine", "another machine"])
def test_load_supernet_after_a_stop_goes_on(recipe, tmp_path, context, elsewhere, trainings):
    calls, active = [], []

    def stop():
        calls.append(1)
        return bool(active) and len(calls) > active[0] + 5

    store = str(tmp_path / "store")
    storage = f"sqlite:///{tmp_path}/a.db"
    first = Workspace(
        runs=tmp_path / "a", storage=storage, artifacts=store, device="cpu", stop=stop
    )
    with open_run(recipe, first) as run:
        run = load_backbone(run)
        active.append(len(calls))
        with pytest.raises(Stopped):
            load_supernet(run)
    runs = tmp_path / ("b" if elsewhere else "a")
    second = Workspace(runs=runs, storage=storage, artifacts=store, device="cpu")
    with open_run(recipe, second) as run:
        run = load_backbone(run)
        found = load_supernet(run).supernet.state_dict()
    assert len(trainings) == 2
    expected = train_supernet(context, None).supernet.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # Only mark, backbone and supernet stay in the store; uploaded checkpoints are removed.
    assert len(list((tmp_path / "store").iterdir())) == 3


def test_search_with_uniform_paths_scores_all_choices(tiny, workspace):
    recipe = tiny.replace(
        supernet={"paths": "uniform"},
        search_space={"base": "default"},
        training={"epochs": 3},
        selection={"baselines": False},
        search={"n_trials": 6},
    )
    result = search(recipe, workspace=workspace)
    choices = {choice for t in result.study.trials for choice in t.params.values()}
    assert "scalar" in choices
    assert {"none", "vector"} < choices
