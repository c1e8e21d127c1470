import copy
import re
from typing import get_args

import numpy as np
import pytest
from pydantic import BaseModel

from glora_automl.errors import BudgetError, RecipeError, SearchSpaceError
from glora_automl.recipes import Recipe, list_recipes, load_recipe, parse_recipe
from glora_automl.recipes._overrides import with_settings
from glora_automl.search_space import load_search_space
from glora_automl.tasks import TaskSettings
from tests.refusals import refusal


def write(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", list_recipes())
def test_load_recipe_shipped_has_name_and_description(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_load_recipe_file_without_name_takes_the_files(tmp_path, tiny_toml):
    assert load_recipe(write(tmp_path, tiny_toml)).name == "mine"


def test_recipe_json_round_trip_is_equal(tiny):
    assert Recipe.model_validate_json(tiny.model_dump_json()) == tiny


def test_load_recipe_search_space_path_is_relative_to_the_recipe(tmp_path, tiny_toml):
    write(tmp_path, '[choices]\nB = ["none", "lora-3"]\n', "few.toml")
    path = write(tmp_path, tiny_toml.replace('"lean"', '"few.toml"'))
    assert load_recipe(path).search_space.choices.B == ("none", "lora-3")


def test_load_recipe_search_space_base_changes_a_shipped_one(tmp_path, tiny_toml):
    text = tiny_toml.replace(
        'search_space = "lean"',
        'search_space = { base = "default", tie = "kind", choices = { C = ["none"] } }',
    )
    space = load_recipe(write(tmp_path, text)).search_space
    assert space.tie == "kind"
    assert space.choices.C == ("none",)
    assert "lora-8" in space.choices.B


def test_replace_search_space_takes_name_base_and_path(tmp_path, tiny):
    ranks = load_search_space("lora-ranks")
    assert tiny.replace(search_space="lora-ranks").search_space == ranks
    settings = ["search_space=lora-ranks", "search_space.tie=kind"]
    changed = with_settings(tiny, settings).search_space
    assert changed == ranks.model_copy(update={"tie": "kind"})
    based = tiny.replace(search_space={"base": "vectors", "tie": "block"}).search_space
    assert based == load_search_space("vectors").model_copy(update={"tie": "block"})
    path = write(tmp_path, '[choices]\nB = ["none", "lora-3"]\n', "few.toml")
    assert tiny.replace(search_space=path).search_space.choices.B == ("none", "lora-3")
    with pytest.raises(SearchSpaceError, match="'lora-ranks'"):
        tiny.replace(search_space="lora-rank")


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("[search]", "[search]\ntrails = 3", RecipeError, ["search.trails", "'n_trials'"]),
        ("n_trials = 12", "n_trials = 0", RecipeError, ["search.n_trials", "1", "got 0"]),
        ("n_trials = 12", 'n_trials = "many"', RecipeError, ["search.n_trials", "'many'"]),
        ("lr = 1e-2", "lr = -1.0", RecipeError, ["training.lr", "-1.0"]),
        ("lr = 1e-2", "lr = nan", RecipeError, ["training.lr", "nan"]),
        ("n_parents = 2", "n_parents = 0", RecipeError, ["search.n_parents"]),
        ("[search]", "[search]\nmutation_prob = 1.5", RecipeError, ["search.mutation_prob", "1.5"]),
        ('"20%"', '"20 percent"', BudgetError, ["budget", "20 percent"]),
        ('"20%"', "-1", BudgetError, ["budget", "-1"]),
        ('"lean"', '"laen"', SearchSpaceError, ["'laen'", "'lean'"]),
        (
            '"lean"',
            "{ choices = { E = ['lora-2'] } }",
            SearchSpaceError,
            ["choices.E", "lora-2"],
        ),
        ("classes = [5, 6, 7]", "classes = [0, 6, 7]", RecipeError, ["pretraining_classes"]),
        ("[task]", "[tsak]", RecipeError, ["tsak", "'task'"]),
        ('"digits"', '"digitz"', RecipeError, ["task.source", "'digits', 'npz'", "'digitz'"]),
        ('source = "digits"', "", RecipeError, ["'task.source'", "missing"]),
        ('"digits"', '"npz"', RecipeError, ["unknown key 'task.", "Choose one of ", "path"]),
        (
            "train_per_class = 8",
            "train_per_clas = 8",
            RecipeError,
            ["'task.train_per_clas'", "'train_per_class'"],
        ),
        (
            "train_per_class = 8",
            "train_per_class = 0",
            RecipeError,
            [" task.train_per_class must", "0"],
        ),
        ("[training]", "[training", RecipeError, ["must be TOML"]),
        ("epochs = 4\n", "epochs = 4\nrate = 2\n", RecipeError, ["backbone.pretraining.rate"]),
    ],
)
def test_load_recipe_invalid_file_raises_one_line(tmp_path, tiny_toml, old, new, error, words):
    assert old in tiny_toml
    with pytest.raises(error) as caught:
        load_recipe(write(tmp_path, tiny_toml.replace(old, new, 1)))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_load_recipe_missing_section_raises(tmp_path):
    with pytest.raises(RecipeError, match="required and missing"):
        load_recipe(write(tmp_path, "budget = 3\n"))


def test_replace_nested_settings_are_changed_and_checked(tiny):
    changed = tiny.replace(search={"n_trials": 99}, seed=3)
    assert changed.search.n_trials == 99
    assert changed.search.population_size == tiny.search.population_size
    with pytest.raises(RecipeError, match="Did you mean 'seed'"):
        tiny.replace(sede=3)


def test_load_recipe_task_path_is_relative_to_the_recipe(tmp_path, tiny_toml):
    before, after = tiny_toml.split("[task]")
    after = after[after.index("[backbone]") :].split("[backbone.pretraining]")
    after = after[0] + after[1][after[1].index("[training]") :]
    for path, found in (("a.npz", str(tmp_path / "a.npz")), ("/there/a.npz", "/there/a.npz")):
        text = f'{before}[task]\nsource = "npz"\npath = "{path}"\n\n{after}'
        assert load_recipe(write(tmp_path, text)).task.path == found


def test_replace_numbers_of_numpy_are_pythons(tiny):
    values = {
        "seed": np.int64(3),
        "training": {"lr": np.float32(0.5), "epochs": np.uint8(7)},
        "task": {"source": "digits", "classes": [np.int16(8), np.int16(9)]},
    }
    changed = tiny.replace(**values)
    assert (changed.seed, changed.training.lr, changed.training.epochs) == (3, 0.5, 7)
    assert changed.task.classes == (8, 9)
    assert {type(n) for n in (changed.seed, changed.training.epochs, *changed.task.classes)} == {
        int
    }


def test_replace_endless_value_raises(tiny):
    endless = []
    endless.append(endless)
    with pytest.raises(RecipeError, match="nested at most"):
        tiny.replace(training={"epochs": endless})


def test_replace_task_of_another_source_replaces_the_section(tiny):
    changed = tiny.replace(task={"source": "npz", "path": "a.npz"})
    assert changed.task.path == "a.npz"
    assert changed.replace(task={"shots": 3}).task.path == "a.npz"
    assert tiny.replace(task={"train_per_class": 3}).task.classes == (5, 6, 7)
    with pytest.raises(RecipeError, match=r"'task\.path' is required"):
        tiny.replace(task={"source": "npz"})


def test_identity_task_path_does_not_matter(tiny):
    one, two = (tiny.replace(task={"source": "npz", "path": p}) for p in ("a.npz", "/b.npz"))
    assert one.identity() == two.identity()
    assert one.replace(task={"shots": 1}).identity() != one.identity()


def test_identity_texts_and_n_trials_do_not_matter(tiny):
    same = tiny.replace(name="other", description="another", search={"n_trials": 99})
    assert same.identity() == tiny.identity()
    assert tiny.replace(seed=1).identity() != tiny.identity()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": "3"}, ["seed", "'3'"]),
        ({"seed": True}, ["seed", "True"]),
        ({"backbone": {"pretraining": {"epoch": 3}}}, ["pretraining.epoch", "'epochs'"]),
        ({"search_space": {"layers": []}}, ["search_space.layers", "1 to 1,000 texts"]),
    ],
)
def test_replace_wrong_type_raises(tiny, changes, words):
    with pytest.raises(RecipeError) as caught:
        tiny.replace(**changes)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("budget", [True, 1.5, "12q"])
def test_replace_malformed_budget_raises_one_line(tiny, budget):
    with pytest.raises(BudgetError, match="recipe tiny: budget must be a count") as caught:
        tiny.replace(budget=budget)
    assert str(caught.value).endswith(f"got {budget!r}. Correct `budget`.")


@pytest.mark.parametrize("budget", [12_000, "12k"])
def test_replace_budget_keeps_it_as_written(tiny, budget):
    recipe = tiny.replace(budget=budget)
    assert str(recipe.budget) == str(budget)
    assert recipe.identity()["budget"] == recipe.model_dump(mode="json")["budget"] == budget


def test_load_recipe_candidates_are_relative_to_the_recipe(tmp_path, tiny_toml):
    begin, end = tiny_toml.index("[backbone]"), tiny_toml.index("[training]")
    backbone = """[backbone]
model = "auto"
candidates = ["a", "b=c.pth", { model = "d", checkpoint = "e.pth", kwargs = { img_size = 8 } }]

"""
    path = write(tmp_path, tiny_toml[:begin] + backbone + tiny_toml[end:])
    candidates = load_recipe(path).backbone.candidates
    found = [candidate.checkpoint for candidate in candidates]
    assert found == [None, f"{tmp_path}/c.pth", f"{tmp_path}/e.pth"]
    assert candidates[2].kwargs == {"img_size": 8}


def test_replace_candidates_and_one_model_replace_each_other(tiny):
    several = tiny.replace(backbone={"candidates": ["resnet18", "resnet34"]})
    assert several.backbone.model == "auto"
    assert several.backbone.pretraining is None
    limited = several.replace(backbone={"max_params": "30M"})
    assert limited.backbone.candidates == several.backbone.candidates
    assert limited.replace(backbone={"model": "auto"}) == limited
    one = limited.replace(backbone={"model": "resnet18", "pretrained": True}).backbone
    assert (one.model, one.candidates, one.max_params) == ("resnet18", (), None)
    small = limited.replace(backbone={"model": "auto-small"}).backbone
    assert len(small.candidates) > 2
    assert small.max_params is not None


def test_replace_wrong_candidate_names_its_key(tiny):
    with pytest.raises(RecipeError, match=r"backbone\.candidates\.0\.model' is required"):
        tiny.replace(backbone={"candidates": [{"checkpoint": "a.pth"}]})
    with pytest.raises(RecipeError, match=r"unknown key 'backbone\.candidates\.1\.modl'.*'model'"):
        tiny.replace(backbone={"candidates": ["a", {"modl": "b"}]})


def test_identity_places_of_candidates_do_not_matter(tiny):
    one, two = (
        tiny.replace(backbone={"candidates": [f"resnet18={path}.pth"]}) for path in ("a", "b")
    )
    assert one.identity() == two.identity()
    other = tiny.replace(backbone={"candidates": ["resnet34=a.pth"]})
    assert other.identity() != one.identity()


SOURCES = {
    "digits": {"classes": [1, 2], "train_per_class": 1, "validation_per_class": 1},
    "npz": {"path": "a.npz"},
    "folder": {"path": "a"},
    "csv": {"path": "a.csv"},
    "torchvision": {"name": "CIFAR10", "path": "a"},
    "timm": {"name": "a"},
    "vtab": {"name": "dtd", "path": "a"},
    "domains": {"path": "a", "train": "b"},
    "arrays": {},
}
"""A valid task of each source."""

WRONG = (None, True, -1, 10**9, 0.5, 1e12, "", "x", "x" * 5000, [], [[]], [0.5], {}, {"a": 1})
"""Values of which each setting refuses some."""

JARGON = re.compile(
    r"Input|should|[Uu]nion|type=|_type|literal|[Tt]uple|[Dd]ict|NoneType|\^|\bint\b|\bstr\b|float|"
    r"instance|object\b|byte string|tagged|[Ff]ield|validation error|greater than|must.*must"
)


def _keys_of(kind):
    """Yield the dotted keys of a model and of the tables in it."""
    for key, field in kind.model_fields.items():
        yield key
        kinds = [field.annotation, *get_args(field.annotation)]
        for inner in kinds:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from (f"{key}.{more}" for more in _keys_of(inner))


def _recipe_keys():
    keys = [key for key in _keys_of(Recipe) if not key.startswith("task.")]
    for kind in get_args(get_args(TaskSettings)[0]):
        (source,) = get_args(kind.model_fields["source"].annotation)
        keys += [f"task.{key}:{source}" for key in _keys_of(kind)]
    return sorted(keys)


@pytest.mark.parametrize("key", _recipe_keys())
def test_replace_any_wrong_value_names_key_rule_value_and_way_out(tiny, key):
    key, _, source = key.partition(":")
    table = tiny.model_dump(mode="json")
    if source:
        table["task"] = {"source": source, **SOURCES[source]}
        table["backbone"]["pretraining"] = None
    if key.startswith("backbone.pretraining."):
        table["backbone"] |= {"pretraining": {"epochs": 1}}
    parse_recipe(table, "recipe r")
    *sections, last = key.split(".")
    refused = 0
    for wrong in WRONG:
        changed = copy.deepcopy(table)
        owner = changed
        for section in sections:
            owner = owner[section]
        owner[last] = wrong
        message = refusal(parse_recipe, changed, "recipe r")
        if message is None:
            continue
        refused += 1
        words = message.replace(repr(wrong), "")
        assert not JARGON.search(words), message
        assert last in message
        assert re.search(r"[.?] [A-Z][^.]*.*[.?]$", message), message
    assert refused
