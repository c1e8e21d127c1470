"""Searches from a recipe to a tested adapter."""

from dataclasses import replace
from functools import partial

import optuna
import pytest
import torch
from optuna.trial import TrialState

from glora_automl.architecture import Architecture
from glora_automl.commands import _search, resume, search
from glora_automl.pipeline import Context, Workspace, _selection, _training, prepare
from glora_automl.progress import LineProgress
from glora_automl.recipes import parse_recipe
from glora_automl.study import (
    Row,
    Stage,
    get_attribute,
    read_recipe,
    set_attribute,
    stage_costs,
    summarize,
)
from glora_automl.supernet import Scorer, Supernet
from glora_automl.training import evaluate, load_checkpoint, load_tensors
from tests.commands.interrupts import (
    figures,
    interrupt_after,
    run_interrupted,
)
from tests.commands.studies import (
    N_LABELLED,
    N_TEST,
    N_TRAIN,
    N_VALIDATION,
    artifact_path,
    baseline_images,
    load,
    subnet_images,
    trained_images,
)

ALONE = {"selection": {"baselines": False}}


@pytest.fixture
def context(tiny, workspace):
    """The tiny recipe on this machine, with folders of its own."""
    return prepare(tiny, workspace, "tiny")


def test_search_finished_study_has_all_trials_and_its_recipe(finished, tiny):
    study = finished.study
    summary = summarize(study)
    assert summary["stage"] == "finished"
    assert summary["trials"] == {
        "target": 12,
        "complete": 12,
        "pruned": 0,
        "running": 0,
        "failed": 0,
        "all": 12,
    }
    settled = tiny.replace(training={"precision": "fp32"})  # what auto is on a CPU
    assert summary["recipe"] == settled.model_dump(mode="json")
    assert set(summary["digests"]) == {"data", "search space", "backbone", "supernet"}
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert study.metric_names == ["validation_loss"]


def test_search_trials_are_feasible_with_a_parameter_per_support_tensor(finished):
    budget = summarize(finished.study)["budget"]
    for trial in finished.study.trials:
        assert len(trial.params) == 8 * 4  # the lean search space has no D
        assert "blocks.0.attn.qkv.A" in trial.params
        count = trial.user_attrs["trainable_params"]
        assert trial.constraints == {"trainable_params": count - budget}
        assert 0 <= count <= budget


def test_search_trial_values_are_those_of_the_unmerged_subnet(finished, context):
    backbone = context.bare_backbone()
    backbone.load_state_dict(load_tensors(artifact_path(finished.study, "backbone")))
    supernet = Supernet(backbone, context.space.layer_choices())
    supernet.load_state_dict(load_tensors(artifact_path(finished.study, "supernet")))
    for trial in finished.study.trials[::5]:
        architecture = context.space.architecture(trial.params)
        assert architecture.count(context.space.shapes) == trial.user_attrs["trainable_params"]
        supernet.activate(architecture)
        unmerged = evaluate(supernet.model, *context.validation)
        assert unmerged.accuracy == trial.user_attrs["validation_accuracy"]
        assert unmerged.loss == pytest.approx(trial.value, abs=1e-5)


def test_search_selects_the_best_of_the_largest_truncation_and_the_best_trials(finished, context):
    selection, study = finished.selection, finished.study
    assert len(selection.candidates) == read_recipe(finished.study).selection.n_candidates
    # The first proposal is the truncation with the largest components.
    assert selection.candidates[0] == 0
    assert study.best_trial.number in selection.candidates
    assert selection.trial in selection.candidates
    assert selection.preset is None
    trial = study.trials[selection.trial]
    assert selection.inherited.loss == pytest.approx(trial.value, abs=1e-5)
    architecture = context.space.architecture(trial.params)
    assert selection.architecture == str(architecture)
    assert selection.trained == finished.rows[0].validation
    assert selection.refit


def test_search_rows_count_images_and_seconds_of_their_stages(finished, tiny):
    budget = summarize(finished.study)["budget"]
    rows = {row.name: row for row in finished.rows}
    assert list(rows)[:2] == ["searched", "linear probe"]
    assert rows["linear probe"].n_params == 0
    searched, baseline = subnet_images(tiny, tiny.selection.n_candidates), baseline_images(tiny)
    for row in rows.values():
        assert row.n_params <= budget
        assert row.n_images == (searched if row.name == "searched" else baseline)
        assert row.seconds > 0
        assert row.validation.n_images == N_VALIDATION
        assert row.test.n_images == N_TEST


def test_search_costs_count_the_images_of_each_stage(finished, tiny):
    costs = {cost.stage: cost for cost in stage_costs(finished.study)}
    rows = {row.name: row for row in finished.rows}
    baselines = [row for row in rows.values() if row.name != "searched"]
    selection = tiny.selection
    n_selection = selection.n_candidates * trained_images(tiny, selection.epochs_ratio)
    n_refit = trained_images(tiny, selection.refit_epochs_ratio, N_LABELLED)
    assert {stage: (c.n_trained, c.n_evaluated, c.times) for stage, c in costs.items()} == {
        Stage.BACKBONE: (0, 0, 1),
        Stage.SUPERNET: (trained_images(tiny), 0, 1),
        Stage.SEARCH: (0, 12 * N_VALIDATION, 12),
        Stage.BASELINE: (sum(row.n_images for row in baselines), 3 * N_VALIDATION, 3),
        Stage.SELECTION: (n_selection, 2 * selection.n_candidates * N_VALIDATION, 1),
        Stage.REFIT: (n_refit, 0, 1),
        Stage.TEST: (0, 4 * N_TEST, 1),
    }
    own = [Stage.SUPERNET, Stage.SEARCH, Stage.SELECTION, Stage.REFIT]
    searched = rows["searched"]
    assert searched.n_images == sum(costs[stage].n_trained for stage in own)
    assert searched.seconds == pytest.approx(sum(costs[stage].seconds for stage in own), abs=0.01)
    seconds = sum(row.seconds for row in baselines)
    assert costs[Stage.BASELINE].seconds == pytest.approx(seconds, abs=0.01)


def test_search_lora_baseline_has_the_highest_uniform_rank_that_fits(finished, context):
    (row,) = (row for row in finished.rows if row.name.startswith("LoRA"))
    rank = int(row.name.removeprefix("LoRA r="))
    shapes = context.space.shapes
    counts = [Architecture.uniform(shapes, B=f"lora-{r}").count(shapes) for r in (rank, rank + 1)]
    assert counts[0] == row.n_params
    assert counts[0] <= context.budget < counts[1]


def test_search_model_is_plain_and_has_the_rows_score(finished, context):
    kinds = {type(module).__name__ for module in finished.model.modules()}
    assert "GLoRALinear" not in kinds
    assert evaluate(finished.model, *context.test()) == finished.rows[0].test


def test_search_reads_the_test_images_once(tiny, workspace, monkeypatch):
    calls, original = [], Context.test

    def test(self):
        study = load(workspace)
        calls.append(get_attribute(study, "selection"))
        return original(self)

    monkeypatch.setattr(Context, "test", test)
    result = search(tiny, workspace=workspace)
    assert calls == [result.selection.to_json()]  # after the selection
    search(tiny, workspace=workspace)
    resume("tiny", workspace=workspace)
    assert len(calls) == 1


def test_search_refit_trains_on_all_labelled_images_and_nothing_else(tiny, workspace, monkeypatch):
    seen, original = {}, _training.train

    def train(model, parameters, images, labels, settings, **keywords):
        seen[keywords["stage"]] = len(labels), len(labels) * settings.epochs
        return original(model, parameters, images, labels, settings, **keywords)

    monkeypatch.setattr(_training, "train", train)
    search(tiny, workspace=workspace)
    lora = next(name for name in seen if name.startswith("LoRA") and "refit" not in name)
    selections = [name for name in seen if name.startswith("selection-")]
    selection = tiny.selection
    assert seen["supernet"] == (N_TRAIN, trained_images(tiny))
    assert len(selections) == selection.n_candidates
    for name in selections:
        assert seen[name] == (N_TRAIN, trained_images(tiny, selection.epochs_ratio))
    n_refit = trained_images(tiny, selection.refit_epochs_ratio, N_LABELLED)
    assert seen["refit"] == (N_LABELLED, n_refit)
    assert seen[lora] == (N_TRAIN, trained_images(tiny))
    assert seen[f"{lora}, refit"] == (N_LABELLED, trained_images(tiny, 1.0, N_LABELLED))
    assert len(seen) == 2 + selection.n_candidates + 2 * 3


def test_search_second_run_changes_nothing(finished, finished_runs, tiny):
    before = figures(finished)
    again = search(tiny, workspace=Workspace(runs=finished_runs))
    assert figures(again) == before
    assert again.rows == finished.rows
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, finished.model.state_dict()[name])


def test_search_second_run_trains_scores_and_tests_nothing(
    finished, finished_runs, tiny, monkeypatch
):
    def refuse(*arguments, **keywords):
        raise AssertionError("nothing may be trained, scored or tested again")

    monkeypatch.setattr(_training, "train", refuse)
    monkeypatch.setattr(_search, "search_trials", refuse)
    monkeypatch.setattr(Scorer, "score", refuse)
    monkeypatch.setattr(Context, "test", refuse)
    before = summarize(finished.study)["seconds"]
    again = search(tiny, workspace=Workspace(runs=finished_runs))
    assert again.rows == finished.rows
    assert again.selection == finished.selection
    assert summarize(again.study)["seconds"] == before


def test_search_same_seed_gives_the_same_trials_and_figures(finished, tiny, workspace):
    assert figures(search(tiny, workspace=workspace)) == figures(finished)


def test_search_another_seed_gives_other_trials(finished, tiny, workspace):
    other = search(tiny.replace(seed=1, **ALONE), workspace=workspace)
    assert figures(other)[0] != figures(finished)[0]
    assert [row.name for row in other.rows] == ["searched"]


def test_search_more_trials_while_open_equals_all_at_once(finished, tiny, workspace, monkeypatch):
    interrupt = partial(interrupt_after, owner=_search, name="search_trials")
    few = tiny.replace(search={"n_trials": 2})
    run_interrupted(monkeypatch, interrupt, few, workspace=workspace)
    assert figures(search(tiny, workspace=workspace)) == figures(finished)


def test_resume_n_trials_raises_the_target_of_an_open_study(finished, tiny, workspace, monkeypatch):
    interrupt = partial(interrupt_after, owner=_search, name="search_trials")
    few = tiny.replace(search={"n_trials": 2})
    run_interrupted(monkeypatch, interrupt, few, workspace=workspace)
    assert figures(resume("tiny", n_trials=12, workspace=workspace)) == figures(finished)


def test_resume_n_trials_of_a_finished_study_equals_all_at_once(
    finished, tiny, workspace, monkeypatch
):
    search(tiny.replace(search={"n_trials": 2}), workspace=workspace)
    trained = []
    original = _training.train
    monkeypatch.setattr(_training, "train", lambda *a, **k: trained.append(1) or original(*a, **k))
    interrupt = partial(interrupt_after, owner=_search, name="search_trials")
    again = partial(resume, n_trials=12)
    run_interrupted(monkeypatch, interrupt, "tiny", workspace=workspace, function=again)
    study = load(workspace)
    assert summarize(study)["stage"] == Stage.SELECTION
    assert not trained
    assert figures(resume("tiny", workspace=workspace)) == figures(finished)
    # No supernet and no baseline is trained again.
    assert len(trained) == tiny.selection.n_candidates + 1


def test_resume_evaluates_a_trial_that_was_enqueued_after_the_end(finished, finished_workspace):
    study = load(finished_workspace)
    params = finished.study.best_trial.params
    smallest = dict.fromkeys(params, "none")
    study.enqueue_trial(smallest)
    result = resume("tiny", workspace=finished_workspace)
    trial = result.study.trials[-1]
    assert (trial.state, trial.params) == (TrialState.COMPLETE, smallest)
    assert len(result.study.trials) == len(finished.study.trials) + 1
    assert result.rows[0].test is not None
    again = resume("tiny", workspace=finished_workspace)
    assert again.rows == result.rows
    assert len(again.study.trials) == len(result.study.trials)


def test_search_takes_a_sampler_and_callbacks(tiny, workspace):
    seen = []
    sampler = optuna.samplers.RandomSampler(seed=0)
    result = search(
        tiny.replace(search={"n_trials": 4}, **ALONE),
        sampler=sampler,
        callbacks=[lambda study, trial: seen.append((study.study_name, trial.number, trial.state))],
        workspace=workspace,
    )
    assert seen == [("tiny", number, TrialState.COMPLETE) for number in range(4)]
    trials = result.study.trials
    assert all(trial.user_attrs["trainable_params"] <= result.budget for trial in trials)
    other = search(
        tiny.replace(search={"n_trials": 4}, **ALONE), name="evolved", workspace=workspace
    )
    assert [t.params for t in other.study.trials] != [t.params for t in trials]


def test_search_target_raised_before_the_selection_adds_the_trials(
    finished, tiny, workspace, monkeypatch
):
    """Another process raises the target between the last trial and the selection."""
    original, raised = _selection.train_candidates, []
    check = _selection.done_trials

    def done_trials(study):
        if not raised:
            raised.append(1)
            settings = get_attribute(study, "settings")
            recipe = settings["recipe"]
            recipe = {**recipe, "search": {**recipe["search"], "n_trials": 12}}
            set_attribute(study, "settings", {**settings, "recipe": recipe, "target": 12})
        return check(study)

    def train_candidates(run, *arguments):
        assert len(run.study.trials) == 12
        return original(run, *arguments)

    monkeypatch.setattr(_selection, "done_trials", done_trials)
    monkeypatch.setattr(_selection, "train_candidates", train_candidates)
    result = search(tiny.replace(search={"n_trials": 3}), workspace=workspace)
    assert raised
    assert figures(result) == figures(finished)


def test_search_budget_zero_trains_the_head_alone(tiny, workspace):
    result = search(tiny.replace(budget=0), workspace=workspace)
    assert result.selection.n_params == 0
    assert summarize(result.study)["trials"]["complete"] == 1
    rows = {row.name: row for row in result.rows}
    assert rows["LoRA"] == Row("LoRA")
    assert rows["BitFit"] == Row("BitFit")
    assert rows["searched"].test is not None


def test_search_objective_accuracy_is_maximized(tiny, workspace):
    recipe = tiny.replace(search={"objectives": ["accuracy"]}, **ALONE)
    result = search(recipe, workspace=workspace)
    assert result.study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert result.study.metric_names == ["validation_accuracy"]
    for trial in result.study.trials:
        assert trial.value == trial.user_attrs["validation_accuracy"]


def test_search_epochs_ratios_of_0_keep_the_inherited_weights(tiny, workspace):
    selection = {"epochs_ratio": 0, "refit_epochs_ratio": 0, "baselines": False}
    result = search(tiny.replace(selection=selection), workspace=workspace)
    assert result.selection.trained == result.selection.inherited
    assert result.rows[0].validation == result.selection.inherited
    assert result.rows[0].n_images == trained_images(tiny)
    validation = result.rows[0].validation
    context = prepare(tiny, workspace, "tiny")
    assert evaluate(result.model, *context.validation, scale_temperature=True) == validation


def test_search_without_refit_keeps_the_validated_weights(tiny, workspace, finished):
    result = search(tiny.replace(selection={"refit": False}), workspace=workspace)
    assert not result.selection.refit
    assert result.selection.weights == "trained"
    context = prepare(tiny, workspace, "tiny")
    found = evaluate(result.model, *context.validation, scale_temperature=True)
    assert found == result.rows[0].validation == finished.rows[0].validation
    assert Stage.REFIT not in {cost.stage for cost in stage_costs(result.study)}
    recipe = read_recipe(result.study)
    expected = {subnet_images(recipe, recipe.selection.n_candidates), baseline_images(recipe)}
    assert {row.n_images for row in result.rows} == expected


def test_search_several_candidates_keeps_the_one_that_validates_best(tiny, workspace):
    recipe = tiny.replace(selection={"n_candidates": 3, "baselines": False})
    result = search(recipe, workspace=workspace)
    best = [t.number for t in sorted(result.study.trials, key=lambda t: t.value)][:3]
    assert result.selection.candidates == tuple(dict.fromkeys([0, *best]))[:3]
    assert result.selection.trial in result.selection.candidates
    (cost,) = (c for c in stage_costs(result.study) if c.stage == Stage.SELECTION)
    assert cost.n_trained == 3 * trained_images(recipe, recipe.selection.epochs_ratio)
    assert cost.n_evaluated == 3 * 2 * N_VALIDATION


def test_search_uniform_paths_select_the_best_trials(tiny, workspace):
    recipe = tiny.replace(supernet={"paths": "uniform"}, training={"lr": 1e-3}, **ALONE)
    result = search(recipe, workspace=workspace)
    n_candidates = recipe.selection.n_candidates
    best = [t.number for t in sorted(result.study.trials, key=lambda t: t.value)]
    assert result.selection.candidates == tuple(best[:n_candidates])
    assert result.rows[0].n_images == subnet_images(recipe, n_candidates)


def test_search_collapsed_supernet_restarts_at_a_lower_rate(tiny, workspace):
    """Its first attempt ends before a checkpoint is due."""
    lines = []
    recipe = tiny.replace(training={"lr": 0.1, "clip_grad": 0, "checkpoint_every": 5}, **ALONE)
    result = search(recipe, workspace=replace(workspace, progress=LineProgress(lines.append)))
    assert any("the training collapsed at a learning rate of 1.0e-01" in line for line in lines)
    assert get_attribute(result.study, "supernet")["spent"]["n_restarts"] > 0
    assert result.rows[0].test is not None


def test_search_interrupted_creation_is_repeated(tiny, tmp_path, finished):
    url = f"sqlite:///{tmp_path}/studies.db"
    study = optuna.create_study(study_name="tiny", storage=url, direction="minimize")
    study.set_user_attr("glora:recipe", {})
    assert figures(search(tiny, workspace=Workspace(runs=tmp_path))) == figures(finished)


def test_resume_finished_study_writes_its_winner_into_another_folder(
    finished, finished_runs, tmp_path
):
    storage = f"sqlite:///{finished_runs}/studies.db"
    again = resume("tiny", workspace=Workspace(storage=storage, runs=tmp_path))
    assert again.rows == finished.rows
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, finished.model.state_dict()[name])
    assert load_checkpoint(tmp_path / "tiny/winner.json") is not None


def test_resume_study_of_a_version_with_fewer_settings_is_not_repeated(
    finished, finished_workspace, monkeypatch
):
    study = load(finished_workspace)
    settings = get_attribute(study, "settings")
    del settings["recipe"]["selection"]["refit"]
    set_attribute(study, "settings", {**settings, "key": "0123456789abcdef"})
    (finished_workspace.folder / "artifacts/study-0123456789abcdef").touch()
    stages = load(finished_workspace, "tiny/stages")
    for trial in stages.trials:  # such a version computed another key
        if trial.state == TrialState.COMPLETE and trial.user_attrs["stage"] != "settings":
            attributes = {**trial.user_attrs, "key": "0123456789abcdef"}
            stages.add_trial(optuna.trial.create_trial(value=trial.value, user_attrs=attributes))
    for name in ("load_supernet", "search_trials", "final_test"):
        monkeypatch.setattr(_search, name, lambda *_, **__: pytest.fail("it is done"))
    monkeypatch.setattr(_training, "train", lambda *_, **__: pytest.fail("it is done"))
    assert resume("tiny", workspace=finished_workspace).rows == finished.rows


def test_prepare_layer_whose_weight_is_read_without_a_call_has_no_bias_choices(tiny, workspace):
    kwargs = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    backbone = {"model": "beit_base_patch16_224", "pretraining": None, "kwargs": kwargs}
    table = tiny.model_dump(mode="json") | {"backbone": backbone}
    context = prepare(parse_recipe(table, "recipe beit"), workspace, "beit")
    names = {d.name for d in context.space.dimensions if "qkv" in d.name}
    assert names == {"blocks.0.attn.qkv.A", "blocks.0.attn.qkv.B"}
