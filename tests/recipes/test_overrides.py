import pytest

from glora_automl.errors import RecipeError
from glora_automl.pipeline import Workspace, prepare
from glora_automl.pipeline._forecast import stage_work
from glora_automl.recipes import load_recipe, override_recipe
from glora_automl.recipes._overrides import with_data, with_settings
from glora_automl.study import Stage
from tests.tasks.files import write_classes


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch, tiny_toml):
    """A working folder with a recipe, a folder of images and a file of arrays."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tiny_toml, encoding="utf-8")
    write_classes(tmp_path / "zoo", {"ant": 3, "bee": 3})
    (tmp_path / "a.npz").write_bytes(b"")


def test_override_recipe_data_and_model_replace_the_recipes(tmp_path):
    recipe = override_recipe("tiny.toml", data="zoo", model="vit_base_patch16_224", seed=3)
    assert (recipe.name, recipe.seed) == ("tiny", 3)
    assert (recipe.task.source, recipe.task.path) == ("folder", "zoo")
    assert recipe.backbone.model == "vit_base_patch16_224"
    assert recipe.backbone.pretrained
    assert recipe.backbone.kwargs == {}
    assert override_recipe("tiny.toml", data="a.npz").task.source == "npz"
    (tmp_path / "T.CSV").write_bytes(b"")
    table = override_recipe(data="T.CSV")
    assert (table.name, table.task.source) == ("T", "csv")


def test_override_recipe_model_with_a_path_is_a_local_checkpoint():
    backbone = override_recipe("tiny.toml", model="resnet18=a.pth").backbone
    assert (backbone.model, backbone.checkpoint) == ("resnet18", "a.pth")
    assert not backbone.pretrained


@pytest.mark.parametrize("model", ["a,b=c.pth", ["a", "b=c.pth"], ["a, ", "b=c.pth,"]], ids=str)
def test_override_recipe_several_models_are_candidates(model):
    backbone = override_recipe("own", model=model).backbone
    assert [candidate.label for candidate in backbone.candidates] == ["a", "b=c.pth"]
    assert [candidate.pretrained for candidate in backbone.candidates] == [True, False]
    assert (backbone.model, backbone.head_init) == ("auto", "logistic")


def test_override_recipe_file_of_models_is_relative_to_its_folder(tmp_path):
    (tmp_path / "zoo/names.txt").write_text("# mine\na\n\nb=c.pth # best\n", encoding="utf-8")
    candidates = override_recipe("own", model=["zoo/names.txt", "d"]).backbone.candidates
    assert [candidate.model for candidate in candidates] == ["a", "b", "d"]
    assert candidates[1].checkpoint == "zoo/c.pth"


def test_override_recipe_auto_is_a_list_of_models():
    assert override_recipe("own", model="auto-small").backbone.candidates
    limited = override_recipe("own", model="auto", settings=["backbone.max_params=20M"])
    assert limited.backbone.candidates == override_recipe("own", model="auto").backbone.candidates
    assert limited.backbone.max_params.resolve(1) == 20_000_000


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("", "at least one name"),
        ("empty.txt", "at least one name"),
        ("nowhere.txt", "No such file"),
        ("zoo.txt", "directory"),
        ("bytes.txt", "utf-8"),
        ("a,a", "'a' twice"),
        ("a,b=c.zip", "end in one of"),
    ],
)
def test_override_recipe_wrong_models_raise_one_line(model, words, tmp_path):
    (tmp_path / "empty.txt").write_text("# none\n", encoding="utf-8")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "zoo.txt").mkdir()
    with pytest.raises(RecipeError, match=words) as caught:
        override_recipe("own", model=model)
    assert "\n" not in str(caught.value)


def test_override_recipe_without_name_is_own_named_after_the_data():
    recipe = override_recipe(data="zoo")
    assert recipe.name == "zoo"
    assert recipe.training == load_recipe("own").training


def test_override_recipe_without_name_and_data_raises():
    with pytest.raises(RecipeError, match=r"digits.*Name one, or give `data`"):
        override_recipe()


def test_override_recipe_changes_come_after_settings():
    settings = ["search.n_trials=5", "search.n_trials=6", "search.sampler=tpe"]
    recipe = override_recipe("tiny.toml", settings=settings, search={"n_trials": 7})
    assert (recipe.search.n_trials, recipe.search.sampler) == (7, "tpe")


def test_override_recipe_change_replaces_a_wrong_setting():
    settings = ["search.n_trials=0"]
    recipe = override_recipe("tiny.toml", settings=settings, search={"n_trials": 7})
    assert recipe.search.n_trials == 7
    with pytest.raises(RecipeError, match=r"search.n_trials must be"):
        override_recipe("tiny.toml", settings=settings)


def test_with_data_other_settings_of_such_a_source_stay(tmp_path):
    shots = override_recipe(data="a.npz", settings=["task.shots=2"])
    assert shots.name == "a"
    assert with_data(shots, str(tmp_path / "a.npz")).task.shots == 2
    vtab = with_data(load_recipe("vtab1k"), "zoo")
    assert (vtab.task.source, vtab.task.path) == ("vtab", "zoo")


def test_with_data_missing_place_raises():
    with pytest.raises(RecipeError, match=r"data must be an existing folder"):
        with_data(load_recipe("own"), "nowhere")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("task.shots=4", 4),
        ("task.shots = 4", 4),
        ("task.crop_mode=squash", "squash"),
        ('task.crop_mode="squash"', "squash"),
        ("backbone.kwargs={ img_size = 32 }", {"img_size": 32}),
        ("backbone.mean=[0.1, 0.2, 0.3]", (0.1, 0.2, 0.3)),
    ],
)
def test_with_settings_value_is_toml_or_text(setting, expected):
    recipe = with_settings(override_recipe(data="zoo"), [setting])
    section, key = setting.partition("=")[0].strip().split(".")
    assert getattr(getattr(recipe, section), key) == expected


@pytest.mark.parametrize("setting", ["task.shots", "=3", "task..shots=3", "task shots=3"])
def test_with_settings_other_form_raises(setting):
    with pytest.raises(RecipeError, match="set must be key=value"):
        with_settings(load_recipe("own"), [setting])


@pytest.mark.parametrize(("effort", "cost"), [("low", 1.3), ("medium", 3.2), ("high", 8.4)])
def test_effort_costs_that_many_trainings_of_lora(tmp_path, effort, cost):
    recipe = override_recipe("digits", effort=effort)
    context = prepare(recipe, Workspace(runs=tmp_path, device="cpu"), "digits")
    work = stage_work(context)
    work.pop(Stage.TEST)
    one = 3 * recipe.training.epochs * len(context.task.train)
    total = sum(spent.forward_images for spent in work.values()) / one
    assert 0.75 * cost < total <= cost


def test_unknown_effort_is_refused():
    with pytest.raises(RecipeError, match="effort must be one of low, medium, high, got 'max'"):
        override_recipe("digits", effort="max")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("photos.v2", "photos.v2"), ("Forêt d'été", "Foret-d-ete"), ("my trees!", "my-trees")],
)
def test_override_recipe_names_the_study_after_the_folder(tmp_path, folder, name):
    (tmp_path / folder).mkdir()
    assert override_recipe(data=str(tmp_path / folder)).name == name
