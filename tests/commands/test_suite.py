"""Suites: many tasks, one table."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from glora_automl.commands import SuiteResult, _suite, run_suite, suite_result
from glora_automl.errors import RecipeError, TaskError
from glora_automl.pipeline import Workspace
from glora_automl.recipes import (
    list_suites,
    load_recipe,
    load_suite,
    override_recipe,
    suite_recipes,
)
from glora_automl.report import save_suite, suite_table
from glora_automl.storages import open_storage
from glora_automl.study import Row
from glora_automl.tasks._vtab import VTAB
from glora_automl.training import Score

RECIPE = """
budget = "20%"

[task]
source = "npz"
path = "none.npz"
n_labelled = 45
validation_size = 15

[backbone]
model = "vit_tiny_patch16_224"
kwargs = { img_size = 8, patch_size = 4, embed_dim = 16, depth = 1, num_heads = 2 }

[training]
epochs = 2
batch_size = 15

[search]
n_trials = 4
population_size = 2
n_parents = 2

[selection]
epochs_ratio = 0
refit = false
"""

SUITE = """
description = "two tasks"
recipe = "recipe.toml"

[[tasks]]
name = "low"
group = "easy"
path = "low.npz"

[[tasks]]
name = "high"
group = "hard"
path = "high.npz"
set = { search = { n_trials = 2 } }
"""


PUBLISHED = """
[[published]]
name = "theirs"
source = "somewhere"
accuracies = { lov = 1.0 }

[[tasks]]"""


@pytest.fixture
def place(tmp_path):
    """A suite of two tasks, with its images."""
    digits = load_digits()
    for name, classes in (("low", (0, 1, 2)), ("high", (7, 8, 9))):
        chosen = np.flatnonzero(np.isin(digits.target, classes))[:200]
        pixels = (digits.images[chosen] * 15).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", x_train=pixels, y_train=digits.target[chosen])
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "pair.toml").write_text(SUITE, encoding="utf-8")
    return tmp_path


def test_list_suites_all_have_recipes(tmp_path):
    for name in list_suites():
        suite = load_suite(name)
        assert suite.description
        made = suite_recipes(suite, data=str(tmp_path))
        assert len(made) == len(suite.tasks)
        assert all(recipe.task.path == str(tmp_path) for _, recipe in made)
    vtab = load_suite("vtab1k")
    assert {task.name: task.group for task in vtab.tasks} == {n: t.group for n, t in VTAB.items()}
    assert [r.task.name for _, r in suite_recipes(vtab)] == list(VTAB)
    shots = {recipe.task.shots for _, recipe in suite_recipes(load_suite("fewshot"))}
    assert shots == {1, 2, 4, 8, 16}


def test_load_suite_of_the_benchmarks_has_ten_tasks(tmp_path):
    file = Path(__file__).parents[2] / "benchmarks/npz-suite.toml"
    suite = load_suite(str(file), data=str(tmp_path))
    for task in suite.tasks:
        Path(task.path).touch()
    made = dict(suite_recipes(suite, settings=["backbone.checkpoint=there.safetensors"]))
    assert len(made) == 10
    assert made["eth80_elevation"].task.label == "elevation"
    assert {recipe.backbone.checkpoint for recipe in made.values()} == {"there.safetensors"}


def test_suite_recipes_apply_changes_in_order(place):
    suite = load_suite(str(place / "pair.toml"))
    made = suite_recipes(
        suite, settings=["search.n_parents=1"], n_seeds=2, search={"population_size": 3}
    )
    names = [recipe.name for _, recipe in made]
    assert names == ["pair-low-seed0", "pair-high-seed0", "pair-low-seed1", "pair-high-seed1"]
    assert [recipe.search.n_trials for _, recipe in made] == [4, 2, 4, 2]
    assert {(recipe.search.n_parents, recipe.search.population_size) for _, recipe in made} == {
        (1, 3)
    }
    assert made[0][1].task.path == str(place / "low.npz")


def test_load_suite_data_elsewhere_is_used(place, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (place / "low.npz").rename(other / "low.npz")
    (place / "high.npz").rename(other / "high.npz")
    suite = load_suite(str(place / "pair.toml"), data=str(other))
    assert suite_recipes(suite)[0][1].task.path == str(other / "low.npz")


def test_run_suite_interrupted_resumes_and_is_done_once(place, monkeypatch):
    suite = load_suite(str(place / "pair.toml"))
    original, calls = _suite.search, []

    def once(recipe, **keywords):
        if calls:
            raise KeyboardInterrupt
        calls.append(recipe.name)
        return original(recipe, **keywords)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(_suite, "search", once)
        run_suite(suite, workspace=Workspace(runs=place / "runs"))
    storage = open_storage(f"sqlite:///{place}/runs/studies.db")
    partial = suite_result(suite, suite_recipes(suite), 1, storage)
    assert {task: len(rows) for task, rows in partial.rows.items()} == {"low": 1, "high": 0}
    assert partial.mean("searched") is None
    assert "1 of 2 studies are finished" in suite_table(partial).title
    result = run_suite(suite, workspace=Workspace(runs=place / "runs"))
    assert result.rows["low"] == partial.rows["low"]
    low, high = (result.accuracies(task, "searched")[0] for task in ("low", "high"))
    assert result.group_mean("easy", "searched") == low
    assert result.mean("searched") == pytest.approx((low + high) / 2)
    markdown, document = save_suite(result, place / "out/suite-pair")
    assert f"| low | {100 * low:.1f} |" in markdown.read_text(encoding="utf-8")
    assert "mean of the groups" in markdown.read_text(encoding="utf-8")
    assert json.loads(document.read_text("utf-8"))["means"]["searched"]["hard"] == high
    # Finished studies are read, not repeated.
    monkeypatch.setattr(_suite, "search", lambda *_, **__: pytest.fail("it is done"))
    assert run_suite(suite, workspace=Workspace(runs=place / "runs")).rows == result.rows


def test_run_suite_other_settings_raise_and_name_the_task(place):
    suite = load_suite(str(place / "pair.toml"))
    run_suite(suite, workspace=Workspace(runs=place / "runs"), settings=["search.n_trials=2"])
    with pytest.raises(RecipeError, match=r"task low: training\.epochs must be 2, .*got 3"):
        run_suite(
            suite,
            workspace=Workspace(runs=place / "runs"),
            settings=["search.n_trials=2", "training.epochs=3"],
        )


def test_run_suite_takes_studies_of_other_workers_last(place, monkeypatch):
    suite = load_suite(str(place / "pair.toml"))
    order = []
    monkeypatch.setattr(_suite, "search", lambda recipe, **_: order.append(recipe.name))
    monkeypatch.setattr(_suite, "_is_busy", lambda storage, name: "low" in name)
    run_suite(suite, workspace=Workspace(runs=place / "runs"), n_seeds=2)
    assert order == ["pair-high-seed0", "pair-high-seed1", "pair-low-seed0", "pair-low-seed1"]


def test_load_suite_folder_has_a_task_per_data_set(place):
    (place / "recipe.toml").unlink()
    (place / "pair.toml").unlink()
    suite = load_suite(str(place))
    assert [task.name for task in suite.tasks] == ["high", "low"]
    recipes = suite_recipes(suite, model="test_vit")
    assert {recipe.task.source for _, recipe in recipes} == {"npz"}
    assert {recipe.backbone.model for _, recipe in recipes} == {"test_vit"}
    assert recipes[0][1].training == load_recipe("own").training


def test_load_suite_folder_names_tasks_as_a_search_names_its_study(tmp_path):
    tasks = tmp_path / "my tasks"
    for name in ("a b", "ü", "v1.5"):
        (tasks / name).mkdir(parents=True)
    (tasks / "link").symlink_to(tasks / "ü")
    suite = load_suite(str(tasks))
    assert suite.name == "my-tasks"
    paths = {task.name: Path(task.path).name for task in suite.tasks}
    assert paths == {"a-b": "a b", "link": "link", "u": "ü", "v1.5": "v1.5"}
    assert override_recipe(data=str(tasks / "a b")).name == "a-b"
    (tasks / "u.npz").touch()
    with pytest.raises(RecipeError, match=r"got 'u\.npz' and 'ü', which both get the name 'u'"):
        load_suite(str(tasks))


def row(name, accuracy, domains=()):
    scores = {f"d{i}": Score(a, 1.0, 10) for i, a in enumerate(domains)}
    return Row(name, n_params=1, test=Score(accuracy, 1.0, 10), domains=scores)


def test_suite_result_means_weigh_groups_and_domains_equally(place):
    suite = load_suite(str(place / "pair.toml"))
    result = SuiteResult(
        suite,
        2,
        {
            "low": (
                (row("LoRA r=2", 0.5), row("searched", 0.6)),
                (row("LoRA r=4", 0.7),),
            ),
            "high": ((row("LoRA r=1", 0.1, (0.2, 0.4)), row("searched", 0.2, (0.8, 1.0))),),
        },
        majorities={"low": (0.25, 0.35), "high": (0.5,)},
    )
    assert result.methods() == ["LoRA", "searched"]
    assert result.accuracies("low", "LoRA") == [0.5, 0.7]
    assert result.accuracies("high", "searched", "d1") == [1.0]
    assert result.mean("LoRA") == pytest.approx((0.6 + 0.3) / 2)
    table = suite_table(result)
    line = "Majority class, accuracy in % on test images: low 30.0, high 50.0."
    assert str(table.caption).splitlines()[0] == line
    assert "high on d0" in list(table.columns[0].cells)[2]
    assert list(table.columns[0].cells)[-1] == "mean of the groups"
    assert result.to_json()["means"]["LoRA"]["hard"] == pytest.approx(0.3)


def test_suite_result_has_published_results_as_methods(tmp_path):
    suite = load_suite("vtab1k")
    assert all(len(entry.accuracies) == 19 for entry in suite.published)
    result = SuiteResult(suite, 2, {"svhn": ((row("searched", 0.5),), (row("searched", 0.7),))})
    names = ["LoRA, published", "NOAH, published", "GLoRA, published"]
    assert result.methods() == ["searched", *names]
    # The papers give means of the groups.
    assert [100 * result.mean(name) for name in names] == pytest.approx(
        [74.6, 75.5, 78.0], abs=0.05
    )
    assert result.mean("searched") is None
    table = suite_table(result)
    assert [list(column.cells)[5] for column in table.columns][2:] == ["85.3", "86.1", "91.5"]
    assert "GLoRA, published: arXiv 2306.07967" in table.caption
    text, _ = save_suite(result, tmp_path / "suite")
    assert "- GLoRA, published: arXiv 2306.07967" in text.read_text(encoding="utf-8")


def test_suite_tables_have_one_cell_for_any_name_of_a_domain(place, tmp_path):
    suite = load_suite(str(place / "pair.toml"))
    found = row("searched", 0.5)
    found = replace(found, domains={"day|night": found.test, "sea\nside\x1b[31m": found.test})
    result = SuiteResult(suite, 1, {"low": ((found,),)})
    text, _ = save_suite(result, tmp_path / "suite")
    lines = text.read_text(encoding="utf-8").splitlines()
    assert r"| low on day\|night | 50.0 |" in lines
    assert r"| low on sea side\x1b[31m | 50.0 |" in lines
    names = [cell.strip() for cell in suite_table(result).columns[0].cells]
    assert names[:2] == ["low on day|night", r"low on sea side\x1b[31m"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[[tasks]]", PUBLISHED), "published accuracies .* has 'lov'. Did you mean 'low'?"),
        (("recipe = ", "rezept = "), "unknown key 'rezept'"),
        (('name = "high"', 'name = "low"'), "'low' twice"),
        (('name = "high"', 'name = "a/b"'), "tasks"),
        (("n_trials = 2", "n_trails = 2"), "task high: .*trails"),
        (('"recipe.toml"', '"nothing"'), "task low: .*nothing"),
    ],
)
def test_load_suite_invalid_raises(place, change, words):
    text = SUITE.replace(*change, 1)
    (place / "pair.toml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=words):
        suite_recipes(load_suite(str(place / "pair.toml")))


def test_suite_missing_parts_raise(place, tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'vtab1k'"):
        load_suite("vtab1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"must be a folder with \.npz files or folders"):
        load_suite(str(tmp_path / "empty"))
    with pytest.raises(RecipeError, match="n_seeds must be from 1 to 1000, got 0"):
        suite_recipes(load_suite(str(place / "pair.toml")), n_seeds=0)
    (place / "low.npz").write_bytes(b"no archive")
    with pytest.raises(TaskError, match="task low: "):
        run_suite(load_suite(str(place / "pair.toml")), workspace=Workspace(runs=tmp_path / "runs"))
