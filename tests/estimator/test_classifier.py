"""Classifier on digits of scikit-learn."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optuna.storages import InMemoryStorage
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from timm.data import resolve_model_data_config

from glora_automl import GLoRAClassifier
from glora_automl.architecture import Architecture
from glora_automl.commands import resume, search
from glora_automl.errors import BudgetError, ExportError, GLoRAError, TaskError
from glora_automl.estimator import _classifier
from glora_automl.estimator._settings import build_recipe
from glora_automl.pipeline import Workspace, _training
from glora_automl.recipes import load_recipe
from glora_automl.study import Row, read_ranking
from glora_automl.tasks import load_task

ROOT = Path(__file__).parents[2]
X, Y = load_digits(n_class=3, return_X_y=True)
NAMES = np.array(["zero", "one", "two"])
TRAIN, TEST = slice(0, 150), slice(300, None)
TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2}


def classifier(**changes):
    parameters = {
        "model": "vit_tiny_patch16_224",
        "pretrained": False,
        "model_kwargs": TINY,
        "budget": "20%",
        "epochs": 2,
        "n_trials": 3,
        "settings": {"training": {"lr": 0.01, "batch_size": 32}, "search": {"population_size": 3}},
        "random_state": 0,
    }
    return GLoRAClassifier(**{**parameters, **changes})


@pytest.fixture(scope="module")
def fitted():
    return classifier(epochs=10, n_trials=6).fit(X[TRAIN], NAMES[Y[TRAIN]])


def test_fit_sets_attributes_and_scores(fitted):
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
    selection = study.user_attrs["glora:selection"]
    assert Architecture.parse(selection["architecture"]) == fitted.best_architecture_
    (row,) = map(Row.from_json, study.user_attrs["glora:result"])
    assert row.test is None
    assert row.validation.n_images == 30
    assert fitted._adapter.record.about["validation"] == row.validation._asdict()


@pytest.mark.parametrize(
    "rows",
    [
        X.reshape(-1, 8, 8),
        X.reshape(-1, 8, 8, 1).astype(np.float32),
        X.astype(np.int64),
        X.tolist(),
    ],
    ids=["images", "float32", "integers", "lists"],
)
def test_predict_proba_accepts_any_form_of_images(fitted, rows):
    assert np.array_equal(fitted.predict_proba(rows), fitted.predict_proba(X))


def test_fit_with_same_seed_is_reproducible(fitted):
    again = clone(fitted).fit(X[TRAIN].reshape(-1, 8, 8), NAMES[Y[TRAIN]])
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert [t.params for t in again.study_.trials] == [t.params for t in fitted.study_.trials]
    other = classifier(random_state=np.random.RandomState(1)).fit(X[TRAIN], Y[TRAIN])
    assert [t.params for t in other.study_.trials] != [t.params for t in fitted.study_.trials]


def test_fit_matches_search_on_npz_file(fitted, tmp_path):
    pixels = np.rint(X[TRAIN] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    recipe = build_recipe(fitted.get_params(), seed=0)
    task = load_task(recipe.task, recipe.seed, arrays=(pixels, NAMES[Y[TRAIN]]))
    arrays = {"class_names": fitted.classes_, "x_test": pixels[:1], "y_test": np.array([0])}
    for split, part in (("train", task.train), ("val", task.validation)):
        arrays |= {f"x_{split}": part.images[:, 0].numpy(), f"y_{split}": part.labels.numpy()}
    np.savez(tmp_path / "a.npz", **arrays)
    # The classifier has no test images, so it holds images out.
    file = recipe.replace(
        task={"source": "npz", "path": str(tmp_path / "a.npz")}, selection={"holdout": True}
    )
    found = search(file, workspace=Workspace(runs=tmp_path))
    trials = [(t.params, t.values) for t in found.study.trials]
    assert trials == [(t.params, t.values) for t in fitted.study_.trials]
    assert found.selection.architecture == str(fitted.best_architecture_)


def test_fit_with_architecture_skips_search():
    lora = classifier(architecture="lora-2").fit(X[TRAIN], Y[TRAIN])
    assert len(lora.study_.trials) == 1
    assert {str(choices) for choices in lora.best_architecture_.values()} == {"B=lora-2"}
    again = classifier(architecture=lora.best_architecture_).fit(X[TRAIN], Y[TRAIN])
    assert np.array_equal(again.predict_proba(X[:9]), lora.predict_proba(X[:9]))


def test_model_has_the_preprocessing_of_the_fit_and_the_labels_of_y(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    for found in (fitted, GLoRAClassifier.load(tmp_path / "saved")):
        config = resolve_model_data_config(found.model_)
        expected = found._adapter.record.preprocessing
        assert (config["crop_mode"], config["crop_pct"]) == ("squash", 1.0)
        assert (config["input_size"], config["mean"]) == (expected.size, expected.mean)
        assert found.model_.pretrained_cfg["label_names"] == ["one", "two", "zero"]


def test_fit_with_candidates_keeps_the_chosen_backbone(tmp_path):
    candidates = [
        {"model": "vit_tiny_patch16_224", "pretrained": False, "kwargs": {**TINY, "depth": depth}}
        for depth in (2, 1)
    ]
    settings = {"backbone": {"candidates": candidates}, "training": {"warmup_epochs": 0}}
    found = classifier(
        model="auto", model_kwargs=None, settings=settings, epochs=1, architecture="bitfit"
    ).fit(X[:60], Y[:60])
    ranking = read_ranking(found.study_)
    assert len(found.model_.blocks) == candidates[ranking.chosen]["kwargs"]["depth"]
    found.save(tmp_path / "saved")
    again = GLoRAClassifier.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict(X[60:80]), found.predict(X[60:80]))


def test_fit_on_color_images_uses_channels():
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
        model.predict(dark[..., 0] * 1.0)


def test_fit_with_timeout_ends_the_search_with_fewer_trials():
    model = classifier(n_trials=1000, epochs=1, timeout=0.01).fit(X[:60], Y[:60])
    assert 1 <= len(model.study_.trials) < 10  # one trial at least
    assert model.predict(X[:3]).shape == (3,)


def test_classifier_works_in_pipeline_and_grid_search():
    quick = classifier(n_trials=1, epochs=2)
    halved = make_pipeline(FunctionTransformer(lambda x: x / 2), clone(quick))
    assert len(cross_val_score(halved, X[:90], Y[:90], cv=2)) == 2
    grid = GridSearchCV(quick, {"architecture": ["probe", "bitfit"]}, cv=2).fit(X[:90], Y[:90])
    assert set(grid.cv_results_["param_architecture"]) == {"probe", "bitfit"}
    assert grid.predict(X[:3]).shape == (3,)


def test_defaults_are_those_of_the_recipe_own():
    parameters = GLoRAClassifier().get_params()
    found, own = build_recipe(parameters, 0), load_recipe("own")
    left_out = {"name", "description", "task"}
    assert found.model_dump(exclude={*left_out, "selection"}) == own.model_dump(
        exclude={*left_out, "selection"}
    )
    # A classifier shows no table of baselines.
    without = own.selection.model_copy(update={"baselines": False})
    assert found.selection == without


def test_grid_search_sets_single_settings():
    grid = GridSearchCV(classifier(), {"settings__training__lr": [0.01, 0.02]}, cv=2)
    grid.fit(X[:60], Y[:60])
    lr = grid.best_params_["settings__training__lr"]
    assert grid.best_estimator_.settings["training"] == {"lr": lr, "batch_size": 32}
    assert grid.best_estimator_.settings["search"] == {"population_size": 3}
    assert classifier().get_params()["settings__training__batch_size"] == 32
    with pytest.raises(ValueError, match="Invalid parameter 'sett'"):
        classifier().set_params(sett=1)


def test_scoring_selects_and_scores(fitted):
    probabilities = fitted.predict_proba(X[TEST])
    assert np.allclose(fitted.predict_log_proba(X[TEST]), np.log(probabilities))
    model = classifier(scoring="neg_log_loss", class_weight="balanced")
    assert build_recipe(model.get_params(), 0).metric == "log_loss"
    assert build_recipe(model.get_params(), 0).training.class_weight == "balanced"
    weighted = classifier(class_weight={2: 5}).get_params()
    assert build_recipe(weighted, 0, [0, 1, 2]).training.class_weight == (1, 1, 5)
    model.fit(X[:90], Y[:90])
    expected = log_loss(Y[TEST], model.predict_proba(X[TEST]))
    assert model.score(X[TEST], Y[TEST]) == pytest.approx(-expected)


@pytest.mark.parametrize("labels", [Y[:60], NAMES[Y[:60]]])
def test_fit_with_class_weight_of_no_class_raises(labels):
    words = "class_weight of .* as keys, got 'tree', and no weight of the class (1|'two')"
    with pytest.raises(ValueError, match=words):
        classifier(class_weight={"tree": 2, 0: 1, "one": 1, "zero": 1}).fit(X[:60], labels)


def test_class_weight_of_a_class_that_a_fold_lacks_is_left_out():
    weighted = classifier(class_weight={0: 1, 1: 2, 2: 5}).get_params()
    assert build_recipe(weighted, 0, [0, 2]).training.class_weight == (1, 5)


def test_fit_with_sample_weight_favours_the_heavy_images():
    # Each image is there with both labels; only its weight tells which one counts.
    x, y = np.concatenate([X[:90], X[:90]]), np.concatenate([Y[:90], (Y[:90] + 1) % 3])
    heavy = np.repeat([5.0, 0.05], 90)
    model = classifier(epochs=12, settings={"training": {"lr": 0.01, "mixup": 0.4}})
    right = model.fit(x, y, sample_weight=heavy).score(X[90:200], Y[90:200])
    wrong = model.fit(x, y, sample_weight=heavy[::-1].copy()).score(X[90:200], Y[90:200])
    assert right > 0.6 > 0.3 > wrong
    model.set_params(epochs=2)
    left_out = clone(model).fit(x, y, sample_weight=np.repeat([1.0, 0.0], 90))
    alone = clone(model).fit(X[:90], Y[:90], sample_weight=1.0)
    assert np.array_equal(left_out.predict_proba(X), alone.predict_proba(X))


def test_sample_weight_is_routed_by_scikit_learn():
    with config_context(enable_metadata_routing=True):
        model = (
            classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        )
        grid = GridSearchCV(model, {"n_trials": [2]}, cv=2)
        grid.fit(X[:60], Y[:60], sample_weight=np.ones(60))
    assert grid.best_params_ == {"n_trials": 2}


@pytest.mark.parametrize("weights", [np.ones(59), np.ones((60, 2)), -np.ones(60), np.zeros(60)])
def test_fit_with_invalid_sample_weight_raises(weights):
    with pytest.raises(ValueError, match="sample_weight must have 60 weights"):
        classifier().fit(X[:60], Y[:60], sample_weight=weights)


def test_fit_with_memory_finds_an_earlier_fit(tmp_path, monkeypatch):
    first = classifier(memory=tmp_path / "fits").fit(X[:60], Y[:60])
    monkeypatch.setattr(_training, "train", lambda *a, **k: pytest.fail("nothing is trained again"))
    again = classifier(memory=tmp_path / "fits").fit(X[:60], Y[:60])
    assert np.array_equal(again.predict_proba(X[60:90]), first.predict_proba(X[60:90]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Image files of digits, in colour and of two sizes."""
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for number, row in enumerate(X[:60]):
        image = Image.fromarray((row.reshape(8, 8) * 15.9).astype(np.uint8)).convert("RGB")
        paths.append(folder / f"{number}.png")
        image.resize((8, 8) if number % 2 else (12, 10)).save(paths[-1])
    return paths


def forms(files):
    images = [Image.open(path) for path in files]
    return {
        "paths": files,
        "column": pd.Series(list(map(str, files))),
        "frame": pd.DataFrame({"image": list(map(str, files))}),
        "images": images,
        "arrays": [np.asarray(image) for image in images],
        "object array": np.array(list(map(str, files)), dtype=object),
    }


def test_fit_and_predict_accept_paths_images_and_arrays_of_several_sizes(files):
    model = classifier(model_kwargs={**TINY, "in_chans": 3}).fit(files, NAMES[Y[:60]])
    assert model.image_shape_ == (8, 8, 3)
    expected = model.predict_proba(files)
    for name, form in forms(files).items():
        assert np.array_equal(model.predict_proba(form), expected), name


def test_fit_on_files_of_a_grey_model_reads_them_in_its_shape(files):
    kwargs = {**TINY, "in_chans": 1, "img_size": [8, 12]}
    model = classifier(model_kwargs=kwargs, architecture="probe").fit(files, Y[:60])
    assert model.image_shape_ == (8, 12, 1)
    images = [Image.open(path) for path in files]
    for form in (images[:1], [np.asarray(image) for image in images[1::2]]):
        assert len(model.predict(form)) == len(form)


def test_predict_accepts_a_list_of_the_fitted_images(fitted):
    images = list(X[TEST].reshape(-1, 8, 8))
    assert np.array_equal(fitted.predict_proba(images), fitted.predict_proba(X[TEST]))


def test_predict_of_pictures_after_a_fit_on_other_numbers_takes_their_range(fitted):
    numbers = np.rint(X[TEST] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    pictures = [Image.fromarray(image) for image in numbers]
    assert np.allclose(fitted.predict_proba(pictures), fitted.predict_proba(X[TEST]), atol=1e-6)


def test_predict_of_arrays_in_another_range_does_not_depend_on_their_neighbours(fitted):
    numbers = np.rint(X[TEST] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    for images in ([numbers[0], numbers[1, :4]], [numbers[0], Image.fromarray(numbers[1])]):
        with pytest.raises(ValueError, match=r"pixels are from 0\.0 to 16\.0, got arrays"):
            fitted.predict(images)
    for form in (numbers[:, :4], list(numbers[:, :4])):
        with pytest.raises(ValueError, match=r"X has 32 features"):
            fitted.predict(form)


def test_fit_on_pictures_in_a_pixel_range_is_that_on_pictures():
    pictures = [Image.fromarray(np.uint8(row.reshape(8, 8) * 15.9)) for row in X[:60]]
    model = classifier(model_kwargs={**TINY, "in_chans": 1}, architecture="probe")
    expected = model.fit(pictures, Y[:60]).predict_proba(pictures)
    found = model.set_params(pixel_range=(-1, 1)).fit(pictures, Y[:60]).predict_proba(pictures)
    assert np.allclose(found, expected, atol=1e-6)


def test_predict_of_an_unreadable_picture_names_it(fitted, tmp_path):
    (tmp_path / "a.png").write_text("no image", encoding="utf-8")
    for path, reason in (
        (tmp_path / "a.png", "no known image format"),
        (tmp_path / "b", "No such"),
    ):
        with pytest.raises(ValueError, match=f"(?s)readable images, got .* at 0: .*{reason}"):
            fitted.predict([path])


def test_fit_of_channels_first_says_so():
    with pytest.raises(ValueError, match=r"channels last.*got \(6, 3, 8, 8\).*transpose"):
        classifier().fit(np.zeros((6, 3, 8, 8), np.uint8), [0, 1, 0, 1, 0, 1])


def test_fit_with_storage_resumes_its_study(tmp_path, capsys):
    place = {"storage": f"sqlite:///{tmp_path}/studies.db", "memory": tmp_path}
    first = classifier(**place, verbose=True).fit(X[:60], Y[:60])
    assert "Search: 3/3 trials" in capsys.readouterr().out
    again = classifier(**place, verbose=True).fit(X[:60], Y[:60])
    assert "Search" not in capsys.readouterr().out
    assert again.study_.study_name == first.study_.study_name
    assert np.array_equal(again.predict_proba(X[:9]), first.predict_proba(X[:9]))
    other = classifier(**place).fit(X[:60], Y[:60][::-1])
    assert other.study_.study_name != first.study_.study_name
    name = first.study_.study_name
    copied = pickle.loads(pickle.dumps(first))
    assert len(copied.study_.trials) == 3
    with pytest.raises(TaskError, match=r"arrays must be \(images, labels\) .*, got None") as error:
        resume(name, workspace=Workspace(runs=tmp_path, storage=place["storage"]))
    assert "\n" not in str(error.value)


def test_fit_with_optuna_storage_uses_it(tmp_path):
    storage = InMemoryStorage()
    model = classifier(storage=storage, memory=tmp_path, n_trials=1, epochs=1).fit(X[:60], Y[:60])
    assert model.study_._storage is storage


def test_fit_in_memory_leaves_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    classifier(n_trials=1, epochs=1).fit(X[:60], Y[:60])
    assert list(tmp_path.iterdir()) == []


def test_saved_and_pickled_classifiers_predict_equally_in_another_process(fitted, tmp_path):
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
parameters = [m.get_params() for m in (loaded, pickled)]
assert parameters[0] == parameters[1], parameters
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    out = np.load(tmp_path / "out.npz")
    for name in ("pickled", "loaded"):
        assert np.allclose(out[name], fitted.predict_proba(X[:20]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("labels", [Y[:60], NAMES[Y[:60]].astype(object), Y[:60] == 1])
def test_save_and_load_keep_labels_of_any_type(labels, tmp_path):
    shape = np.array([8, 8])
    model = classifier(
        n_trials=np.int64(1), epochs=1, image_shape=tuple(shape), random_state=None,
        architecture=Architecture.parse("blocks.0.attn.qkv: E=vector"),
    ).fit(X[:60], labels)  # fmt: skip
    model.save(tmp_path / "a")
    loaded = GLoRAClassifier.load(tmp_path / "a")
    assert loaded.predict(X).dtype == model.predict(X).dtype
    assert loaded.predict(X).tolist() == model.predict(X).tolist()
    loaded.save(tmp_path / "b")
    files = [(tmp_path / name / "glora.json").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_load_of_altered_classifier_raises(fitted, tmp_path):
    fitted.save(tmp_path / "a")
    with pytest.raises(ExportError, match="`path` must be a new folder"):
        fitted.save(tmp_path / "a")
    fitted.save(tmp_path / "a", force=True)
    original = (tmp_path / "a/glora.json").read_text(encoding="utf-8")

    def change(name, value):
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        table = json.loads(original)
        table["about"]["classifier"][name] = value
        (tmp_path / "b/glora.json").write_text(json.dumps(table), encoding="utf-8")

    for name, value, words in (
        ("parameters", {"colour": 1}, "colour"),
        ("pixels", [1], "GLoRAClassifier.save"),
        ("dtype", "what", "GLoRAClassifier.save"),
        ("seed", 1, "must have the digest"),
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
        ({"n_trials": "many"}, "The 'n_trials' parameter of GLoRAClassifier"),
        ({"timeout": 0}, "The 'timeout' parameter of GLoRAClassifier"),
        ({"validation_size": 1.0}, "The 'validation_size' parameter of GLoRAClassifier"),
        ({"random_state": -1}, "The 'random_state' parameter of GLoRAClassifier"),
        ({"architecture": 3}, "The 'architecture' parameter of GLoRAClassifier"),
        ({"image_shape": (8, 9)}, "image_shape (8, 9), got 64 features"),
        ({"pixel_range": (1, 0)}, "The 'pixel_range' parameter of GLoRAClassifier"),
    ],
)
def test_fit_with_invalid_parameter_raises_value_error(changes, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        classifier(**changes).fit(X[:60], Y[:60])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "vit_tiny_patch16_225"}, "Did you mean 'vit_tiny_patch16_224'"),
        ({"budget": "12q"}, "got '12q'"),
        ({"architecture": "lora-99"}, "Raise `budget`"),
        ({"architecture": "lorra"}, "Did you mean 'lora'?"),
        ({"search_space": "deflaut"}, "Did you mean 'default'?"),
        ({"settings": {"training": {"rate": 1}}}, "unknown key 'training.rate'"),
        ({"device": "toaster"}, "got 'toaster'"),
        ({"validation_size": 59}, "task.validation"),
        ({"storage": "nonsense"}, "can be opened, got 'nonsense'"),
    ],
)
def test_fit_with_invalid_setting_raises_one_line(changes, words, tmp_path):
    with pytest.raises(GLoRAError, match=re.escape(words)) as error:
        classifier(memory=tmp_path, **changes).fit(X[:60], Y[:60])
    assert "\n" not in str(error.value)


def test_fit_that_fails_leaves_classifier_unfitted(monkeypatch):
    model = classifier(budget="12q")
    with pytest.raises(BudgetError):
        model.fit(X[:60], Y[:60])
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_predict_proba_is_independent_of_batch_size(fitted, monkeypatch):
    whole = fitted.predict_proba(X[:50])
    monkeypatch.setattr(_classifier, "BATCH_SIZE", 7)
    assert np.allclose(fitted.predict_proba(X[:50]), whole, rtol=0, atol=1e-6)
