"""Several objectives, and adapters for budgets below that of the search."""

import shutil
from functools import partial

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from glora_automl.adapters import classifiers, linear_shapes
from glora_automl.architecture import Architecture
from glora_automl.commands import _search, _select, search, select
from glora_automl.errors import BudgetError, StudyError
from glora_automl.export import export_model
from glora_automl.export._subnet import find_subnet
from glora_automl.pipeline import (
    Workspace,
    _final_test,
    _ladder,
    _selection,
    _training,
    find_study,
    open_run,
    prepare,
)
from glora_automl.recipes import load_recipe
from glora_automl.study import (
    SEARCHED,
    Ladder,
    Selection,
    Stage,
    read_space,
    stage_costs,
    summarize,
)
from glora_automl.supernet import Scorer, is_truncation, widest_architecture
from glora_automl.training import evaluate, load_checkpoint
from tests.commands.interrupts import interrupt_after, interrupt_training, run_interrupted
from tests.commands.studies import N_LABELLED, N_TEST, N_VALIDATION, trained_images
from tests.conftest import TINY


@pytest.fixture(scope="module")
def trading(tmp_path_factory):
    """A recipe for the whole trade-off."""
    path = tmp_path_factory.mktemp("trading") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return load_recipe(str(path)).replace(
        search={
            "objectives": ["accuracy", "n_params"],
            "n_trials": 32,
            "population_size": 8,
            "n_parents": 4,
        },
        selection={"baselines": False, "epochs_ratio": 0, "refit": False},
    )


@pytest.fixture(scope="module")
def traded_workspace(tmp_path_factory):
    return Workspace(runs=tmp_path_factory.mktemp("traded"))


@pytest.fixture(scope="module")
def traded(trading, traded_workspace):
    return search(trading, workspace=traded_workspace)


def test_search_two_objectives_are_accuracy_and_n_params(traded):
    study = traded.study
    assert study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert study.metric_names == ["validation_accuracy", "trainable_params"]
    budget = summarize(study)["budget"]
    for trial in study.trials:
        assert trial.values[0] == trial.user_attrs["validation_accuracy"]
        assert trial.values[1] == trial.user_attrs["trainable_params"] <= budget


def test_search_two_objectives_have_optunas_front_and_its_most_accurate_as_candidate(traded):
    summary = summarize(traded.study)
    points = {(p["value"], p["n_params"]) for p in summary["front"]}
    assert points == {tuple(t.values) for t in traded.study.best_trials}
    best = max(traded.study.trials, key=lambda t: t.values[0])
    assert summary["best"]["value"] == best.values[0]
    assert summary["best"]["trial"] in traded.selection.candidates


def test_search_two_objectives_propose_fewer_parameters(traded, trading, workspace):
    plain = search(trading.replace(search={"objectives": ["accuracy"]}), workspace=workspace)

    def mean_size(result):
        later = result.study.trials[8:]
        return sum(t.user_attrs["trainable_params"] for t in later) / len(later)

    assert mean_size(traded) < mean_size(plain)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_search_two_objectives_work_with_optunas_samplers(trading, workspace, sampler):
    recipe = trading.replace(search={"sampler": sampler, "n_trials": 12})
    result = search(recipe, workspace=workspace)
    assert len(result.study.best_trials) >= 1
    assert all(len(t.values) == 2 for t in result.study.trials)


def test_search_two_objectives_interrupted_equals_uninterrupted(
    traded, trading, workspace, monkeypatch
):
    interrupt = partial(interrupt_after, owner=Scorer, name="score", calls=20)
    run_interrupted(monkeypatch, interrupt, trading, workspace=workspace)
    again = search(trading, workspace=workspace)

    def done(study):
        complete = study.get_trials(states=(TrialState.COMPLETE,))
        return [(t.params, t.values) for t in complete]

    assert done(again.study) == done(traded.study)


def test_search_two_objectives_warm_start_from_the_front(traded, trading, traded_workspace):
    front = [traded.study.trials[p["trial"]].params for p in summarize(traded.study)["front"]]
    again = search(trading, name="again", warm_start="tiny", workspace=traded_workspace)
    generation = [trial.params for trial in again.study.trials[:8]]
    taken = [params for params in front if params in generation]
    assert len(taken) >= min(4, len(front))
    # The ends of the front are among them.
    assert front[0] in taken
    assert front[-1] in taken


def test_select_result_fits_its_budget_and_is_stored(finished, finished_workspace, tiny):
    front = summarize(finished.study)["front"]
    budget = front[len(front) // 2]["n_params"]
    result = select("tiny", budget, workspace=finished_workspace)
    fitting = [t for t in finished.study.trials if t.user_attrs["trainable_params"] <= budget]
    assert min(fitting, key=lambda t: t.value).number in result.selection.candidates
    assert result.selection.n_params <= budget == result.budget
    (row,) = result.rows
    assert row.name == SEARCHED
    assert row.n_params == result.selection.n_params
    assert row.validation == result.selection.trained
    context = prepare(tiny, finished_workspace, "tiny")
    assert evaluate(result.model, *context.test()) == row.test
    assert sum(result.classes.correct) == round(row.test.accuracy * N_TEST)
    found = load_checkpoint(finished_workspace.folder / f"tiny/winner-{budget}.json")
    assert found is not None
    architecture = Architecture.parse(found[1]["architecture"])
    assert str(architecture) == result.selection.architecture
    head = {id(p) for m in classifiers(result.model) for p in m.parameters()}
    sizes = sum(p.numel() for p in result.model.parameters() if id(p) in head)
    assert sum(t.numel() for t in found[0].values()) == row.n_params + sizes
    assert set(architecture) <= set(linear_shapes(result.model))
    # The study keeps its own selection, and shows this one.
    summary = summarize(result.study)
    assert Selection.from_json(summary["selection"]) == finished.selection
    (kept,) = summary["selects"]
    assert kept["budget"] == budget
    assert kept["row"] == row.to_json()
    assert kept["selection"] == result.selection.to_json()


def test_select_row_counts_the_shared_search_and_its_own_training(
    finished, finished_workspace, tiny
):
    result = select("tiny", "9%", workspace=finished_workspace)
    costs = {cost.stage: cost for cost in stage_costs(result.study)}
    (row,), cost = result.rows, costs[Stage.SELECT]
    assert row.n_images == costs[Stage.SUPERNET].n_trained + cost.n_trained
    assert row.seconds > costs[Stage.SUPERNET].seconds + costs[Stage.SEARCH].seconds
    selection = tiny.selection
    refit = trained_images(tiny, selection.refit_epochs_ratio, N_LABELLED)
    one = trained_images(tiny, selection.epochs_ratio)
    n_candidates, rest = divmod(cost.n_trained - refit, one)
    assert 1 <= n_candidates <= selection.n_candidates
    assert rest == 0
    # Each candidate is validated before and after its training.
    assert cost.n_evaluated == 2 * n_candidates * N_VALIDATION + N_TEST


def test_select_second_call_does_nothing(finished, finished_workspace, monkeypatch):
    first = select("tiny", "9%", workspace=finished_workspace)
    for name in ("train_candidates", "find_candidates", "final_test"):
        monkeypatch.setattr(_select, name, lambda *_, **__: pytest.fail("it is done"))
    again = select("tiny", "9%", workspace=finished_workspace)
    assert again.rows == first.rows
    assert again.selection == first.selection
    assert again.classes == first.classes


@pytest.mark.parametrize(
    "interrupt",
    [
        partial(interrupt_training, stage=r"select-architecture-\w+\.", checkpoints=2),
        partial(interrupt_training, stage=r"select-architecture-\w+-refit"),
        partial(interrupt_after, owner=_final_test, name="score_model"),
    ],
    ids=["training", "refit", "test"],
)
def test_select_interrupted_equals_uninterrupted(
    finished, finished_workspace, finished_runs, tmp_path, monkeypatch, interrupt
):
    run_interrupted(
        monkeypatch, interrupt, "tiny", 672, workspace=finished_workspace, function=select
    )
    again = select("tiny", 672, workspace=finished_workspace)
    other = Workspace(runs=tmp_path / "other")
    shutil.copytree(finished_runs, other.folder)
    expected = select("tiny", 672, workspace=other)
    assert again.selection == expected.selection
    (row,), (expected_row,) = again.rows, expected.rows
    assert row.to_json() | {"seconds": 0} == expected_row.to_json() | {"seconds": 0}


def refuse_work(monkeypatch):
    """Let each training and each test fail."""
    for owner, name in ((_training, "train"), (_final_test, "score_model")):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("it is done"))


def test_select_an_adapter_of_the_study_is_neither_trained_nor_tested_again(
    finished, finished_workspace, monkeypatch
):
    refuse_work(monkeypatch)
    found = select(
        "tiny", architecture=finished.selection.architecture, workspace=finished_workspace
    )
    assert found.rows == finished.rows[:1]
    assert found.classes == finished.classes
    assert state(found) == state(finished)
    # The result is kept under the architecture, too.
    assert [s["row"] for s in summarize(found.study)["selects"]] == [finished.rows[0].to_json()]


def test_select_budget_of_the_study_trains_the_candidate_that_lost_alone(
    finished, finished_workspace, monkeypatch
):
    monkeypatch.setattr(_final_test, "score_model", lambda *_, **__: pytest.fail("it is done"))
    trained, original = [], _training.train

    def train(*arguments, **keywords):
        trained.append(keywords["stage"])
        return original(*arguments, **keywords)

    monkeypatch.setattr(_training, "train", train)
    found = select("tiny", finished.budget, workspace=finished_workspace)
    assert found.selection == finished.selection
    assert found.rows == finished.rows[:1]
    assert len(trained) == len(finished.selection.candidates) - 1


def test_select_other_budgets_of_one_adapter_reuse_it(
    finished, finished_workspace, finished_runs, tmp_path, monkeypatch
):
    first = select("tiny", 1, workspace=finished_workspace)
    with monkeypatch.context() as patch:
        refuse_work(patch)
        again = select("tiny", 0, workspace=finished_workspace)
        given = select("tiny", architecture="probe", workspace=finished_workspace)
    assert first.selection.n_params == 0
    assert first.rows == again.rows == given.rows
    assert state(first) == state(again) == state(given)
    assert [s["budget"] for s in summarize(first.study)["selects"]] == [0, 0, 1]
    assert len({found.file for found in (first, again, given)}) == 3
    # Without the first call, the second one gives the same weights.
    other = Workspace(runs=tmp_path / "other")
    shutil.copytree(finished_runs, other.folder)
    assert state(select("tiny", 0, workspace=other)) == state(first)


def test_select_margin_and_architecture_share_an_adapter(
    finished, finished_workspace, finished_runs, tmp_path, monkeypatch
):
    margin = select("tiny", margin=20, workspace=finished_workspace)
    text = margin.selection.architecture
    with monkeypatch.context() as patch:
        refuse_work(patch)
        given = select("tiny", architecture=text, workspace=finished_workspace)
    assert (given.rows, state(given)) == (margin.rows, state(margin))
    other = Workspace(runs=tmp_path / "other")
    shutil.copytree(finished_runs, other.folder)
    given = select("tiny", architecture=text, workspace=other)
    monkeypatch.setattr(_final_test, "score_model", lambda *_, **__: pytest.fail("it is done"))
    later = select("tiny", margin=20, workspace=other)
    assert (later.rows, state(later)) == (given.rows, state(margin))


def test_select_searched_adapter_beside_a_selected_baseline_is_not_tested_again(
    tiny, workspace, monkeypatch
):
    monkeypatch.setattr(_selection, "_beats", lambda *_: True)
    recipe = tiny.replace(search={"n_trials": 2}, selection={"n_candidates": 1})
    result = search(recipe, workspace=workspace)
    assert result.selection.preset is not None
    (trial, _) = result.study.trials
    text = str(read_space(result.study).architecture(trial.params))
    refuse_work(monkeypatch)
    found = select("tiny", architecture=text, workspace=workspace)
    assert found.rows == result.rows[:1]
    assert found.classes is None  # those that the study keeps are of the baseline


def state(result):
    """Return the weights of a result's model, comparable."""
    return {name: tensor.tolist() for name, tensor in result.model.state_dict().items()}


def test_select_without_fitting_trials_takes_a_truncation(
    finished, finished_workspace, tiny, monkeypatch
):
    monkeypatch.setattr(_selection, "best_trials", lambda *_, **__: [])
    result = select("tiny", 300, workspace=finished_workspace)
    selection = result.selection
    assert (selection.trial, selection.preset) == (None, None)
    assert selection.origin == "truncation of the supernet"
    assert 0 < selection.n_params <= 300
    space = prepare(tiny, finished_workspace, "tiny").space
    widest = widest_architecture(space)
    for layer, choices in Architecture.parse(selection.architecture).items():
        assert all(map(is_truncation, choices, widest[layer]))
    assert result.rows[0].test is not None


def test_select_budget_zero_selects_the_head_alone(finished, finished_workspace):
    result = select("tiny", 0, workspace=finished_workspace)
    assert result.selection.n_params == 0
    assert result.rows[0].test.n_images == N_TEST


def test_select_invalid_budget_raises(finished, finished_workspace):
    budget = finished.budget
    expected = f"budget must be at most {budget}, that of the study 'tiny', got {budget + 1}"
    with pytest.raises(BudgetError, match=expected):
        select("tiny", budget + 1, workspace=finished_workspace)
    with pytest.raises(BudgetError, match="must be a count of parameters"):
        select("tiny", "few", workspace=finished_workspace)


def test_select_below_all_trials_of_uniform_paths_raises(tiny, workspace):
    recipe = tiny.replace(
        supernet={"paths": "uniform"},
        search={"n_trials": 2, "initial_presets": False},
        selection={"baselines": False, "epochs_ratio": 0, "refit": False},
    )
    study = search(recipe, workspace=workspace).study
    least = min(t.user_attrs["trainable_params"] for t in study.trials)
    assert least > 0
    with pytest.raises(StudyError, match=f"budget must be at least {least}, .*got {least - 1}"):
        select("tiny", least - 1, workspace=workspace)
    assert select("tiny", least, workspace=workspace).selection.n_params == least


def test_select_unfinished_study_raises(tiny, workspace, monkeypatch):
    interrupt = partial(interrupt_after, owner=_search, name="best_outcome")
    run_interrupted(monkeypatch, interrupt, tiny, workspace=workspace)
    with pytest.raises(StudyError, match=r"'tiny' must be finished\. Run 'glora resume tiny'"):
        select("tiny", 100, workspace=workspace)


WIDE = 60.0
"""A margin within which every step is."""


def test_select_margin_is_the_smallest_that_is_shown_not_to_be_worse(
    finished, finished_workspace, tiny
):
    result = select("tiny", margin=20, workspace=finished_workspace)
    ladder = result.ladder
    assert ladder.n_params == finished.selection.n_params
    assert ladder.validation == finished.selection.trained
    assert [s.budget for s in ladder.steps] == [696, 348]
    assert [s.is_within(20) for s in ladder.steps] == [True, False]
    chosen = ladder.steps[0]
    assert (chosen, result.budget) == (ladder.chosen, 696)
    (row,) = result.rows
    assert row.n_params == result.selection.n_params == chosen.n_params <= 696
    assert chosen.n_bytes == 4 * chosen.n_params
    assert row.validation == chosen.validation
    for step in ladder.steps:
        loss = ladder.validation.accuracy - step.validation.accuracy
        assert step.n_lost - step.n_gained == round(loss * N_VALIDATION)
    context = prepare(tiny, finished_workspace, "tiny")
    assert evaluate(result.model, *context.test()) == row.test
    assert sum(result.classes.correct) == round(row.test.accuracy * N_TEST)
    # The row has all steps, of which the first that failed is one.
    one = trained_images(tiny, tiny.selection.epochs_ratio)
    refit = trained_images(tiny, tiny.selection.refit_epochs_ratio, N_LABELLED)
    costs = {cost.stage: cost for cost in stage_costs(result.study)}
    assert costs[Stage.LADDER].n_trained == 2 * one + refit
    own = [Stage.SUPERNET, Stage.SELECTION, Stage.LADDER]
    assert row.n_images == sum(costs[stage].n_trained for stage in own)
    summary = summarize(result.study)
    assert Ladder.from_json(summary["ladder"]) == ladder
    assert [select["budget"] for select in summary["selects"]] == [696]
    assert Selection.from_json(summary["selection"]) == finished.selection


def test_select_margin_ladder_ends_with_the_linear_probe(finished, finished_workspace):
    result = select("tiny", margin=WIDE, workspace=finished_workspace)
    sizes = [step.n_params for step in result.ladder.steps]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == result.selection.n_params == 0


def test_select_margin_second_call_trains_nothing(finished, finished_workspace, monkeypatch):
    first = select("tiny", margin=20, workspace=finished_workspace)
    for name in ("train_candidates", "find_candidates"):
        monkeypatch.setattr(_ladder, name, lambda *_, **__: pytest.fail("it is done"))
    monkeypatch.setattr(_select, "final_test", lambda *_, **__: pytest.fail("it is done"))
    again = select("tiny", margin=20, workspace=finished_workspace)
    assert (again.rows, again.selection, again.ladder) == (
        first.rows,
        first.selection,
        first.ladder,
    )
    # Another margin needs the same steps.
    other = select("tiny", margin=21, workspace=finished_workspace)
    assert other.ladder.steps == first.ladder.steps


def test_select_margin_without_a_smaller_adapter_is_the_best_one(finished, finished_workspace):
    result = select("tiny", margin=5, workspace=finished_workspace)
    assert len(result.ladder.steps) == 1
    assert result.ladder.chosen is None
    assert result.selection == finished.selection
    assert result.rows == finished.rows[:1]
    assert result.classes == finished.classes
    assert result.classes is not None
    assert summarize(result.study)["selects"] == []


def test_select_margin_that_the_images_cannot_show_trains_nothing(
    finished, finished_workspace, monkeypatch
):
    monkeypatch.setattr(_ladder, "train_candidates", lambda *_, **__: pytest.fail("in vain"))
    result = select("tiny", margin=1, workspace=finished_workspace)
    assert result.selection == finished.selection
    (note,) = result.ladder.notes()
    assert f"takes 299 validation images even for equal predictions, got {N_VALIDATION}" in note


@pytest.mark.parametrize(
    "interrupt",
    [
        partial(interrupt_training, stage="ladder-348."),
        partial(interrupt_training, stage="ladder-696-refit"),
        partial(interrupt_after, owner=_final_test, name="score_model"),
        partial(interrupt_after, owner=_select, name="keep_winner"),
    ],
    ids=["training", "refit", "test", "winner"],
)
def test_select_margin_interrupted_equals_uninterrupted(
    finished, finished_workspace, finished_runs, tmp_path, monkeypatch, interrupt
):
    chosen = partial(select, margin=20)
    run_interrupted(monkeypatch, interrupt, "tiny", workspace=finished_workspace, function=chosen)
    again = chosen("tiny", workspace=finished_workspace)
    other = Workspace(runs=tmp_path / "other")
    shutil.copytree(finished_runs, other.folder)
    expected = chosen("tiny", workspace=other)
    assert (again.selection, again.ladder) == (expected.selection, expected.ladder)
    (row,), (expected_row,) = again.rows, expected.rows
    assert row.to_json() | {"seconds": 0} == expected_row.to_json() | {"seconds": 0}


@pytest.mark.parametrize("refit", [True, False])
def test_search_margin_refits_and_tests_the_smallest_alone(finished, tiny, workspace, refit):
    changes = {"margin": WIDE, "refit": refit, "baselines": False}
    result = search(tiny.replace(selection=changes), workspace=workspace)
    assert result.ladder.n_params == finished.selection.n_params
    assert result.selection.n_params == 0
    (row,) = result.rows
    assert (row.name, row.n_params) == (SEARCHED, 0)
    assert row.validation == result.ladder.chosen.validation == result.selection.trained
    costs = {cost.stage: cost for cost in stage_costs(result.study)}
    assert Stage.REFIT not in costs
    assert costs[Stage.TEST].n_evaluated == N_TEST
    own = [Stage.SUPERNET, Stage.SELECTION, Stage.LADDER]
    assert row.n_images == sum(costs[stage].n_trained for stage in own)
    # The study has refit and tested this adapter, so a selection with its margin takes it.
    again = select("tiny", margin=WIDE, workspace=workspace)
    assert (again.rows, again.selection) == (result.rows, result.selection)
    # The adapter that the ladder began with is refit and tested when nothing smaller will do.
    best = select("tiny", margin=5, workspace=workspace)
    assert best.selection.trained == finished.selection.trained
    assert best.rows[0].test.n_images == N_TEST
    place, recipe = find_study("tiny", workspace)
    with open_run(recipe, place, name="tiny") as run:
        assert find_subnet(run, "best", None).architecture == Architecture.parse(
            result.selection.architecture
        )


def test_search_margin_interrupted_equals_uninterrupted(tiny, workspace, tmp_path, monkeypatch):
    recipe = tiny.replace(selection={"margin": WIDE, "baselines": False})
    whole = search(recipe, workspace=Workspace(runs=tmp_path / "whole"))
    interrupt = partial(interrupt_training, stage="ladder-348.")
    run_interrupted(monkeypatch, interrupt, recipe, workspace=workspace)
    again = search(recipe, workspace=workspace)
    assert (again.selection, again.ladder) == (whole.selection, whole.ladder)
    assert again.rows[0].test == whole.rows[0].test


@pytest.mark.parametrize("margin", [0, -1, 101, float("nan"), "few"])
def test_select_invalid_margin_raises(finished, finished_workspace, margin):
    with pytest.raises(BudgetError, match="margin must be above 0 and at most 100 points"):
        select("tiny", margin=margin, workspace=finished_workspace)


def test_select_with_several_of_budget_margin_and_architecture_raises(finished_workspace):
    for arguments in ({"budget": 100, "margin": 1}, {"budget": 1, "architecture": "probe"}):
        with pytest.raises(BudgetError, match="Leave out `budget`, `margin` or `architecture`"):
            select("tiny", **arguments, workspace=finished_workspace)


def test_select_architecture_trains_tests_and_exports_it(finished, finished_workspace, tmp_path):
    space = read_space(finished.study)
    architecture = Architecture.uniform(space.shapes, E="vector")
    path = tmp_path / "found.txt"
    path.write_text(str(architecture), encoding="utf-8")
    given = partial(select, "tiny", architecture=str(path), workspace=finished_workspace)
    result = given()
    assert Architecture.parse(result.selection.architecture) == architecture
    assert result.budget == result.rows[0].n_params == architecture.count(space.shapes)
    assert result.rows[0].test.n_images == N_TEST
    assert given().rows == result.rows
    assert (finished_workspace.folder / "tiny" / f"{result.file}.json").is_file()
    export = export_model(
        "tiny",
        "timm",
        tmp_path / "out",
        architecture=str(architecture),
        workspace=finished_workspace,
    )
    assert Architecture.parse(export.record.architecture) == architecture
    assert export.record.about["test"]["accuracy"] == result.rows[0].test.accuracy


def test_select_architecture_above_the_budget_raises(finished, finished_workspace):
    with pytest.raises(BudgetError, match="budget"):
        select("tiny", architecture="lora-4", workspace=finished_workspace)
