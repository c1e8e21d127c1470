from types import SimpleNamespace

import pytest
import torch
from optuna.trial import TrialState, create_trial

from glora_automl.architecture import Architecture
from glora_automl.commands import search
from glora_automl.errors import StudyError
from glora_automl.pipeline import (
    TargetRaised,
    Workspace,
    _standalone,
    best_outcome,
    find_candidates,
    load_adapted,
    load_backbone,
    load_supernet,
    open_run,
    refit_work,
    search_trials,
    select_work,
)
from glora_automl.pipeline import _training as trainings
from glora_automl.pipeline._search import largest_truncation
from glora_automl.study import (
    SEARCHED,
    AdapterOutcome,
    Row,
    Selection,
    Stage,
    _paired,
    best_trials,
    quality,
)
from glora_automl.training import Score, evaluate, load_checkpoint


class Recorded:
    """Records the trainings of a study, and may interrupt one."""

    def __init__(self, patch, stop_at=None):
        original = trainings.train
        self.calls = []

        def train(model, parameters, images, labels, settings, **keywords):
            self.calls.append((str(keywords["stage"]), settings.epochs, len(labels)))
            if len(self.calls) == stop_at:
                raise KeyboardInterrupt
            return original(model, parameters, images, labels, settings, **keywords)

        patch.setattr(trainings, "train", train)


@pytest.fixture
def recipe(tiny):
    return tiny.replace(
        search={"n_trials": 6},
        selection={
            "baselines": False,
            "n_candidates": 2,
            "epochs_ratio": 0.5,
            "refit": True,
            "refit_epochs_ratio": 1.25,
        },
    )


@pytest.fixture
def workspace(tmp_path):
    return Workspace(runs=tmp_path / "runs", device="cpu")


def test_selection_trains_the_candidates_on_and_keeps_the_best(recipe, workspace, monkeypatch):
    recorded = Recorded(monkeypatch)
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        search_trials(run, load_supernet(run))
        outcome = run.stages.run(select_work(run))[str(Stage.SELECTION)]
        model = load_adapted(run, outcome)
        candidates, context = find_candidates(run, run.context.budget), run.context
        validated = evaluate(model, *context.validation, scale_temperature=True)
    assert len(candidates) == 2
    digests = [candidate.architecture.digest[:16] for candidate in candidates]
    assert recorded.calls[1:] == [(f"selection-{digest}", 6, 24) for digest in digests]
    selection = outcome.selection
    assert selection.candidates == tuple(candidate.trial for candidate in candidates)
    assert selection.trial in selection.candidates
    chosen = run.study.trials[selection.trial]
    assert selection.architecture == outcome.architecture
    assert selection.architecture == str(context.space.architecture(chosen.params))
    assert selection.n_params == outcome.row.n_params == chosen.user_attrs["trainable_params"]
    assert selection.inherited.loss == pytest.approx(chosen.value, abs=1e-5)
    assert selection.trained == outcome.row.validation
    assert validated.loss == pytest.approx(selection.trained.loss, abs=1e-5)
    assert outcome.row.name == SEARCHED
    assert outcome.spent.n_trained == 2 * 6 * 24
    assert outcome.spent.n_evaluated == 2 * 2 * 60


def test_find_candidates_are_the_largest_truncation_then_the_best_trials(recipe, workspace):
    recipe = recipe.replace(selection={"n_candidates": 4})
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        trained = load_supernet(run)
        search_trials(run, trained)
        space, budget = run.context.space, run.context.budget
        for limit in (budget, budget // 2):
            found = find_candidates(run, limit)
            largest = largest_truncation(run.context, trained, limit)
            trials = best_trials(run.study, 4, within=limit)
            expected = [str(largest), *(str(space.architecture(t.params)) for t in trials)]
            assert [str(c.architecture) for c in found] == list(dict.fromkeys(expected))[:4]
            assert all(c.architecture.count(space.shapes) <= limit for c in found)
            for candidate in found:
                if candidate.trial is not None:
                    params = run.study.trials[candidate.trial].params
                    assert space.architecture(params) == candidate.architecture
        assert find_candidates(run, budget)[0].trial == 0  # the search begins with it
        assert find_candidates(run, budget // 2)[0].trial is None


def test_find_candidates_without_held_out_images_leaves_small_trials_out(recipe, workspace):
    recipe = recipe.replace(selection={"holdout": False})
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        search_trials(run, load_supernet(run))
        space = run.context.space
        best = min(run.study.trials, key=lambda t: t.value)
        largest = max(t.user_attrs["trainable_params"] for t in run.study.trials)
        small = dict.fromkeys(space.distributions(), "none")
        assert space.count(small) < 0.5 * largest
        run.study.add_trial(
            create_trial(
                params=small,
                distributions=space.distributions(),
                value=best.value - 1,
                user_attrs={"trainable_params": space.count(small)},
            )
        )
        (found,) = find_candidates(run, run.context.budget)
        full = [t for t in run.study.trials if t.user_attrs["trainable_params"] >= 0.5 * largest]
        assert found.trial == min(full, key=lambda t: t.value).number


def test_selection_of_several_candidates_keeps_the_best_by_validation(recipe, workspace):
    single = search(
        recipe.replace(selection={"n_candidates": 1, "refit": False}),
        name="single",
        workspace=workspace,
    )
    several = search(
        recipe.replace(selection={"n_candidates": 6, "refit": False}),
        name="several",
        workspace=workspace,
    )
    assert len(single.selection.candidates) == 1
    assert len(several.selection.candidates) == 6
    assert single.selection.trial == several.selection.candidates[0]
    assert quality(several.selection.trained) >= quality(single.selection.trained)


def test_selection_of_no_epochs_keeps_the_inherited_weights(recipe, workspace):
    recipe = recipe.replace(selection={"epochs_ratio": 0, "refit": False})
    result = search(recipe, workspace=workspace)
    assert result.selection.trained == result.selection.inherited
    assert result.selection.weights == "trained"
    assert result.selection.trained.loss == pytest.approx(
        result.study.trials[result.selection.trial].value, abs=1e-5
    )


def test_refit_trains_on_from_the_selection_with_all_labelled_images(
    recipe, workspace, monkeypatch
):
    recorded = Recorded(monkeypatch)
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        search_trials(run, load_supernet(run))
        selected = run.stages.run(select_work(run))[str(Stage.SELECTION)]
        refit = run.stages.run(refit_work(run, "refit", SEARCHED, selected))["refit"]
    # 1.25 x 12 epochs of 24 images are as many steps as 4 epochs of 84 images.
    assert recorded.calls[-1] == ("refit", 4, 24 + 60)
    assert refit.selection == selected.selection
    assert refit.row.validation == selected.row.validation
    assert refit.architecture == selected.architecture
    assert refit.digest != selected.digest
    assert refit.spent.n_trained == 4 * 84


def test_refit_decides_no_selection_and_changes_the_tested_weights(recipe, workspace):
    plain, refit = (
        search(
            recipe.replace(selection={"refit": r}), name=f"refit-{r}".lower(), workspace=workspace
        )
        for r in (False, True)
    )
    assert (refit.selection.trial, refit.selection.trained) == (
        plain.selection.trial,
        plain.selection.trained,
    )
    assert (plain.selection.weights, refit.selection.weights) == ("trained", "refit")
    one, other = plain.model.state_dict(), refit.model.state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one)
    assert refit.rows[0].n_images == plain.rows[0].n_images + 4 * 84


def test_selection_before_all_trials_are_done_raises(recipe, workspace):
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        load_supernet(run)
        with pytest.raises(TargetRaised):
            run.stages.run(select_work(run))
        assert not run.stages.is_done(Stage.SELECTION)


def test_selection_without_a_feasible_trial_raises(recipe, workspace):
    recipe = recipe.replace(search={"n_trials": 1}, supernet={"paths": "uniform"})
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        load_supernet(run)
        space = run.context.space
        largest = {d.name: d.choices[d.costs.index(max(d.costs))] for d in space.dimensions}
        run.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=0.1,
                params=largest,
                distributions=space.distributions(),
                constraints={"trainable_params": 1.0},
                user_attrs={"trainable_params": space.count(largest)},
            )
        )
        with pytest.raises(StudyError, match="must have a trial within its budget"):
            run.stages.run(select_work(run))


@pytest.mark.parametrize("stop_at", [2, 3, 4])
def test_interrupted_selection_ends_as_an_uninterrupted_one(
    recipe, workspace, tmp_path, monkeypatch, stop_at
):
    whole = search(recipe, workspace=Workspace(runs=tmp_path / "whole", device="cpu"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Recorded(patch, stop_at=stop_at)
        search(recipe, workspace=workspace)
    again = search(recipe, workspace=workspace)
    assert again.selection == whole.selection
    assert again.rows[0].test == whole.rows[0].test


LABELS = torch.arange(40) % 2
TRIAL = Selection("fc: B=lora-1", 12, Score(0.6, 1.0, 10, 0.9), trial=3, candidates=(3, 4))


def predictions(n_wrong):
    """Classes of a model that is wrong on the first images."""
    return torch.where(torch.arange(len(LABELS)) < n_wrong, 1 - LABELS, LABELS)


def run_with(metric="accuracy"):
    """A run whose artifacts are the tensors themselves."""
    selection = SimpleNamespace(refit=True)
    recipe = SimpleNamespace(selection=selection, metric=metric)
    context = SimpleNamespace(recipe=recipe, validation=(None, LABELS))
    return SimpleNamespace(context=context, download=lambda tensors: tensors)


def outcome(name, n_wrong=None, scaled_loss=0.9, selection=None, custom=None):
    if n_wrong is None:
        return AdapterOutcome(Row(name))
    classes = predictions(n_wrong)
    accuracy = (classes == LABELS).float().mean().item()
    probabilities = torch.eye(2, dtype=torch.float64)[classes] * 0.8 + 0.1
    score = Score(accuracy, 1.0, len(LABELS), scaled_loss, custom)
    found = {"classes": classes, "probabilities": probabilities}
    return AdapterOutcome(
        Row(name, 0, score), f"{name}: none", selection=selection, predictions=found
    )


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "auroc", "log_loss"])
def test_best_outcome_keeps_the_searched_adapter_beside_baselines_within_chance(
    metric, monkeypatch
):
    monkeypatch.setattr(_paired, "N_RESAMPLES", 99)
    found = {
        "selection": outcome("searched", 10, selection=TRIAL),
        "a": outcome("probe", 10, scaled_loss=0.1),
        "b": outcome("BitFit", 9, scaled_loss=0.2),
        "c": outcome("LoRA", 11, scaled_loss=0.3),
    }
    assert best_outcome(run_with(metric), found) is TRIAL


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "auroc", "log_loss"])
def test_best_outcome_is_a_baseline_that_is_shown_to_validate_better(metric, monkeypatch):
    monkeypatch.setattr(_paired, "N_RESAMPLES", 99)
    found = {
        "selection": outcome("searched", 20, selection=TRIAL, custom=0.5),
        "none": outcome("LoRA"),
        "a": outcome("probe", 2, scaled_loss=0.2, custom=0.9),
        "b": outcome("BitFit", 20, scaled_loss=0.1, custom=0.99),
    }
    selection = best_outcome(run_with(metric), found)
    assert (selection.preset, selection.trial, selection.origin) == ("probe", None, "probe")
    assert selection.trained.scaled_loss == 0.2
    assert selection.candidates == (3, 4)
    assert selection.refit
    assert selection.stage == "a"


def test_best_outcome_of_several_better_baselines_has_the_smallest_scaled_loss():
    found = {
        "selection": outcome("searched", 20, selection=TRIAL),
        "a": outcome("probe", 1, scaled_loss=0.3),
        "b": outcome("BitFit", 2, scaled_loss=0.2),
    }
    assert best_outcome(run_with(), found).preset == "BitFit"


def test_search_selects_a_baseline_that_is_shown_to_validate_better(tiny, workspace, monkeypatch):
    original = _standalone.validate_predictions

    def validate(context, subnet):
        score, found = original(context, subnet)
        layer = subnet.layers["blocks.0.attn.qkv"]
        is_bitfit = {str(layer.active.A), str(layer.active.B)} == {"none"} and str(
            layer.active.E
        ) == "vector"
        labels = context.validation[1]
        n_classes = int(labels.max()) + 1
        found["classes"] = labels if is_bitfit else (labels + 1) % n_classes
        return (Score(1.0, 0.1, score.n_images, 0.01) if is_bitfit else score), found

    monkeypatch.setattr(_standalone, "validate_predictions", validate)
    recipe = tiny.replace(training={"epochs": 2}, search={"n_trials": 3})
    result = search(recipe, workspace=workspace)
    (row,) = (row for row in result.rows if row.name == "BitFit")
    selection = result.selection
    assert (selection.preset, selection.trial) == ("BitFit", None)
    architecture = Architecture.parse(selection.architecture)
    assert {str(c.E) for c in architecture.values()} == {"vector"}
    assert selection.n_params == row.n_params
    with open_run(recipe, workspace) as run:
        assert evaluate(result.model, *run.context.test()) == row.test
    kept = load_checkpoint(workspace.folder / "tiny/winner.json")
    assert kept[1]["architecture"] == selection.architecture
    assert result.rows[0].name == SEARCHED
    assert result.rows[0].test is not None
