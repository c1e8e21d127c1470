import math

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from glora_automl.commands import search, select
from glora_automl.errors import DivergenceError, RecipeError, Stopped
from glora_automl.pipeline import Workspace, fold_contexts, forecast, load_backbone, open_run, tune
from glora_automl.pipeline import _training as trainings
from glora_automl.pipeline import _tuning as tuning
from glora_automl.pipeline._forecast import stage_work
from glora_automl.study import Stage, read_recipe, stage_costs
from glora_automl.tasks import ImageSet
from glora_automl.training import evaluate

RATES = {"training.lr": [1e-4, 3e-3]}


class Recorded:
    """Records the trainings of a study; one may raise an error, and some may only pretend."""

    def __init__(self, patch, stop_at=None, error=KeyboardInterrupt):
        original = trainings.train
        self.calls = []

        def train(model, parameters, images, labels, settings, **keywords):
            self.calls.append((str(keywords["stage"]), settings.lr, len(labels)))
            if len(self.calls) == stop_at:
                raise error
            return original(model, parameters, images, labels, settings, **keywords)

        patch.setattr(trainings, "train", train)

    def rates(self, stage):
        return {lr for name, lr, _count in self.calls if name.startswith(stage)}


@pytest.fixture
def recipe(tiny):
    return tiny.replace(
        tune={"n_trials": 4, "choices": RATES, "sampler": "random"},
        search={"n_trials": 4},
        selection={"baselines": False},
    )


@pytest.fixture
def workspace(tmp_path):
    return Workspace(runs=tmp_path / "runs", device="cpu")


def trials_of(run):
    return optuna.load_study(
        study_name=tuning.tuning_study_name(run.study.study_name, run.stages.key),
        storage=run.worker.storage,
    ).get_trials()


def test_tune_without_trials_returns_the_same_run(tiny, workspace):
    with open_run(tiny, workspace) as run:
        assert tune(run) is run


def test_tune_begins_with_the_recipe_and_trains_with_the_best_settings(recipe, workspace):
    with open_run(recipe, workspace) as run:
        tuned = tune(load_backbone(run))
        trials = trials_of(run)
    assert trials[0].params == {"training.lr": recipe.training.lr}
    assert [t.user_attrs["fold"] for t in trials] == [0, 0, 0, 0]  # compared on the same images
    best = min(trials, key=lambda trial: trial.value)
    assert tuned.context.recipe.training.lr == best.params["training.lr"]
    rest = {"training": {"lr": recipe.training.lr, "precision": "auto"}}
    assert tuned.context.recipe.replace(**rest) == recipe


def test_tune_and_the_trainings_after_it_prepare_each_image_set_once(
    recipe, workspace, monkeypatch
):
    original, prepared = ImageSet.prepare, []

    def prepare(self, *arguments):
        prepared.append(self)
        return original(self, *arguments)

    monkeypatch.setattr(ImageSet, "prepare", prepare)
    with open_run(recipe, workspace) as run:
        tuned = tune(load_backbone(run)).context
        assert len(tuned.labelled[1]) == 84
    for images in (tuned.task.train, tuned.task.validation):
        assert prepared.count(images) == 1


def test_value_is_the_loss_on_the_fold_minus_that_of_a_linear_probe(recipe, workspace):
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        tune(run)
        trial = trials_of(run)[1]
        fold = fold_contexts(run.context, 4)[0]
        context = fold.with_recipe(recipe.replace(training={"lr": trial.params["training.lr"]}))
        supernet = trainings.new_supernet(context)
        supernet.activate(tuning.widest_architecture(context.space))
        trainings.TrainingJob(context, "tune-0", "", context.train, 0.25).run(supernet)
        score = evaluate(supernet.model, *context.validation, scale_temperature=True)
        probe = context.backbone()
        tuning.fit_head(probe, *context.train)
        base = evaluate(probe, *context.validation, scale_temperature=True)
    assert trial.value == pytest.approx(score.scaled_loss - base.scaled_loss, abs=1e-5)


def test_folds_part_the_labelled_images_by_class(recipe, workspace):
    with open_run(recipe, workspace) as run:
        context = load_backbone(run).context
        folds = fold_contexts(context, 4)
        images, labels = context.labelled
        found = torch.cat([fold.validation[0][:] for fold in folds])
    assert sorted(found.flatten(1).sum(1).tolist()) == sorted(images[:].flatten(1).sum(1).tolist())
    for fold in folds:
        assert len(fold.train[1]) + len(fold.validation[1]) == len(labels)
        counts = np.bincount(fold.validation[1])
        assert counts.max() - counts.min() <= 1


def test_folds_keep_copies_of_an_image_together(recipe, workspace):
    with open_run(recipe, workspace) as run:
        context = load_backbone(run).context
        copies = [bytes([i % 25, 1]) for i in range(len(context.labelled[1]))]
        context.task.__dict__["_digests"] = {"train": copies, "validation": []}
        images = [
            {tuple(image.flatten().tolist()) for image in fold.validation[0][:]}
            for fold in fold_contexts(context, 4)
        ]
        order = [tuple(image.flatten().tolist()) for image in context.labelled[0][:]]
    for index, copy in enumerate(copies):
        twins = {order[i] for i, other in enumerate(copies) if other == copy}
        (fold,) = [found for found in images if order[index] in found]
        assert twins <= fold


def test_folds_of_copies_of_one_image_are_the_recipes_own_split(recipe, workspace):
    with open_run(recipe, workspace) as run:
        context = load_backbone(run).context
        context.task.__dict__["_digests"] = {"train": [b"a"] * 84, "validation": []}
        (fold,) = fold_contexts(context, 4)
    assert fold is context


def test_folds_of_few_images_are_fewer(tiny, workspace):
    few = tiny.replace(task={"train_per_class": 2, "validation_per_class": 1})
    with open_run(few, workspace) as run:
        assert len(fold_contexts(load_backbone(run).context, 10)) == 3


def test_everything_is_trained_with_the_tuned_recipe(recipe, workspace, monkeypatch):
    recipe = recipe.replace(
        selection={"baselines": True}, tune={"choices": {"training.lr": [0.011]}, "n_trials": 2}
    )
    monkeypatch.setattr(tuning, "_loss", lambda score: -recipe_rate[0])
    recipe_rate = [0.0]
    original = tuning.Tuning._evaluate

    def evaluate_rate(self, trial, settings, fold):
        recipe_rate[0] = settings["training.lr"]
        return original(self, trial, settings, fold)

    monkeypatch.setattr(tuning.Tuning, "_evaluate", evaluate_rate)
    monkeypatch.setattr(tuning.Tuning, "_probe_loss", lambda self, fold: 0.0)
    recorded = Recorded(monkeypatch)
    found = search(recipe, workspace=workspace)
    n_calls = len(recorded.calls)
    select("tiny", found.budget // 2, workspace=workspace)
    assert [name.partition("-")[0] for name, *_ in recorded.calls[n_calls:]][-1] == "refit"
    assert recorded.rates("tune") == {recipe.training.lr, 0.011}
    stages = {name.partition("-")[0] for name, _lr, _count in recorded.calls} - {"tune"}
    assert stages >= {"supernet", "selection", "refit"}
    assert {lr for name, lr, _count in recorded.calls if not name.startswith("tune")} == {0.011}


@pytest.mark.parametrize("stop_at", [1, 3])
def test_tune_interrupted_equals_uninterrupted(recipe, tmp_path, monkeypatch, stop_at):
    def values(folder, interrupt):
        workspace = Workspace(runs=tmp_path / folder, device="cpu")
        if interrupt:
            with monkeypatch.context() as patch:
                Recorded(patch, stop_at)
                with pytest.raises(KeyboardInterrupt), open_run(recipe, workspace) as run:
                    tune(load_backbone(run))
        with open_run(recipe, workspace) as run:
            tuned = tune(load_backbone(run))
            done = [t for t in trials_of(run) if t.state == TrialState.COMPLETE]
        return sorted((t.value, t.params["training.lr"]) for t in done), tuned.context.recipe

    assert values("whole", interrupt=False) == values("parts", interrupt=True)


def test_tune_stopped_within_a_trial_continues_from_its_checkpoint(recipe, tmp_path, monkeypatch):
    recipe = recipe.replace(training={"epochs": 40, "checkpoint_every": 1})
    whole = Workspace(runs=tmp_path / "whole", device="cpu")
    with open_run(recipe, whole) as run:
        tune(load_backbone(run))
        expected = [trial.value for trial in trials_of(run)]
    epochs = []

    def train(*args, on_epoch, **keywords):
        def counted(n_epochs, loss):
            epochs.append(n_epochs)
            on_epoch(n_epochs, loss)

        keywords["stop"] = lambda: epochs[-1:] == [2]
        return original(*args, on_epoch=counted, **keywords)

    original = trainings.train
    parts = Workspace(runs=tmp_path / "parts", device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(trainings, "train", train)
        with pytest.raises(Stopped), open_run(recipe, parts) as run:
            tune(load_backbone(run))
    assert list(run.context.folder.glob("tune.*.json"))
    with open_run(recipe, parts) as run:
        tuned = tune(load_backbone(run))
        found = [t.value for t in trials_of(run) if t.state == TrialState.COMPLETE]
        spent = tuned.stages.outcome(Stage.TUNE, tuning.TuneOutcome).spent
        assert spent.n_trained == stage_work(run.context)[Stage.TUNE].n_trained
    assert sorted(found) == sorted(expected)
    assert not list(run.context.folder.glob("tune.*"))


def test_tune_ends_a_trial_that_is_worse_than_the_median(recipe, workspace, monkeypatch):
    recipe = recipe.replace(
        training={"lr": 1e-4},  # no training collapses and starts again
        tune={"n_trials": 6, "epochs_ratio": 0.5, "choices": {"training.lr": [1e-4, 2e-4]}},
    )
    losses = iter([0.5, 0.4] * 5 + [0.9])
    monkeypatch.setattr(tuning, "_loss", lambda score: next(losses))
    monkeypatch.setattr(tuning.Tuning, "_probe_loss", lambda self, fold: 0.0)
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        tuned = tune(run)
        trials = trials_of(run)
        work = stage_work(run.context)[Stage.TUNE]
        done = tuned.stages.outcome(Stage.TUNE, tuning.TuneOutcome).spent
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    assert 5 / 6 * work.n_trained < done.n_trained < work.n_trained
    n_validation = len(fold_contexts(run.context, 4)[0].validation[1])
    assert done.n_evaluated == work.n_evaluated - n_validation
    assert all(trial.user_attrs["spent"]["seconds"] > 0 for trial in trials)


def test_tune_stopped_after_the_pruning_epoch_keeps_the_report(recipe, tmp_path, monkeypatch):
    recipe = recipe.replace(
        training={"epochs": 40, "checkpoint_every": 1}, tune={"epochs_ratio": 0.6}
    )

    def reports(folder, stop_at=None):
        workspace = Workspace(runs=tmp_path / folder, device="cpu")
        epochs = []

        def train(*args, on_epoch, **keywords):
            def counted(n_epochs, loss):
                epochs.append(n_epochs)
                on_epoch(n_epochs, loss)

            keywords["stop"] = lambda: epochs[-1:] == [stop_at]
            return original(*args, on_epoch=counted, **keywords)

        if stop_at is not None:
            with monkeypatch.context() as patch:
                patch.setattr(trainings, "train", train)
                with pytest.raises(Stopped), open_run(recipe, workspace) as run:
                    tune(load_backbone(run))
        with open_run(recipe, workspace) as run:
            tune(load_backbone(run))
            done = [t for t in trials_of(run) if t.state == TrialState.COMPLETE]
        assert stop_at is None or epochs[-1] == stop_at
        return sorted((t.params["training.lr"], t.value, t.intermediate_values[0]) for t in done)

    original = trainings.train
    expected = reports("whole")
    assert reports("before", stop_at=2) == expected
    assert reports("after", stop_at=5) == expected


def test_study_with_a_tuning_trial_keeps_its_recipe(recipe, workspace):
    with open_run(recipe, workspace) as run:
        study = tuning._open_study(run)
        run.worker.ask(study, queued=True)
        with (
            pytest.raises(RecipeError, match="seed must be"),
            open_run(recipe.replace(seed=5), workspace),
        ):
            pass
        assert read_recipe(run.study).seed == recipe.seed


def test_select_counts_the_tuning(recipe, workspace):
    found = search(recipe, workspace=workspace)
    selected = select("tiny", found.budget // 2, workspace=workspace)
    costs = {c.stage: c.n_trained for c in stage_costs(found.study)}
    assert costs[Stage.TUNE] > 0
    shared = costs[Stage.TUNE] + costs[Stage.SUPERNET]
    own = selected.rows[0].n_images - shared
    assert 0 < own < costs[Stage.SELECTION] + costs[Stage.REFIT] + 1


def test_collapsed_trial_counts_as_a_guess(recipe, workspace, monkeypatch):
    Recorded(monkeypatch, 1, DivergenceError("collapsed", 7, 0.1))
    monkeypatch.setattr(trainings, "MAX_RESTARTS", 0)
    monkeypatch.setattr(tuning.Tuning, "_probe_loss", lambda self, fold: 0.25)
    with open_run(recipe, workspace) as run:
        tuned = tune(load_backbone(run))
        trials = trials_of(run)
    assert trials[0].value == pytest.approx(math.log(3) - 0.25)
    assert tuned.stages.outcome(Stage.TUNE, tuning.TuneOutcome).trial != 0


def test_costs_of_the_tuning_are_those_of_the_forecast(recipe, workspace):
    with open_run(recipe, workspace) as run:
        run = load_backbone(run)
        expected = stage_work(run.context)[Stage.TUNE]
        assert any("tune" in line for line in forecast(run.context))
        tune(run)
        (cost,) = [c for c in stage_costs(run.study) if c.stage == Stage.TUNE]
    assert (cost.n_trained, cost.n_evaluated) == (expected.n_trained, expected.n_evaluated)
