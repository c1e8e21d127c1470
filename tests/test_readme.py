"""The README's commands and examples do what it says."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from glora_automl import _declarations
from glora_automl.cli import _app as cli
from glora_automl.recipes import load_recipe, load_suite, suite_recipes
from glora_automl.report import DashboardServer
from glora_automl.search_space import SearchSpaceSpec
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def toml(words):
    """The one TOML block with these words."""
    (block,) = (block for block in blocks("toml") if words in block)
    return block


def python(words):
    """The one Python block with these words."""
    (block,) = (block for block in blocks("python") if words in block)
    return block


@pytest.fixture
def quick_digits(tmp_path, monkeypatch):
    """A folder to work in, where the recipe ``digits`` takes seconds."""
    shipped = _declarations.folder

    def folder(kind):
        return tmp_path / "recipes" if kind == "studies" else shipped(kind)

    (tmp_path / "recipes").mkdir()
    # A budget far above the one that is picked for later.
    settings = "population = 4\nmutation_probability = 0.3\nleast_size = 0.0\nhand_picked = false"
    text = TINY.replace("population = 4", settings)
    text = text.replace("epochs = 12", "epochs = 3")
    (tmp_path / "recipes/digits.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(_declarations, "folder", folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_the_two_commands_come_first():
    first, second = blocks("bash")[:2]
    assert first == "pip install -e . && glora search digits\n"
    assert second == 'pip install -e ".[test]" && pytest\n'


def test_the_commands_run(quick_digits, monkeypatch, capsys):
    commands = "".join(blocks("bash")).splitlines()
    ours = [part for line in commands for part in line.split(" && ") if part.startswith("glora ")]
    assert {shlex.split(command)[1] for command in ours} == {
        "architecture",
        "train",
        "compare",
        "pick",
        "dashboard",
        "export",
        "report",
        "resume",
        "search",
        "status",
        "show",
        "recipes",
        "spaces",
        "suites",
        "layers",
    }
    # It would serve until somebody ends it.
    monkeypatch.setattr(DashboardServer, "serve_forever", lambda server: None)
    for command in ours:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code, f"{command}: {capsys.readouterr().err}"
    assert Path("runs/studies.db").is_file()
    assert Path("runs/digits/winner.json").is_file()
    assert Path("digits.html").is_file()
    assert Path("digits-timm/model.safetensors").is_file()


def test_the_python_example_runs(quick_digits, capsys):
    example = python("load_recipe(")
    scope = {}
    exec(example.replace('"trials": 100', '"trials": 3'), scope)
    assert "linear probe" in capsys.readouterr().out
    assert len(scope["result"].study.trials) == 3


def test_the_classifier_that_is_shown_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = """"vit_tiny_patch16_224", pretrained=False, epochs=2, model_kwargs={
        "img_size": 8, "patch_size": 4, "embed_dim": 64, "depth": 1, "num_heads": 2}"""
    example = python("GLoRAClassifier(").replace('"vit_small_patch16_224.augreg_in21k"', tiny)
    scope = {}
    exec(example.replace("trials=200", "trials=3"), scope)
    assert scope["classifier"].predict(scope["x_test"]).shape == (1597,)
    assert "blocks.0.attn.qkv:" in capsys.readouterr().out
    assert Path("digits-adapter/adapter.safetensors").is_file()


def test_the_recipe_that_is_shown_is_the_one_that_ships():
    import tomllib

    shown = toml("[backbone]")
    shipped = tomllib.loads((ROOT / "studies/digits.toml").read_text(encoding="utf-8"))
    for key, value in tomllib.loads(shown).items():
        if isinstance(value, dict):
            assert value.items() <= shipped[key].items()
        else:
            assert value == shipped[key]


def test_the_pictures_that_are_shown_are_there():
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert shown
    assert all((ROOT / path).is_file() for path in shown)


def test_the_search_space_that_is_shown_is_one():
    import tomllib

    shown = toml("[choices]")
    spec = SearchSpaceSpec.model_validate(tomllib.loads(shown))
    assert spec.choices.E == ("none", "vector")


def test_the_search_settings_that_are_shown_are_ones():
    import tomllib

    traded = load_recipe("digits").replace(**tomllib.loads(toml('"n_params"]')))
    assert traded.search.is_multi_objective
    shown = tomllib.loads(toml("finetune_epochs ="))
    recipe = load_recipe("digits").replace(**shown)
    assert recipe.selection.n_splits == 5


def test_the_suite_that_is_shown_is_one(tmp_path):
    (tmp_path / "mine.toml").write_text(toml("[[tasks]]"), encoding="utf-8")
    (tmp_path / "satellite.npz").touch()
    suite = load_suite(str(tmp_path / "mine.toml"))
    ((task, recipe),) = suite_recipes(suite, model="test_vit")
    assert (task, recipe.name) == ("satellite", "mine-satellite-seed0")
    assert recipe.search.n_trials == 300
    assert recipe.task.path == str(tmp_path / "satellite.npz")


def test_the_output_that_is_shown_is_of_the_recipe_that_ships():
    shown = blocks("text")[0]
    recipe = load_recipe("digits")
    assert f"Search: {recipe.search.n_trials}/{recipe.search.n_trials} trials" in shown
    for words in ("searched", "linear probe", "LoRA r=", "BitFit", "images"):
        assert words in shown
