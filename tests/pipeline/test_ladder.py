"""Walks down a ladder whose sizes or whose beginning are unusual."""

import pytest

from glora_automl.commands import search, select
from glora_automl.pipeline import Workspace, _ladder, _standalone, ladder_budgets
from glora_automl.study import Row, _paired, get_attribute

WIDE = 60.0
"""A margin within which every step is."""


@pytest.fixture
def workspace(tmp_path):
    return Workspace(runs=tmp_path / "runs", device="cpu")


@pytest.mark.parametrize(
    ("n_params", "minimum", "expected"),
    [
        (1000, 0, [500, 250, 125, 62, 0]),
        (1000, 100, [500, 250, 125, 100]),
        (3, 0, [1, 0]),
        (100, 100, []),
        (0, 0, []),
    ],
)
def test_ladder_budgets_are_halves_down_to_the_minimum(n_params, minimum, expected):
    assert ladder_budgets(n_params, minimum) == expected


def test_find_smallest_leaves_out_sizes_without_an_adapter_of_their_own(
    finished, finished_workspace, monkeypatch
):
    original = _ladder.find_candidates
    # The truncation for 696 parameters is small enough for 348, and nothing fits 174.
    found = {696: lambda run: original(run, 348), 174: lambda run: []}

    def find(run, budget):
        return found[budget](run) if budget in found else original(run, budget)

    monkeypatch.setattr(_ladder, "find_candidates", find)
    ladder = select("tiny", margin=WIDE, workspace=finished_workspace).ladder
    assert [step.budget for step in ladder.steps] == [696, 87, 0]
    assert ladder.steps[0].n_params <= 348


def test_find_smallest_of_uniform_paths_takes_the_best_trials(tiny, workspace):
    recipe = tiny.replace(
        supernet={"paths": "uniform"},
        selection={"baselines": False, "epochs_ratio": 0, "refit": False, "margin": WIDE},
    )
    result = search(recipe, workspace=workspace)
    trial = result.study.trials[result.selection.trial]
    assert trial.user_attrs["trainable_params"] == result.ladder.chosen.n_params
    assert result.ladder.chosen.n_params == min(
        t.user_attrs["trainable_params"] for t in result.study.trials
    )


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_find_smallest_begins_with_a_baseline_that_is_shown_to_validate_better(
    tiny, workspace, monkeypatch, metric
):
    original = _standalone.validate_predictions

    def validate(context, subnet):
        score, found = original(context, subnet)
        is_baseline = len(subnet.layers) and all(
            str(layer.active.E) == "vector" for layer in subnet.layers.values()
        )
        labels = context.validation[1]
        found["classes"] = labels if is_baseline else (labels + 1) % (int(labels.max()) + 1)
        return score, found

    monkeypatch.setattr(_standalone, "validate_predictions", validate)
    monkeypatch.setattr(_paired, "N_RESAMPLES", 99)
    recipe = tiny.replace(training={"epochs": 2}, search={"n_trials": 3}, metric=metric)
    result = search(recipe.replace(selection={"margin": WIDE}), workspace=workspace)
    (bitfit,) = (row for row in result.rows if row.name == "BitFit")
    ladder = result.ladder
    assert (ladder.name, ladder.n_params) == ("BitFit", bitfit.n_params)
    assert ladder.validation == bitfit.validation
    assert result.selection.preset is None
    assert result.selection.n_params == result.rows[0].n_params == ladder.chosen.n_params
    # Without a smaller adapter within the margin, it is the baseline, which the study has tested.
    monkeypatch.setattr(_ladder, "ladder_budgets", lambda *_: [])
    again = select("tiny", margin=5, workspace=workspace)
    assert again.selection.preset == "BitFit"
    assert again.rows == (bitfit,)
    kept = [Row.from_json(row).n_params for row in get_attribute(result.study, "result")]
    assert kept == [row.n_params for row in result.rows]
