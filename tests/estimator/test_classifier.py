"""The classifier on scikit-learn's digits."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from optuna.storages import InMemoryStorage
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from glora_automl import GLoRAClassifier
from glora_automl.architecture import Architecture
from glora_automl.commands import resume, search
from glora_automl.errors import BudgetError, ExportError, GLoRAError, TaskError
from glora_automl.estimator import _classifier
from glora_automl.estimator._settings import recipe_of
from glora_automl.tasks import load_task

ROOT = Path(__file__).parents[2]
X, Y = load_digits(n_class=3, return_X_y=True)
NAMES = np.array(["zero", "one", "two"])
TRAIN, TEST = slice(0, 300), slice(300, None)
TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2}


def classifier(**changes):
    wanted = {
        "model": "vit_tiny_patch16_224",
        "pretrained": False,
        "model_kwargs": TINY,
        "budget": "20%",
        "epochs": 2,
        "trials": 3,
        "settings": {"training": {"lr": 0.01, "batch_size": 32}, "search": {"population_size": 3}},
        "random_state": 0,
    }
    return GLoRAClassifier(**{**wanted, **changes})


@pytest.fixture(scope="module")
def fitted():
    return classifier(epochs=10, trials=6).fit(X[TRAIN], NAMES[Y[TRAIN]])


def test_it_learns_and_tells_what_it_has_found(fitted):
    assert fitted.score(X[TEST], NAMES[Y[TEST]]) > 0.8
    assert fitted.classes_.tolist() == ["one", "two", "zero"]
    assert (fitted.n_features_in_, fitted.image_shape_) == (64, (8, 8, 1))
    probabilities = fitted.predict_proba(X[TEST])
    assert probabilities.shape == (len(X[TEST]), 3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (fitted.predict(X[TEST]) == fitted.classes_[probabilities.argmax(axis=1)]).all()
    assert isinstance(fitted.best_architecture_, Architecture)
    study = fitted.study_
    assert len(study.trials) == 6
    chosen = study.user_attrs["glora:selection"]
    assert Architecture.parse(chosen["architecture"]) == fitted.best_architecture_
    (row,) = study.user_attrs["glora:result"]
    assert row["test"] is None
    assert row["validation"]["n_images"] == 60


@pytest.mark.parametrize(
    "turned",
    [
        X.reshape(-1, 8, 8),
        X.reshape(-1, 8, 8, 1).astype(np.float32),
        X.astype(np.int64),
        X.tolist(),
    ],
    ids=["images", "float32", "integers", "lists"],
)
def test_images_may_come_in_any_form(fitted, turned):
    assert np.array_equal(fitted.predict_proba(turned), fitted.predict_proba(X))


def test_the_seed_decides(fitted):
    again = clone(fitted).fit(X[TRAIN].reshape(-1, 8, 8), NAMES[Y[TRAIN]])
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert [t.params for t in again.study_.trials] == [t.params for t in fitted.study_.trials]
    other = classifier(random_state=np.random.RandomState(1)).fit(X[TRAIN], Y[TRAIN])
    assert [t.params for t in other.study_.trials] != [t.params for t in fitted.study_.trials]


def test_it_is_the_search_of_the_command_line(fitted, tmp_path):
    pixels = np.rint(X[TRAIN] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    recipe = recipe_of(fitted.get_params(), seed=0)
    task = load_task(recipe.task, recipe.seed, arrays=(pixels, NAMES[Y[TRAIN]]))
    arrays = {"class_names": fitted.classes_, "x_test": pixels[:1], "y_test": np.array([0])}
    for split, part in (("train", task.train), ("val", task.validation)):
        arrays |= {f"x_{split}": part.images[:, 0].numpy(), f"y_{split}": part.labels.numpy()}
    np.savez(tmp_path / "a.npz", **arrays)
    file = recipe.replace(task={"source": "npz", "path": str(tmp_path / "a.npz")})
    found = search(file, runs=tmp_path)
    trials = [(t.params, t.values) for t in found.study.trials]
    assert trials == [(t.params, t.values) for t in fitted.study_.trials]
    assert found.selection.architecture == str(fitted.best_architecture_)


def test_an_architecture_is_trained_without_a_search():
    lora = classifier(architecture="lora-2").fit(X[TRAIN], Y[TRAIN])
    assert len(lora.study_.trials) == 1
    assert {str(choices) for choices in lora.best_architecture_.values()} == {"B=lora-2"}
    again = classifier(architecture=lora.best_architecture_).fit(X[TRAIN], Y[TRAIN])
    assert np.array_equal(again.predict_proba(X[:9]), lora.predict_proba(X[:9]))


def test_colours_are_seen():
    dark = np.random.default_rng(0).integers(0, 80, (60, 8, 8, 3), dtype=np.uint8)
    red = np.arange(60) % 2 == 0
    dark[red, ..., 0] += 120
    dark[~red, ..., 2] += 120
    model = classifier(architecture="probe", epochs=20).fit(dark, red)
    assert model.score(dark, red) > 0.9
    assert model.predict(dark.reshape(60, -1)).dtype == np.bool_
    with pytest.raises(ValueError, match=re.escape("(8, 8, 3) as in fit, got (8, 24, 1)")):
        model.predict(dark.reshape(60, 8, 24))
    with pytest.raises(ValueError, match="X has 64 features, but GLoRAClassifier is expecting 192"):
        model.predict(dark[..., 0])


def test_pipelines_and_searches_over_parameters():
    quick = classifier(trials=1, epochs=2)
    halved = make_pipeline(FunctionTransformer(lambda x: x / 2), clone(quick))
    assert len(cross_val_score(halved, X[:90], Y[:90], cv=2)) == 2
    grid = GridSearchCV(quick, {"architecture": ["probe", "bitfit"]}, cv=2).fit(X[:90], Y[:90])
    assert set(grid.cv_results_["param_architecture"]) == {"probe", "bitfit"}
    assert grid.predict(X[:3]).shape == (3,)


def test_a_study_that_is_kept_is_gone_on_with(tmp_path, capsys):
    place = {"storage": f"sqlite:///{tmp_path}/studies.db", "runs": tmp_path}
    first = classifier(**place, verbose=True).fit(X[TRAIN], Y[TRAIN])
    assert "Search: 3/3 trials" in capsys.readouterr().out
    again = classifier(**place, verbose=True).fit(X[TRAIN], Y[TRAIN])
    assert "Search" not in capsys.readouterr().out
    assert again.study_.study_name == first.study_.study_name
    assert np.array_equal(again.predict_proba(X[:9]), first.predict_proba(X[:9]))
    other = classifier(**place).fit(X[TRAIN], Y[TRAIN][::-1])
    assert other.study_.study_name != first.study_.study_name
    name = first.study_.study_name
    copied = pickle.loads(pickle.dumps(first))
    assert len(copied.study_.trials) == 3
    with pytest.raises(TaskError, match="arrays that Python gives") as error:
        resume(name, storage=place["storage"], runs=tmp_path)
    assert "\n" not in str(error.value)


def test_a_storage_of_optuna_is_taken(tmp_path):
    storage = InMemoryStorage()
    model = classifier(storage=storage, runs=tmp_path, trials=1, epochs=1).fit(X[:60], Y[:60])
    assert model.study_._storage is storage


def test_nothing_is_left_of_a_fit_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    classifier(trials=1, epochs=1).fit(X[:60], Y[:60])
    assert list(tmp_path.iterdir()) == []


def test_pickles_and_files_predict_the_same_in_another_process(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(fitted))
    np.save(tmp_path / "x.npy", X[:20])
    code = """
import pickle, sys, numpy as np
from glora_automl import GLoRAClassifier
pickled = pickle.load(open("a.pickle", "rb"))
loaded = GLoRAClassifier.load("saved")
x = np.load("x.npy")
np.savez("out.npz", pickled=pickled.predict_proba(x), loaded=loaded.predict_proba(x))
assert loaded.best_architecture_ == pickled.best_architecture_
assert hash(loaded.best_architecture_) == hash(pickled.best_architecture_)
assert len(pickled.study_.trials) == 6
assert not hasattr(loaded, "study_")
assert loaded.classes_.tolist() == pickled.classes_.tolist()
ours, kept = (m.get_params() for m in (loaded, pickled))
assert ours == kept, (ours, kept)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    out = np.load(tmp_path / "out.npz")
    for name in ("pickled", "loaded"):
        assert np.allclose(out[name], fitted.predict_proba(X[:20]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("labels", [Y[:60], NAMES[Y[:60]].astype(object), Y[:60] == 1])
def test_labels_of_any_kind_are_saved(labels, tmp_path):
    shape = np.array([8, 8])
    model = classifier(
        trials=np.int64(1), epochs=1, image_shape=tuple(shape), random_state=None,
        architecture=Architecture.parse("blocks.0.attn.qkv: E=vector"),
    ).fit(X[:60], labels)  # fmt: skip
    model.save(tmp_path / "a")
    loaded = GLoRAClassifier.load(tmp_path / "a")
    assert loaded.predict(X).dtype == model.predict(X).dtype
    assert loaded.predict(X).tolist() == model.predict(X).tolist()
    loaded.save(tmp_path / "b")
    files = [(tmp_path / name / "glora.json").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_what_cannot_be_loaded_is_told(fitted, tmp_path):
    fitted.save(tmp_path / "a")
    with pytest.raises(ExportError, match="must not be there yet"):
        fitted.save(tmp_path / "a")
    fitted.save(tmp_path / "a", force=True)
    sound = (tmp_path / "a/glora.json").read_text(encoding="utf-8")

    def change(name, value):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        table = json.loads(sound)
        table["about"]["classifier"][name] = value
        (tmp_path / "b/glora.json").write_text(json.dumps(table), encoding="utf-8")

    for name, value, words in (
        ("parameters", {"colour": 1}, "colour"),
        ("pixels", [1], "GLoRAClassifier.save"),
        ("dtype", "what", "GLoRAClassifier.save"),
        ("seed", 1, "this model has"),
    ):
        change(name, value)
        with pytest.raises(ExportError, match=words) as error:
            GLoRAClassifier.load(tmp_path / "b")
        assert "\n" not in str(error.value)
    weights = tmp_path / "b/adapter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ExportError, match="sha256"):
        GLoRAClassifier.load(tmp_path / "b")
    with pytest.raises(ExportError, match="must be a folder"):
        GLoRAClassifier.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "The 'epochs' parameter of GLoRAClassifier must be an int in the range"),
        ({"trials": "many"}, "The 'trials' parameter of GLoRAClassifier"),
        ({"validation_size": 1.0}, "The 'validation' parameter of GLoRAClassifier"),
        ({"random_state": -1}, "The 'random_state' parameter of GLoRAClassifier"),
        ({"architecture": 3}, "The 'architecture' parameter of GLoRAClassifier"),
        ({"image_shape": (8, 9)}, "image_shape (8, 9), got 64 features"),
        ({"pixel_range": (1, 0)}, "The 'pixel_range' parameter of GLoRAClassifier"),
    ],
)
def test_wrong_parameters_are_told_as_scikit_learn_does(changes, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        classifier(**changes).fit(X[:60], Y[:60])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "vit_tiny_patch16_225"}, "did you mean 'vit_tiny_patch16_224'"),
        ({"budget": "12q"}, "got '12q'"),
        ({"architecture": "lora-99"}, "raise the budget"),
        ({"architecture": "lorra"}, "did you mean 'lora'?"),
        ({"search_space": "deflaut"}, "did you mean 'default'?"),
        ({"settings": {"training": {"rate": 1}}}, "unknown key 'training.rate'"),
        ({"device": "toaster"}, "got 'toaster'"),
        ({"validation_size": 59}, "task.validation"),
        ({"storage": "nonsense"}, "'nonsense' cannot be opened"),
    ],
)
def test_wrong_settings_are_told_as_on_the_command_line(changes, words, tmp_path):
    with pytest.raises(GLoRAError, match=re.escape(words)) as error:
        classifier(runs=tmp_path, **changes).fit(X[:60], Y[:60])
    assert "\n" not in str(error.value)


def test_a_fit_that_fails_leaves_nothing_fitted(monkeypatch):
    model = classifier(budget="12q")
    with pytest.raises(BudgetError):
        model.fit(X[:60], Y[:60])
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_batches_make_one_answer(fitted, monkeypatch):
    whole = fitted.predict_proba(X[:50])
    monkeypatch.setattr(_classifier, "BATCH", 7)
    assert np.allclose(fitted.predict_proba(X[:50]), whole, rtol=0, atol=1e-6)
