"""Cross-validation of the candidates, and training with the validation images at the end."""

import pytest
import torch

from glora_automl.commands import search
from glora_automl.errors import RecipeError
from glora_automl.pipeline import _finetuning
from glora_automl.pipeline._context import prepare
from glora_automl.progress import Progress
from glora_automl.study import summarize
from glora_automl.training import evaluate, load_checkpoint


@pytest.fixture
def short(tiny):
    return tiny.replace(
        search={"n_trials": 6, "population_size": 3},
        selection={"baselines": False, "n_candidates": 2, "finetune_epochs": 2},
    )


def trained_on(monkeypatch):
    """The images of each fine-tuning, as the sets of their contents."""
    calls, original = [], _finetuning.train

    def recorded(model, parameters, images, labels, *args, **keywords):
        digests = [hash(image.numpy().tobytes()) for image in images[torch.arange(len(labels))]]
        calls.append(list(zip(digests, labels.tolist(), strict=True)))
        return original(model, parameters, images, labels, *args, **keywords)

    monkeypatch.setattr(_finetuning, "train", recorded)
    return calls


def contents(images, labels):
    digests = [hash(image.numpy().tobytes()) for image in images]
    return list(zip(digests, labels.tolist(), strict=True))


def test_each_validation_image_is_scored_by_a_training_without_it(short, tmp_path, monkeypatch):
    calls, scored, original = trained_on(monkeypatch), [], _finetuning.evaluate

    def recorded(model, images, labels):
        scored.append(contents(images[torch.arange(len(labels))], labels))
        return original(model, images, labels)

    monkeypatch.setattr(_finetuning, "evaluate", recorded)
    recipe = short.replace(selection={"n_splits": 3})
    result = search(recipe, runs=tmp_path)
    setup = prepare(recipe, runs=tmp_path, name="tiny", device="cpu", progress=Progress())
    fit, validation = contents(*setup.train), contents(*setup.validation)
    assert len(calls) == 2 * 3 + 1
    for trained, left_out in zip(calls, scored, strict=False):
        assert sorted(trained + left_out) == sorted(fit + validation)
        assert set(left_out) <= set(validation)
        assert {label for _, label in left_out} == {0, 1, 2}
    assert sorted(scored[0] + scored[1] + scored[2]) == sorted(validation)
    assert sorted(calls[-1]) == sorted(fit)
    selection = result.selection
    assert selection.cross_validated.n_images == len(validation)
    assert selection.inherited.accuracy == result.study.trials[selection.trial].value
    (row,) = result.rows
    assert row.n_images == 12 * len(fit) + sum(map(len, calls)) * 2
    assert summarize(result.study)["selection"]["cross_validated"]["n_images"] == len(validation)


def test_the_tested_adapters_see_the_validation_images_in_the_end(short, tmp_path, monkeypatch):
    calls = trained_on(monkeypatch)
    plain = search(short, runs=tmp_path / "plain")
    refit = search(
        short.replace(selection={"refit": True, "baselines": True}), runs=tmp_path / "refit"
    )
    assert [len(call) for call in calls] == [24, 24, 24 + 60]
    # What validates is what it would be without.
    assert refit.selection == plain.selection
    assert refit.rows[0].validation == plain.rows[0].validation
    assert refit.rows[0].n_images == plain.rows[0].n_images + 2 * (24 + 60)
    probe = next(row for row in refit.rows if row.name == "linear probe")
    assert probe.images == 14 * 24 + 14 * (24 + 60)
    assert probe.validation is not None
    # The test is of the others: their weights differ.
    one, other = plain.model.state_dict(), refit.model.state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_model_that_is_given_back_is_the_one_that_was_tested(short, tmp_path):
    recipe = short.replace(selection={"refit": True, "n_splits": 2})
    result = search(recipe, runs=tmp_path)
    setup = prepare(recipe, runs=tmp_path, name="tiny", device="cpu", progress=Progress())
    assert evaluate(result.model, *setup.test()) == result.rows[0].test


def test_without_fine_tuning_the_winner_is_what_the_supernet_has(short, tmp_path):
    # The last candidate is the worst: what was scored last must not be taken for the winner.
    recipe = short.replace(selection={"finetune_epochs": 0, "n_candidates": 6})
    result = search(recipe, runs=tmp_path)
    setup = prepare(recipe, runs=tmp_path, name="tiny", device="cpu", progress=Progress())
    assert len(result.selection.n_candidates) > 1
    assert evaluate(result.model, *setup.validation).accuracy == result.study.best_value
    assert evaluate(result.model, *setup.test()) == result.rows[0].test
    found = load_checkpoint(tmp_path / "tiny/winner.json")
    assert found is not None
    assert found[1]["architecture"] == result.selection.architecture


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"folds": 1}, "folds must be 0 or at least 2"),
        ({"folds": 3, "finetune_epochs": 0}, "need finetune_epochs"),
        ({"refit": True, "finetune_epochs": 0}, "need finetune_epochs"),
        ({"folds": 21}, "selection.n_splits must be at most the validation images of each class"),
    ],
)
def test_wrong_settings_are_told(short, tmp_path, selection, words):
    with pytest.raises(RecipeError, match=words):
        search(short.replace(selection=selection), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
