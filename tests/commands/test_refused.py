"""Recipes that a search refuses, and corrected recipes."""

import shutil
from functools import partial

import optuna
import pytest

from glora_automl.commands import _search, search
from glora_automl.errors import (
    BudgetError,
    LayerError,
    RecipeError,
    StorageError,
    StudyError,
    TrainingError,
)
from glora_automl.pipeline import Workspace, _open
from glora_automl.recipes import parse_recipe
from glora_automl.study import (
    get_setting,
    load_study,
    summarize,
)
from glora_automl.supernet import Scorer
from tests.commands.interrupts import (
    interrupt_after,
    interrupt_training,
    run_interrupted,
)
from tests.commands.studies import load

ALONE = {"selection": {"baselines": False}}


def test_search_fewer_trials_raises(tiny, workspace, monkeypatch):
    interrupt = partial(interrupt_after, owner=Scorer, name="score", calls=2)
    run_interrupted(monkeypatch, interrupt, tiny, workspace=workspace)
    with pytest.raises(RecipeError, match=r"n_trials must be at least 12, .* got 3"):
        search(tiny.replace(search={"n_trials": 3}), workspace=workspace)


def test_search_other_artifacts_than_the_studys_raise_and_a_copy_is_used(
    finished_runs, finished, tiny, tmp_path
):
    for name in ("other", "copy"):
        shutil.copytree(finished_runs / "artifacts", tmp_path / name)
    (mark,) = (tmp_path / "other").glob("study-*")
    mark.unlink()
    other, copy = (
        Workspace(runs=finished_runs, artifacts=str(tmp_path / name)) for name in ("other", "copy")
    )
    with pytest.raises(StorageError) as caught:
        search(tiny, workspace=other)
    assert str(caught.value).startswith("`artifacts` must be the store of the study 'tiny', ")
    assert "Leave out `artifacts`, or name the place to which" in str(caught.value)
    assert search(tiny, workspace=copy).rows == finished.rows


def test_search_artifacts_of_the_same_path_on_another_machine_raise(
    finished_workspace, tiny, tmp_path
):
    shutil.rmtree(tmp_path / "runs/artifacts")
    (tmp_path / "runs/artifacts").mkdir()
    with pytest.raises(StorageError, match=r"of this machine, which has none of its files"):
        search(tiny, workspace=Workspace(runs=tmp_path / "runs"))


def test_search_of_a_study_without_results_may_correct_its_artifacts(tiny, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/studies.db"
    wrong, right = (
        Workspace(runs=tmp_path / "runs", storage=url, artifacts=str(tmp_path / name))
        for name in ("wrong", "right")
    )
    interrupt = partial(interrupt_training, stage="supernet")
    run_interrupted(monkeypatch, interrupt, tiny.replace(**ALONE), workspace=wrong)
    (tmp_path / "right").mkdir()
    result = search(tiny.replace(**ALONE), workspace=right)
    assert get_setting(result.study, "artifacts") == "right"
    assert list((tmp_path / "right").glob("study-*"))


@pytest.mark.parametrize("own", [True, False])
def test_search_whose_study_another_worker_begins_meanwhile_joins_its_artifacts(
    tiny, tmp_path, monkeypatch, own
):
    """Both workers have opened their stores before either has created the study."""
    url, begun = f"sqlite:///{tmp_path}/studies.db", []
    first = Workspace(runs=tmp_path / "a", storage=url, artifacts=str(tmp_path / "first"))
    second = Workspace(
        runs=tmp_path / "b", storage=url, artifacts=str(tmp_path / "second") if own else None
    )
    original = _open._settings

    def settings(*arguments):
        if not begun:
            begun.append(1)
            search(tiny.replace(**ALONE), workspace=first)
        return original(*arguments)

    monkeypatch.setattr(_open, "_settings", settings)
    if own:
        with pytest.raises(StorageError, match=r"second'\. Leave out `artifacts`"):
            search(tiny.replace(**ALONE), workspace=second)
    else:
        assert search(tiny.replace(**ALONE), workspace=second).rows
    assert not list(tmp_path.glob("second/*"))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "1h", 1e9])
def test_search_timeout_out_of_range_raises_and_writes_nothing(tiny, tmp_path, timeout):
    with pytest.raises(RecipeError, match="timeout must be above 0"):
        search(tiny, timeout=timeout, workspace=Workspace(runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_search_other_settings_raise_and_name_the_first(finished, finished_runs, tiny):
    with pytest.raises(RecipeError, match=r"training\.lr must be 0\.01, .* got 0\.02"):
        search(tiny.replace(training={"lr": 0.02}), workspace=Workspace(runs=finished_runs))


def test_search_budget_below_the_minimum_raises_and_writes_nothing(tiny, tmp_path):
    spec = tiny.search_space.model_copy(
        update={"choices": tiny.search_space.choices.model_copy(update={"E": ("vector",)})}
    )
    recipe = tiny.replace(budget=3, search_space=spec.model_dump(mode="json"))
    with pytest.raises(BudgetError, match="at least"):
        search(recipe, workspace=Workspace(runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_search_diverging_training_raises_and_leaves_no_trial(tiny, workspace):
    recipe = tiny.replace(training={"lr": 1e6, "clip_grad": 0.0})
    with pytest.raises(TrainingError, match=r"Lower `training\.lr`"):
        search(recipe, workspace=workspace)
    assert load(workspace).trials == []


def test_search_study_restarted_with_other_settings_raises(tiny, workspace, monkeypatch):
    """As long as there is no supernet, a corrected recipe may take the name."""
    original, started = _search.load_backbone, []

    def load_backbone(run):
        loaded = original(run)
        if not started:
            started.append(1)
            interrupt = partial(interrupt_training, stage="supernet")
            other = tiny.replace(training={"lr": 0.02})
            run_interrupted(monkeypatch, interrupt, other, workspace=workspace)
        return loaded

    monkeypatch.setattr(_search, "load_backbone", load_backbone)
    with pytest.raises(StudyError, match="deleted it or begun it again"):
        search(tiny, workspace=workspace)
    study = load(workspace)
    assert get_setting(study, "recipe")["training"]["lr"] == 0.02
    assert study.trials == []


@pytest.mark.parametrize("after", ["divergence", "checkpoint"])
def test_search_corrected_recipe_restarts_under_the_same_name(tiny, workspace, monkeypatch, after):
    if after == "divergence":
        with pytest.raises(TrainingError):
            diverging = tiny.replace(training={"lr": 1e6, "clip_grad": 0.0})
            search(diverging, workspace=workspace)
    else:
        interrupt = partial(interrupt_training, stage="supernet")
        other = tiny.replace(training={"lr": 0.03})
        run_interrupted(monkeypatch, interrupt, other, workspace=workspace)
    recipe = tiny.replace(search={"n_trials": 2}, **ALONE)
    result = search(recipe, workspace=workspace)
    assert summarize(result.study)["recipe"]["training"]["lr"] == 0.01


def test_search_foreign_study_of_the_name_raises_and_is_unchanged(tiny, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    foreign = optuna.create_study(study_name="tiny", storage=url, direction="maximize")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match="must be a study that glora_automl created"):
        search(tiny, workspace=Workspace(runs=tmp_path))
    assert foreign.user_attrs == {}
    assert len(foreign.trials) == 1


def test_search_empty_study_of_another_direction_raises(tiny, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    optuna.create_study(study_name="tiny", storage=url, direction="maximize")
    with pytest.raises(StudyError, match=r"\(maximize\), got minimize"):
        search(tiny, workspace=Workspace(runs=tmp_path))


@pytest.mark.parametrize("name", ["..", "a/b", "/tmp/x", "backbones", " ", "a b", "x" * 101])
def test_search_name_outside_of_its_folder_raises_and_writes_nothing(tiny, tmp_path, name):
    with pytest.raises(RecipeError, match="name must be"):
        search(tiny, name=name, workspace=Workspace(runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("heartbeat", [0.5, 2e6, float("nan"), float("inf")])
def test_search_heartbeat_out_of_range_raises_and_writes_nothing(tiny, tmp_path, heartbeat):
    with pytest.raises(RecipeError, match="heartbeat must be from 1 to 1,000,000 seconds"):
        search(tiny, workspace=Workspace(runs=tmp_path / "runs", heartbeat=heartbeat))
    assert not (tmp_path / "runs").exists()


def test_search_unadaptable_model_raises_and_writes_nothing(tiny, tmp_path):
    backbone = {
        "model": "resnet18",
        "pretraining": None,
        "kwargs": {"pretrained_cfg_overlay": {"input_size": [3, 32, 32]}},
    }
    table = tiny.model_dump(mode="json") | {"backbone": backbone}
    with pytest.raises(LayerError, match=r"conv1.*a convolution over 7 x 7 pixels"):
        search(parse_recipe(table, "recipe tiny"), workspace=Workspace(runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_load_study_of_another_format_raises(tmp_path):
    study = optuna.create_study(study_name="new", storage=f"sqlite:///{tmp_path}/studies.db")
    study.set_user_attr("glora:format", 99)
    with pytest.raises(StudyError, match="must have format 3, got 99"):
        load_study(study._storage, "new")
