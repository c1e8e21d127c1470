"""Costs of a study by stage and worker."""

import optuna
import pytest

from glora_automl.study import Cost, Spent, Stage, stage_costs, stage_spent, summarize, trials_spent
from glora_automl.study._costs import STAGES, attempts, find_stages
from tests.report.studies import add_stage, add_trials, begin_study, made_study


def test_stage_costs_are_sums_per_stage_and_worker_in_order():
    study, space = made_study(trials=5)
    add_trials(study, space, 1, peak_mib=700.0, gpu_mib=90.0, joules=2.5)  # of host-1
    add_trials(study, space, 2, peak_mib=600.0, joules=1.5)
    add_stage(study, "test", 1.0, n_evaluated=300)
    add_stage(study, "supernet", 12.5, n_trained=600)
    add_stage(study, "baseline-BitFit", 2.0, worker="host-1", n_trained=300, n_evaluated=150)
    add_stage(study, "baseline-LoRA-r2", 3.0, worker="host-1", n_trained=400, n_evaluated=150)
    add_stage(study, "selection", 4.0, n_trained=300, n_evaluated=300)
    add_stage(study, "refit", 1.5, n_trained=200)
    add_stage(study, "select-100-refit", 0.5, n_trained=50)
    add_stage(study, "compare-pair-1", 0.25, n_trained=70, n_evaluated=30)
    add_stage(study, "settings", 9.0)
    add_stage(study, "report", 9.0)
    assert stage_costs(study) == [
        Cost(Stage.SUPERNET, "host-0", 1, 12.5, 600),
        Cost(Stage.SEARCH, "host-0", 4, 2.0, 0, 600, 600.0, None, 1.5),
        Cost(Stage.SEARCH, "host-1", 4, 2.0, 0, 600, 700.0, 90.0, 4.0),
        Cost(Stage.BASELINE, "host-1", 2, 5.0, 700, 300),
        Cost(Stage.SELECTION, "host-0", 1, 4.0, 300, 300),
        Cost(Stage.REFIT, "host-0", 1, 1.5, 200),
        Cost(Stage.TEST, "host-0", 1, 1.0, 0, 300),
        Cost(Stage.SELECT, "host-0", 1, 0.5, 50),
        Cost(Stage.COMPARE, "host-0", 1, 0.25, 70, 30),
    ]
    summary = summarize(study)
    assert summary["stage_costs"][0]["n_trained"] == 600
    assert summary["seconds"] == {
        "supernet": 12.5,
        "search": 4.0,
        "baseline": 5.0,
        "selection": 4.0,
        "refit": 1.5,
        "test": 1.0,
        "select": 0.5,
        "compare": 0.25,
    }


def test_cost_forward_images_count_a_training_step_three_times():
    cost = Cost(Stage.SELECTION, "host-0", 1, 1.0, n_trained=100, n_evaluated=20)
    assert cost.n_images == 120
    assert cost.forward_images == 320


def test_stages_with_costs_are_all_but_settings_and_report():
    assert set(Stage) - set(STAGES) == {Stage.SETTINGS, Stage.REPORT}


def test_stage_costs_of_other_settings_are_left_out():
    study, _ = made_study(trials=0)
    add_stage(study, "supernet", 12.5)
    settings = study.user_attrs["glora:settings"]
    study.set_user_attr("glora:settings", {**settings, "key": "of other settings"})
    assert stage_costs(study) == []
    assert attempts(study, find_stages(study)) == []


def test_stage_costs_of_a_given_architecture_have_no_search():
    study, _ = made_study(trials=1)
    add_stage(study, "selection", 4.0, n_trained=300)
    settings = study.user_attrs["glora:settings"]
    recipe = {**settings["recipe"], "architecture": "lora"}
    study.set_user_attr("glora:settings", {**settings, "recipe": recipe})
    assert [cost.stage for cost in stage_costs(study)] == [Stage.SELECTION]


def test_stage_spent_without_own_seconds_takes_those_of_the_attempt():
    study, _ = made_study(trials=0)
    add_stage(study, "test", None, n_evaluated=10, wall=3.0)
    assert stage_spent(study, find_stages(study)) == {"test": Spent(0, 10, 3.0)}


def test_stage_spent_has_the_search_and_the_stages_by_printed_name():
    study, _ = made_study(trials=4)
    add_stage(study, "supernet", 12.5, n_trained=600)
    add_stage(study, "select-100-refit", 0.5, n_trained=50)
    assert stage_spent(study, find_stages(study)) == {
        "supernet": Spent(600, 0, 12.5),
        "select-100-refit": Spent(50, 0, 0.5),
        "search": Spent(0, 4 * 150, 4 * 0.5),
    }


def test_stage_spent_before_any_stage_is_empty():
    study = begin_study(optuna.storages.InMemoryStorage())
    assert find_stages(study) is None
    assert stage_spent(study, None) == {}
    assert trials_spent(study) == Spent(0, 0, 0)


@pytest.mark.parametrize(
    ("first", "second", "total"),
    [
        (Spent(1, 2, 0.5), Spent(10, 20, 0.25), Spent(11, 22, 0.75)),
        (Spent(1, 2), Spent(10, 20, 0.25), Spent(11, 22, 0.25)),
        (Spent(), Spent(), Spent()),
    ],
)
def test_spent_plus_adds_known_seconds(first, second, total):
    assert first.plus(second) == second.plus(first) == total
