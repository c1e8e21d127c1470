"""Summary of a study from its storage."""

import json

import optuna
import pytest
from optuna.trial import TrialState

from glora_automl.samplers import sort_trials
from glora_automl.study import (
    Row,
    Selection,
    SelectOutcome,
    list_studies,
    set_attribute,
    study_key,
    summarize,
)
from glora_automl.study._costs import find_stages
from glora_automl.training import Score
from glora_automl.workers import stage_study_name
from tests.report.studies import add_stage, add_trials, begin_study, finish, made_study


def run_stage(study, stage):
    """Let a worker be at a stage; return the study of stages and its running trial."""
    stages = optuna.create_study(
        study_name=stage_study_name(study.study_name), storage=study._storage, load_if_exists=True
    )
    trial = stages.ask()
    trial.set_user_attr("stage", stage)
    trial.set_user_attr("key", study_key(study))
    return stages, trial


@pytest.fixture
def memory():
    return optuna.storages.InMemoryStorage()


def test_summarize_stage_follows_the_study(memory):
    study = begin_study(memory)
    space = made_study()[1]
    assert summarize(study)["stage"] == "supernet"
    set_attribute(study, "supernet", {"digest": "s" * 64})
    assert summarize(study)["stage"] == "search"
    add_trials(study, space, 40)
    assert summarize(study)["stage"] == "selection"
    for stage in ("selection", "refit", "baseline-BitFit"):
        stages, trial = run_stage(study, stage)
        assert summarize(study)["stage"] == stage.partition("-")[0]
        stages.tell(trial, state=TrialState.FAIL)
    set_attribute(study, "selection", {"trial": 1})
    assert summarize(study)["stage"] == "test"
    set_attribute(study, "result", [])
    assert summarize(study)["stage"] == "finished"
    assert summarize(study)["digests"]["supernet"] == "s" * 64


def test_summarize_given_architecture_is_in_training(memory):
    study = begin_study(memory)
    settings = study.user_attrs["glora:settings"]
    recipe = {**settings["recipe"], "architecture": "lora"}
    set_attribute(study, "settings", {**settings, "recipe": recipe})
    assert summarize(study)["stage"] == "training"


def test_summarize_is_json_with_trials_best_and_front():
    study, space = made_study(trials=10)
    add_trials(study, space, 1, state=TrialState.FAIL)
    add_trials(study, space, 1, over=5, validation_accuracy=1.0)  # best, but over the budget
    finish(study, space)
    summary = json.loads(json.dumps(summarize(study)))
    counts = {"complete": 11, "pruned": 0, "running": 0, "failed": 1, "all": 12}
    assert summary["trials"] == {"target": 40, **counts}
    (best,) = sort_trials(study.trials[:10], study.directions, 1)
    assert summary["best"] == {
        "trial": best.number,
        "value": best.value,
        "n_params": best.user_attrs["trainable_params"],
    }
    sizes = [point["n_params"] for point in summary["front"]]
    values = [point["value"] for point in summary["front"]]
    assert sizes == sorted(set(sizes))
    assert values == sorted(set(values))
    assert summary["front"][-1]["trial"] == best.number
    assert [row["name"] for row in summary["result"]] == ["searched", "LoRA r=2", "BitFit"]


def test_summarize_without_trials_has_no_best(memory):
    summary = summarize(begin_study(memory))
    assert (summary["best"], summary["front"], summary["selects"]) == (None, [], [])
    assert (summary["seconds"], summary["workers"]) == ({}, {})


def test_summarize_selects_are_sorted_by_budget():
    study, _ = made_study(trials=4)
    score = Score(0.9, 0.3, 100, 0.25)
    add_stage(study, "select-50", 1.0, n_trained=10)  # trained, not tested yet
    stages = find_stages(study)
    for budget in (300, 40):
        outcome = SelectOutcome(budget, Selection("fc: none", 0, score), Row("searched", 0, score))
        stages.add_trial(
            optuna.trial.create_trial(
                value=1.0,
                user_attrs={
                    "worker": "host-0",
                    "stage": f"select-{budget}-test",
                    "key": study_key(study),
                    "outcome": outcome.to_json(),
                },
            )
        )
    selects = summarize(study)["selects"]
    assert [found["budget"] for found in selects] == [40, 300]
    assert Row.from_json(selects[0]["row"]) == Row("searched", 0, score)


def test_summarize_workers_have_their_trials_stages_and_place():
    study, space = made_study(trials=5)
    add_trials(study, space, 1, state=TrialState.RUNNING)  # of host-1
    add_stage(study, "supernet", 1.0)
    add_stage(study, "settings", 1.0, worker="host-9")
    assert summarize(study)["workers"] == {
        "host-0": {"trials": 3, "stages": ["supernet"], "at": None},
        "host-1": {"trials": 2, "stages": [], "at": "trial 5"},
    }


def test_list_studies_skips_foreign_ones_and_shows_other_formats(memory):
    made_study(memory, trials=2, name="b")
    made_study(memory, trials=0, name="a")
    optuna.create_study(study_name="foreign", storage=memory)
    newer = optuna.create_study(study_name="newer", storage=memory)
    set_attribute(newer, "format", 99)
    found = list_studies(memory)
    assert [summary["study"] for summary in found] == ["a", "b", "newer"]
    assert found[2] == {"study": "newer", "stage": "of format 99, this version reads 3"}
