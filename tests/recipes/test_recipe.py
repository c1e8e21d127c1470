import pytest

from glora_automl.errors import BudgetError, RecipeError, SearchSpaceError
from glora_automl.recipes import Recipe, list_recipes, load_recipe
from glora_automl.recipes._overrides import with_settings
from glora_automl.search_space import load_search_space


def write(tmp_path, text, name="mine.toml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", list_recipes())
def test_shipped_recipes_load_and_describe_themselves(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description


def test_a_file_of_the_users_own_is_named_after_itself(tmp_path, tiny_toml):
    assert load_recipe(write(tmp_path, tiny_toml)).name == "mine"


def test_a_recipe_goes_through_json(tiny):
    assert Recipe.model_validate_json(tiny.model_dump_json()) == tiny


def test_a_search_space_can_be_a_file_beside_the_recipe(tmp_path, tiny_toml):
    write(tmp_path, '[choices]\nB = ["none", "lora-3"]\n', "few.toml")
    path = write(tmp_path, tiny_toml.replace('"default"', '"few.toml"'))
    assert load_recipe(path).search_space.choices.B == ("none", "lora-3")


def test_a_search_space_can_change_a_shipped_one(tmp_path, tiny_toml):
    text = tiny_toml.replace(
        'search_space = "default"',
        'search_space = { base = "default", share = "kind", choices = { C = ["none"] } }',
    )
    space = load_recipe(write(tmp_path, text)).search_space
    assert space.share == "kind"
    assert space.choices.C == ("none",)
    assert "lora-8" in space.choices.B


def test_a_search_space_is_changed_by_its_name_too(tmp_path, tiny):
    ranks = load_search_space("lora-ranks")
    assert tiny.replace(search_space="lora-ranks").search_space == ranks
    settings = ["search_space=lora-ranks", "search_space.share=kind"]
    changed = with_settings(tiny, settings).search_space
    assert changed == ranks.model_copy(update={"tie": "kind"})
    based = tiny.replace(search_space={"base": "vectors", "share": "block"}).search_space
    assert based == load_search_space("vectors").model_copy(update={"share": "block"})
    path = write(tmp_path, '[choices]\nB = ["none", "lora-3"]\n', "few.toml")
    assert tiny.replace(search_space=path).search_space.choices.B == ("none", "lora-3")
    with pytest.raises(SearchSpaceError, match="'lora-ranks'"):
        tiny.replace(search_space="lora-rank")


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("[search]", "[search]\ntrails = 3", RecipeError, ["search.trails", "'trials'"]),
        ("trials = 12", "trials = 0", RecipeError, ["search.n_trials", "1", "got 0"]),
        ("trials = 12", 'trials = "many"', RecipeError, ["search.n_trials", "'many'"]),
        ("lr = 1e-2", "lr = -1.0", RecipeError, ["training.lr", "-1.0"]),
        ("lr = 1e-2", "lr = nan", RecipeError, ["training.lr", "nan"]),
        ("top = 2", "top = 0", RecipeError, ["search.top"]),
        ("[search]", "[search]\nmutation_probability = 1.5", RecipeError, ["1.5"]),
        ('"20%"', '"20 percent"', BudgetError, ["budget", "20 percent"]),
        ('"20%"', "-1", BudgetError, ["budget", "-1"]),
        ('"default"', '"defualt"', SearchSpaceError, ["'defualt'", "'default'"]),
        (
            '"default"',
            "{ choices = { E = ['lora-2'] } }",
            SearchSpaceError,
            ["choices.E", "lora-2"],
        ),
        ("classes = [5, 6, 7]", "classes = [0, 6, 7]", RecipeError, ["pretraining_classes"]),
        ("[task]", "[tsak]", RecipeError, ["tsak", "'task'"]),
        ('"digits"', '"digitz"', RecipeError, ["task.source", "'digits', 'npz'", "'digitz'"]),
        ('source = "digits"', "", RecipeError, ["'task.source'", "missing"]),
        ('"digits"', '"npz"', RecipeError, ["unknown key 'task.", "known: ", "path"]),
        (
            "fit_per_class = 8",
            "fit_per_clas = 8",
            RecipeError,
            ["'task.fit_per_clas'", "'fit_per_class'"],
        ),
        ("fit_per_class = 8", "fit_per_class = 0", RecipeError, [" task.fit_per_class must", "0"]),
        ("[training]", "[training", RecipeError, ["no TOML"]),
        ("epochs = 4\n", "epochs = 4\nrate = 2\n", RecipeError, ["backbone.pretraining.rate"]),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, tiny_toml, old, new, error, words):
    assert old in tiny_toml
    with pytest.raises(error) as caught:
        load_recipe(write(tmp_path, tiny_toml.replace(old, new, 1)))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_section_is_named(tmp_path):
    with pytest.raises(RecipeError, match="required and missing"):
        load_recipe(write(tmp_path, "budget = 3\n"))


def test_replace_changes_nested_settings_and_checks_them(tiny):
    changed = tiny.replace(search={"n_trials": 99}, seed=3)
    assert changed.search.n_trials == 99
    assert changed.search.population_size == tiny.search.population_size
    with pytest.raises(RecipeError, match="did you mean 'seed'"):
        tiny.replace(sede=3)


def test_images_are_found_from_the_recipes_folder(tmp_path, tiny_toml):
    before, after = tiny_toml.split("[task]")
    after = after[after.index("[backbone]") :].split("[backbone.pretraining]")
    after = after[0] + after[1][after[1].index("[training]") :]
    for path, found in (("a.npz", str(tmp_path / "a.npz")), ("/there/a.npz", "/there/a.npz")):
        text = f'{before}[task]\nsource = "npz"\npath = "{path}"\n\n{after}'
        assert load_recipe(write(tmp_path, text)).task.path == found


def test_replace_takes_a_task_of_another_kind_as_a_whole(tiny):
    changed = tiny.replace(task={"source": "npz", "path": "a.npz"})
    assert changed.task.path == "a.npz"
    assert changed.replace(task={"shots": 3}).task.path == "a.npz"
    assert tiny.replace(task={"train_per_class": 3}).task.classes == (5, 6, 7)
    with pytest.raises(RecipeError, match=r"'task\.path' is required"):
        tiny.replace(task={"source": "npz"})


def test_where_the_images_are_is_no_matter_of_identity(tiny):
    one, two = (tiny.replace(task={"source": "npz", "path": p}) for p in ("a.npz", "/b.npz"))
    assert one.identity() == two.identity()
    assert one.replace(task={"shots": 1}).identity() != one.identity()


def test_identity_leaves_out_texts_and_the_trial_target(tiny):
    same = tiny.replace(name="other", description="another", search={"n_trials": 99})
    assert same.identity() == tiny.identity()
    assert tiny.replace(seed=1).identity() != tiny.identity()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": True}, ["budget", "True"]),
        ({"budget": 1.5}, ["budget", "1.5"]),
        ({"seed": "3"}, ["seed", "'3'"]),
        ({"seed": True}, ["seed", "True"]),
        ({"backbone": {"pretraining": {"epoch": 3}}}, ["pretraining.epoch", "'epochs'"]),
        ({"search_space": {"layers": []}}, ["search_space.layers", "at least 1"]),
    ],
)
def test_types_are_taken_as_they_are(tiny, changes, words):
    with pytest.raises(RecipeError) as caught:
        tiny.replace(**changes)
    for word in words:
        assert word in str(caught.value)
