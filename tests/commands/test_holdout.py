"""Searches in which all labelled images train from the start."""

import json
from functools import partial

import numpy as np
import pytest

from glora_automl.architecture import Architecture
from glora_automl.commands import _search, compare, resume, search, select, train
from glora_automl.errors import RecipeError, StudyError
from glora_automl.export import export_model
from glora_automl.pipeline import (
    Workspace,
    _baselines,
    _final_test,
    _selection,
    _training,
    fetch_supernet,
    load_backbone,
    open_run,
    prepare,
)
from glora_automl.pipeline._forecast import stage_work
from glora_automl.pipeline._search import create_scorer, largest_truncation
from glora_automl.report import Snapshot, markdown_note
from glora_automl.report._progress import front_picture, history_picture
from glora_automl.study import (
    Selection,
    Stage,
    get_attribute,
    get_setting,
    read_data,
    stage_costs,
    summarize,
)
from tests.commands.interrupts import figures, interrupt_after, interrupt_training, run_interrupted
from tests.commands.studies import N_LABELLED, N_TRAIN, copy_runs, load, trained_images


@pytest.fixture(scope="module")
def everything(tiny):
    """The tiny recipe without held-out images, and with a training of several checkpoints."""
    return tiny.replace(training={"epochs": 24}, selection={"holdout": None})


@pytest.fixture(scope="module")
def done_workspace(tmp_path_factory):
    """The workspace of an uninterrupted run of that recipe."""
    return Workspace(runs=tmp_path_factory.mktemp("everything"))


@pytest.fixture(scope="module")
def done(everything, done_workspace):
    """The result of that run."""
    return search(everything, workspace=done_workspace)


@pytest.fixture
def copied(done, done_workspace, tmp_path):
    """A copy of that workspace, which may be changed."""
    return copy_runs(done_workspace.runs, tmp_path)


def test_search_all_labelled_images_train_from_the_start(everything, done):
    searched, *baselines = done.rows
    assert done.data.holds_out is False
    assert all(row.validation is None for row in done.rows)
    assert all(row.test is not None for row in done.rows)
    supernet = trained_images(everything, 1.0, N_LABELLED)
    # The steps of both candidates and of the refit.
    last = trained_images(everything, 2 * 0.25 + 1.25, N_LABELLED)
    assert searched.n_images == supernet + last
    assert {row.n_images for row in baselines} == {supernet}
    spent = {cost.stage: cost for cost in stage_costs(done.study)}
    assert spent[Stage.SELECTION].forward_images == 0
    assert spent[Stage.BASELINE].n_evaluated == 0


def test_forecast_equals_the_costs_of_the_finished_study(everything, done, done_workspace):
    costs = {c.stage: (c.n_trained, c.n_evaluated) for c in stage_costs(done.study)}
    context = prepare(everything, done_workspace, "tiny")
    expected = {s: (spent.n_trained, spent.n_evaluated) for s, spent in stage_work(context).items()}
    assert {stage: costs[stage] for stage in expected} == expected


def test_search_best_trial_is_selected_without_scores(done):
    selection = done.selection
    assert selection.trial == done.study.best_trial.number
    assert selection.candidates == (selection.trial,)
    assert selection.trained is None
    assert selection.inherited is None
    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))) == selection


def test_search_says_that_no_images_are_held_out(done):
    assert "The validation images were trained on, too" in str(summarize(done.study)["data"])


INTERRUPTS = {
    "in the supernet's training": partial(interrupt_training, stage="supernet"),
    "at the end of the selection": partial(
        interrupt_after, owner=_selection, name="adapter_outcome"
    ),
    "in the last training": partial(interrupt_training, stage="refit", checkpoints=2),
    "between two baselines": partial(
        interrupt_after, owner=_baselines, name="train_adapter", calls=2
    ),
    "in a baseline's training": partial(interrupt_training, stage="baseline-BitFit"),
    "in the test": partial(interrupt_after, owner=_search, name="final_test"),
}
"""Interrupts in the order in which one study meets them."""


def test_search_interrupted_everywhere_equals_uninterrupted(
    everything, done, workspace, monkeypatch
):
    for interrupt in INTERRUPTS.values():
        run_interrupted(monkeypatch, interrupt, everything, workspace=workspace)
    assert figures(search(everything, workspace=workspace)) == figures(done)


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"selection": {"holdout": True}}, True),
        ({"selection": {"margin": 50.0}}, True),
        ({"selection": {"refit": False}}, True),
        ({"search": {"objectives": ["accuracy"]}}, True),
        ({"search": {"objectives": ["metric", "n_params"]}}, True),
        ({"search": {"objectives": ["loss", "n_params"]}}, False),
        ({"supernet": {"paths": "uniform"}}, True),
    ],
)
def test_prepare_holds_images_out_where_something_needs_them(changes, held, everything, workspace):
    context = prepare(everything.replace(**changes), workspace, "tiny")
    assert context.data.holds_out is held
    assert len(context.seen[1]) == (N_TRAIN if held else N_LABELLED)


def test_search_without_refit_validates_on_held_out_images(everything, workspace):
    recipe = everything.replace(training={"epochs": 4}, selection={"refit": False})
    result = search(recipe, workspace=workspace)
    assert result.data.holds_out
    assert all(row.validation is not None for row in result.rows)


def test_search_task_without_test_images_holds_images_out(everything, workspace):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    labels = np.arange(60) % 3
    task = {"source": "arrays", "validation_size": 30}
    recipe = everything.replace(
        task=task, backbone={"pretraining": None}, training={"epochs": 4}, search={"n_trials": 2}
    )
    result = search(recipe, arrays=(images, labels), workspace=workspace)
    assert result.data.holds_out
    assert result.rows[0].validation is not None


def test_search_without_test_and_held_out_images_is_refused_before_anything(everything, workspace):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    recipe = everything.replace(
        task={"source": "arrays", "validation_size": 30},
        backbone={"pretraining": None},
        selection={"holdout": False},
    )
    with pytest.raises(RecipeError, match=r"selection.holdout must be true without test images"):
        search(recipe, arrays=(images, np.arange(60) % 3), workspace=workspace)
    assert not (workspace.runs / "studies.db").exists()


def test_train_one_architecture_holds_images_out_for_its_trial(everything, workspace):
    result = train(everything, "lora-1", workspace=workspace)
    assert result.rows[0].validation is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"selection": {"holdout": False, "margin": 1.0}},
        {"selection": {"holdout": False, "refit": False}},
        {"selection": {"holdout": False}, "search": {"objectives": ["accuracy"]}},
        {"selection": {"holdout": False}, "supernet": {"paths": "uniform"}},
        {"selection": {"holdout": False}, "architecture": "lora-1"},
    ],
)
def test_recipe_that_needs_held_out_images_and_forbids_them_raises(changes, tiny):
    with pytest.raises(RecipeError, match=r"selection.holdout must be true with .*, got false"):
        tiny.replace(**changes)


def largest_loss(recipe, workspace, budget):
    """Return the inherited loss of the truncation with the largest components."""
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        trained = fetch_supernet(run)
        largest = largest_truncation(run.context, trained, budget)
        return create_scorer(run.context, trained).score(largest).loss


def selected_loss(recipe, workspace, selection):
    """Return the inherited loss of a selected architecture."""
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        scorer = create_scorer(run.context, fetch_supernet(run))
        return scorer.score(Architecture.parse(selection.architecture)).loss


def test_select_is_never_worse_by_loss_than_the_largest_truncation(everything, workspace):
    recipe = everything.replace(search={"sampler": "random"})
    search(recipe, workspace=workspace)
    for budget in (200, 400, 600):
        found = select("tiny", budget=budget, workspace=workspace).selection
        largest = largest_loss(recipe, workspace, budget)
        assert selected_loss(recipe, workspace, found) <= largest + 1e-6
        assert found.n_params <= budget


def test_random_search_is_never_worse_by_loss_than_the_largest_truncation(everything, workspace):
    recipe = everything.replace(search={"sampler": "random", "n_trials": 2, "population_size": 2})
    result = search(recipe, workspace=workspace)
    budget = get_setting(result.study, "budget")
    found = selected_loss(recipe, workspace, result.selection)
    assert found <= largest_loss(recipe, workspace, budget) + 1e-6
    assert found <= result.study.best_value + 1e-6
    costs = {c.stage: (c.n_trained, c.n_evaluated) for c in stage_costs(result.study)}
    spent = stage_work(prepare(recipe, workspace, "tiny"))[Stage.SELECTION]
    assert costs[Stage.SELECTION] == (spent.n_trained, spent.n_evaluated)


def test_texts_of_a_study_say_that_no_images_are_held_out(done):
    (sentence,) = read_data(done.study).holdout_notes()
    snapshot = Snapshot.of(done.study)
    pictures = [front_picture(snapshot), history_picture(snapshot)]
    texts = [markdown_note(snapshot), *(picture.caption for picture in pictures)]
    assert all(sentence in text for text in texts)


def test_select_other_budgets_of_the_winner_are_the_studys_own(done, copied, monkeypatch):
    monkeypatch.setattr(_training, "train", lambda *_, **__: pytest.fail("it is done"))
    monkeypatch.setattr(_final_test, "score_model", lambda *_, **__: pytest.fail("it is done"))
    for budget in (done.budget, done.budget - 1, done.selection.n_params):
        found = select("tiny", budget=budget, workspace=copied)
        assert found.selection.architecture == done.selection.architecture
        assert found.rows == done.rows[:1]
    export = export_model("tiny", "timm", copied.runs / "out", budget=done.budget, workspace=copied)
    assert export.record.about["test"] == done.rows[0].test._asdict()


def test_later_commands_work_on_a_study_without_held_out_images(copied, tmp_path):
    (row,) = select("tiny", budget=600, workspace=copied).rows
    assert row.n_params <= 600
    assert row.validation is None
    assert row.test is not None
    with pytest.raises(StudyError, match="must hold validation images out to compare sizes"):
        select("tiny", margin=50, workspace=copied)
    with pytest.raises(StudyError, match="for the rank correlation of 2 architectures"):
        compare("tiny", n_architectures=2, workspace=copied)
    longer = "LoRA at equal cost"
    rows = compare("tiny", only=[longer], workspace=copied).rows
    assert longer in [row.name for row in rows]
    compared = compare("tiny", workspace=copied)
    assert compared.best_preset is None
    assert compared.inherited is None
    assert {row.name: row.validation for row in compared.rows}.keys() >= {"random truncations"}
    assert all(row.validation is None for row in compared.rows)
    more = resume("tiny", n_trials=14, workspace=copied)
    assert len(more.study.trials) == 14
    study = load(copied)
    number = next(t.number for t in study.trials if t.number != more.selection.trial)
    for trial in (number, "best"):
        folder = tmp_path / f"export-{trial}"
        export_model("tiny", "timm", folder, trial=trial, workspace=copied)
        card = (folder / "README.md").read_text()
        assert " validation |" not in card
        assert "biased upwards" not in card
        assert "The validation images were trained on" in card
        assert ("No accuracy on images" in card) == (trial != "best")
    assert get_attribute(study, "selection")["trained"] is None
