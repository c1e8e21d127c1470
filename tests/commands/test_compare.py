"""Comparison of the searched adapter with its alternatives."""

import json
from dataclasses import replace
from functools import partial

import optuna
import pytest

from glora_automl.architecture import Architecture
from glora_automl.commands import _compare, compare, random_study_name, resume, search
from glora_automl.errors import RecipeError, StudyError
from glora_automl.pipeline import (
    Workspace,
    _baselines,
    _final_test,
    _selection,
    prepare,
    uniform_architectures,
)
from glora_automl.study import (
    SEARCHED,
    Comparison,
    Stage,
    get_setting,
    quality,
    stage_costs,
    stage_spent,
    study_key,
    summarize,
)
from glora_automl.study._costs import find_stages
from glora_automl.supernet import Scorer
from tests.commands.interrupts import interrupt_after, interrupt_training, run_interrupted
from tests.commands.studies import (
    N_LABELLED,
    N_VALIDATION,
    baseline_images,
    copy_runs,
    load,
    subnet_images,
)

TRUNCATIONS = ["random truncations", "one random truncation", "uniform truncation"]
STANDALONE = ["searched, from scratch", "LoRA at equal cost"]


@pytest.fixture(scope="module")
def compared_workspace(finished, finished_runs, tmp_path_factory):
    """The workspace of a study with a comparison."""
    return copy_runs(finished_runs, tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def compared(compared_workspace):
    return compare("tiny", n_architectures=3, workspace=compared_workspace)


@pytest.fixture
def copied(compared, compared_workspace, tmp_path):
    """A copy of that workspace, which may be changed."""
    return copy_runs(compared_workspace.runs, tmp_path)


@pytest.fixture
def rows(compared):
    return {row.name: row for row in compared.rows}


def random_study(workspace):
    return load(workspace, random_study_name("tiny", study_key(load(workspace))))


def figures(comparison):
    rows = [(r.name, r.n_params, r.validation, r.test, r.n_images) for r in comparison.rows]
    return rows, comparison.inherited, comparison.best_preset


def test_compare_rows_are_search_truncations_standalone_and_presets(
    compared, rows, finished, compared_workspace, tiny
):
    context = prepare(tiny, compared_workspace, "tiny")
    presets = uniform_architectures(context)
    assert list(rows) == [SEARCHED, *TRUNCATIONS, *STANDALONE, *presets]
    assert {"linear probe", "LoRA r=1", "BitFit", "SSF-like"} <= set(presets)
    assert compared.budget == context.budget
    for row in rows.values():
        assert row.n_params <= context.budget
        assert row.test.n_images == len(context.task.test)
        assert (row.validation is None) == (row.name == "LoRA at equal cost")
    # The rows of the study are not tested again.
    for row in finished.rows:
        assert rows[row.name] == row
    best = max(presets, key=lambda name: quality(rows[name].validation))
    assert compared.best_preset == best


def test_compare_rows_count_images_and_seconds_of_their_stages(rows, compared_workspace, tiny):
    (cost,) = (c for c in stage_costs(load(compared_workspace)) if c.stage == Stage.SUPERNET)
    for name in (SEARCHED, *TRUNCATIONS):
        several = name in (SEARCHED, "random truncations")
        n_candidates = tiny.selection.n_candidates if several else 1
        assert rows[name].n_images == subnet_images(tiny, n_candidates)
        assert rows[name].seconds > cost.seconds
    for name in rows:
        if name not in (SEARCHED, *TRUNCATIONS, "LoRA at equal cost"):
            # Images of a training that collapsed count, too.
            assert rows[name].n_images >= baseline_images(tiny)
            assert rows[name].seconds > 0


def test_compare_lora_at_equal_cost_trains_as_much_as_the_search(rows, compared_workspace):
    study = load(compared_workspace)
    own = (Stage.SUPERNET, Stage.SEARCH, Stage.SELECTION, Stage.REFIT)
    cost = sum(c.forward_images for c in stage_costs(study) if c.stage in own)
    row = rows["LoRA at equal cost"]
    # Epochs are whole, so it may be off by one.
    assert abs(3 * row.n_images - cost) <= 3 * N_LABELLED
    lora = max(name for name in rows if name.startswith("LoRA r="))
    assert row.n_params == rows[lora].n_params


def test_compare_lora_at_equal_cost_counts_the_ladder(tiny, workspace):
    recipe = tiny.replace(selection={"margin": 60, "baselines": False})
    search(recipe, workspace=workspace)
    compared = compare("tiny", only=["LoRA at equal cost"], workspace=workspace)
    searched, lora = compared.rows
    costs = stage_costs(load(workspace))
    assert sum(c.stage is Stage.LADDER for c in costs) > 0
    own = (Stage.SUPERNET, Stage.SEARCH, Stage.SELECTION, Stage.LADDER)
    cost = sum(c.forward_images for c in costs if c.stage in own)
    assert 3 * searched.n_images + searched.n_evaluated == cost
    assert abs(3 * lora.n_images - cost) <= 3 * N_LABELLED


def test_compare_from_scratch_trains_the_searched_architecture(rows, compared_workspace):
    scratch, searched = rows["searched, from scratch"], rows[SEARCHED]
    assert scratch.n_params == searched.n_params
    assert scratch.validation != searched.validation


def test_compare_random_truncations_are_as_many_as_the_trials(
    rows, finished, tiny, compared_workspace
):
    random = random_study(compared_workspace)
    trials = random.trials
    assert len(trials) == get_setting(finished.study, "target")
    assert random.direction == finished.study.direction
    assert all(t.user_attrs["trainable_params"] <= finished.budget for t in trials)
    assert len({tuple(t.params.items()) for t in trials}) == len(trials)
    best = sorted(trials, key=lambda trial: trial.value)[: tiny.selection.n_candidates]
    sizes = {trial.user_attrs["trainable_params"] for trial in best}
    assert rows["random truncations"].n_params in sizes
    assert rows["one random truncation"].n_params == trials[0].user_attrs["trainable_params"]


def test_compare_costs_count_the_random_search(finished, compared, compared_workspace):
    study = load(compared_workspace)
    costs = {c.stage: c for c in stage_costs(study) if c.stage == Stage.COMPARE}
    n_test = finished.rows[0].test.n_images
    n_tested = sum(row.name not in {r.name for r in finished.rows} for row in compared.rows)
    n_new_presets = n_tested - 5  # trained under the stages of baselines
    assert n_new_presets > 0
    evaluated = (
        12 * N_VALIDATION  # the random search
        + 2 * N_VALIDATION * (2 + 2 + 3)  # truncations and pairs, inherited and trained
        + N_VALIDATION  # from scratch
        + n_tested * n_test
    )
    assert costs[Stage.COMPARE].n_evaluated == evaluated


def test_compare_pairs_are_inherited_and_trained_accuracy(compared, compared_workspace):
    trials = load(compared_workspace, "tiny/stages").trials
    outcomes = {t.user_attrs["stage"]: t.user_attrs.get("outcome") for t in trials}
    kept = [outcomes[f"compare-pair-{number}"] for number in (1, 2, 3)]
    assert compared.inherited.pairs == tuple((p["inherited"], p["trained"]) for p in kept)
    assert len({p["n_params"] for p in kept}) == 3
    assert all(0 <= p["n_params"] <= compared.budget for p in kept)


def test_compare_is_kept_in_the_study(compared, compared_workspace):
    study = load(compared_workspace)
    kept = summarize(study)["comparison"]
    assert Comparison.from_json(json.loads(json.dumps(kept))) == compared
    assert summarize(study)["seconds"]["compare"] > 0


def test_compare_more_architectures_train_only_those(compared, copied, monkeypatch):
    stages, original = [], _compare.train_candidates

    def train_candidates(run, stage, *args):
        stages.append(stage)
        return original(run, stage, *args)

    monkeypatch.setattr(_compare, "train_candidates", train_candidates)
    for owner, name in (
        (_compare, "final_test"),
        (_compare, "train_adapter"),
        (_baselines, "train_adapter"),
    ):
        monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail("it is done"))
    again = compare("tiny", n_architectures=4, workspace=copied)
    assert stages == ["compare-pair-4"]
    assert again.rows == compared.rows
    assert again.inherited.pairs[:3] == compared.inherited.pairs
    assert len(again.inherited.pairs) == 4


INTERRUPTS = {
    "random search": partial(interrupt_after, owner=Scorer, name="score", calls=4),
    "truncation": partial(interrupt_training, stage="compare-random-truncations."),
    "from scratch": partial(interrupt_training, stage="compare-searched-from-scratch"),
    "pair": partial(interrupt_training, stage="compare-pair-2", checkpoints=2),
    "test": partial(interrupt_after, owner=_final_test, name="score_model", calls=3),
}


def test_compare_interrupted_everywhere_equals_uninterrupted(
    compared, finished_workspace, monkeypatch
):
    """One study meets all interrupts in turn; each of them must come."""
    arguments = {"n_architectures": 3, "workspace": finished_workspace}
    for interrupt in INTERRUPTS.values():
        run_interrupted(monkeypatch, interrupt, "tiny", **arguments, function=compare)
    assert figures(compare("tiny", **arguments)) == figures(compared)


def test_compare_interrupted_in_a_refit_equals_uninterrupted(
    compared, finished_workspace, monkeypatch
):
    arguments = {"n_architectures": 3, "workspace": finished_workspace}
    interrupt = partial(interrupt_after, owner=_selection, name="adapter_outcome", calls=7)
    run_interrupted(monkeypatch, interrupt, "tiny", **arguments, function=compare)
    assert figures(compare("tiny", **arguments)) == figures(compared)


def test_compare_without_architectures_has_no_correlation(compared, copied):
    again = compare("tiny", n_architectures=0, workspace=copied)
    assert again == replace(compared, inherited=None)


@pytest.mark.parametrize("count", [-1, 1, 1001])
def test_compare_invalid_n_architectures_raises(finished_workspace, count):
    with pytest.raises(RecipeError, match=f"n_architectures must be 0 or from 2 .*got {count}"):
        compare("tiny", n_architectures=count, workspace=finished_workspace)


def test_compare_unknown_study_raises(finished_workspace):
    with pytest.raises(StudyError, match=r"name must be a study .*\(tiny\), got 'other'"):
        compare("other", workspace=finished_workspace)


def test_compare_two_workers_do_each_stage_once(compared, copied, tmp_path):
    """The second one has its own folder, and finds everything done."""
    storage = f"sqlite:///{copied.runs}/studies.db"
    other = replace(copied, runs=tmp_path / "other", storage=storage)
    assert figures(compare("tiny", n_architectures=3, workspace=other)) == figures(compared)
    stages = optuna.load_study(study_name="tiny/stages", storage=storage)
    done = [t.user_attrs["stage"] for t in stages.trials if t.state.name == "COMPLETE"]
    kept = [stage for stage in done if stage not in ("settings", "report")]
    assert len(set(kept)) == len(kept)


def test_uniform_architectures_are_all_that_fit(tiny, workspace):
    context = prepare(tiny, workspace, "tiny")
    shapes = context.space.shapes
    found = uniform_architectures(context)
    assert all(a.count(shapes) <= context.budget for a in found.values())
    ranks = sorted(int(name.partition("r=")[2]) for name in found if name.startswith("LoRA"))
    highest = ranks[-1]
    assert set(ranks) == {2**i for i in range(10) if 2**i <= highest} | {highest}
    above = Architecture.uniform(shapes, B=f"lora-{highest + 1}")
    assert above.count(shapes) > context.budget


def test_compare_after_more_trials_counts_the_last_selection_alone(
    tiny, finished, finished_workspace, tmp_path
):
    workspace = copy_runs(finished_workspace.runs, tmp_path / "copy")
    resume("tiny", n_trials=tiny.search.n_trials + 2, workspace=workspace)
    compared = compare("tiny", only=["LoRA at equal cost"], workspace=workspace)
    row = {row.name: row for row in compared.rows}
    found = load(workspace)
    stages = [Stage.SUPERNET, Stage.SEARCH, Stage.SELECTION, Stage.REFIT]
    spent = stage_spent(found, find_stages(found))
    cost = sum(spent[str(stage)].forward_images for stage in stages)
    assert cost < sum(c.forward_images for c in stage_costs(found) if c.stage in stages)
    assert abs(3 * row["LoRA at equal cost"].n_images - cost) <= 3 * N_LABELLED


def test_compare_only_one_row_adds_it_to_the_studys(finished, finished_workspace):
    compared = compare("tiny", only=["LoRA at equal cost"], workspace=finished_workspace)
    names = {row.name for row in compared.rows}
    assert names == {row.name for row in finished.rows} | {"LoRA at equal cost"}
    assert compared.inherited is None
    assert all(row.test is not None for row in compared.rows)


@pytest.mark.parametrize("baselines", [True, False])
def test_compare_only_one_row_trains_nothing_else_and_keeps_the_rows(tiny, tmp_path, baselines):
    workspace = Workspace(runs=tmp_path)
    recipe = tiny.replace(
        budget=1, search={"n_trials": 2}, training={"epochs": 2}, selection={"baselines": baselines}
    )
    rows = search(recipe, workspace=workspace).rows
    assert [row.name for row in rows if row.n_params is None] == (
        ["LoRA", "BitFit"] if baselines else []
    )
    compared = compare("tiny", only=["searched, from scratch"], workspace=workspace)
    added = {row.name for row in compared.rows} - {row.name for row in rows}
    assert added == {"searched, from scratch"}
    assert len(compared.rows) == len(rows) + 1
    compared = compare("tiny", only=["linear probe"], workspace=workspace)
    assert {row.name for row in compared.rows} == {row.name for row in rows} | {"linear probe"}


def test_compare_number_of_architectures_with_only_raises(finished_workspace):
    with pytest.raises(RecipeError, match="n_architectures must be left out with `only`, got 2"):
        compare(
            "tiny", n_architectures=2, only=["uniform truncation"], workspace=finished_workspace
        )


def test_compare_only_an_unknown_row_raises(finished_workspace):
    with pytest.raises(
        RecipeError,
        match=r"only must be one of .*'LoRA at equal cost', .*'linear probe'.*, got 'luck'",
    ):
        compare("tiny", only=["luck"], workspace=finished_workspace)
