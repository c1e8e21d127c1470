"""The README's commands and examples run."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import timm
from PIL import Image

from glora_automl import _declarations
from glora_automl.backbones import BackboneSettings
from glora_automl.cli import main
from glora_automl.recipes import Recipe, load_recipe
from glora_automl.report import DashboardServer
from glora_automl.training import TrainingSettings
from tests.cli.conftest import COMMANDS, flags
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))

SETUP = ["pip install -e . && glora search digits\n", 'pip install -e ".[test]" && pytest\n']
"""The two commands that .ci/run reads from the README."""

TINY_MODEL = {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
PRETRAINED = '"vit_small_patch16_224.augreg_in21k"'
"""Model of the examples, which the tests replace by one that needs no download."""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def python(words):
    """Return the one Python block with these words."""
    (block,) = (block for block in blocks("python") if words in block)
    return block


def replaced(text, *pairs):
    """Return the text with replacements, each of which must apply."""
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def quick_digits(tmp_path, monkeypatch, work):
    """Makes the recipe ``digits`` run in seconds."""
    shipped = _declarations.folder

    def folder(kind):
        return tmp_path / "recipes" if kind == "studies" else shipped(kind)

    (tmp_path / "recipes").mkdir()
    text = replaced(TINY, ("epochs = 12", "epochs = 3"))
    (tmp_path / "recipes/digits.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(_declarations, "folder", folder)


def test_readme_has_the_two_commands_in_blocks_of_their_own():
    assert blocks("bash")[0] == SETUP[0]
    assert SETUP[1] in blocks("bash")


def test_readme_is_at_most_200_lines():
    assert len(README.splitlines()) <= 200


def test_readme_commands_run(quick_digits, monkeypatch, capsys):
    lines = "".join(blocks("bash")).splitlines()
    ours = [part for line in lines for part in line.split(" && ") if part.startswith("glora ")]
    assert {shlex.split(command)[1] for command in ours} == set(COMMANDS) - {"suite"}
    # The dashboard would serve until Ctrl-C.
    monkeypatch.setattr(DashboardServer, "serve_forever", lambda server: None)
    Path("photos").mkdir()
    Image.new("L", (8, 8), 200).save("photos/grey.png")
    for command in ours:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, f"{command}: {capsys.readouterr().err}"
    assert Path("runs/studies.db").is_file()
    assert Path("runs/digits/winner.json").is_file()
    assert Path("digits.html").is_file()
    assert Path("digits-timm/model.safetensors").is_file()
    assert "photos/grey.png" in capsys.readouterr().out


def test_adapter_problem_example_runs(work):
    kwargs = ", ".join(f"{key}={value}" for key, value in TINY_MODEL.items())
    model = f'timm.create_model("vit_tiny_patch16_224", num_classes=10, {kwargs})'
    example = replaced(
        python("AdapterProblem("),
        (PRETRAINED, model),
        ('budget="1%"', 'budget="20%", settings={"training": {"epochs": 2, "warmup_epochs": 0}}'),
        ("n_trials=100", "n_trials=3"),
    )
    scope = {"timm": timm}
    exec(example, scope)
    study, problem = scope["study"], scope["problem"]
    assert len(study.trials) == 3
    assert problem.architecture(study.best_trial).count(problem.space.shapes) <= problem.budget
    assert type(scope["model"]) is timm.models.VisionTransformer


def test_search_example_runs(quick_digits, capsys):
    scope = {}
    exec(replaced(python("load_recipe("), ('"n_trials": 50', '"n_trials": 3')), scope)
    out = capsys.readouterr().out
    assert "linear probe" in out
    assert "blocks.0.attn.qkv" in out
    assert len(scope["result"].study.trials) == 3
    assert Path("runs/digits-50/winner.json").is_file()


def test_classifier_example_runs(work, capsys):
    model = f'"vit_tiny_patch16_224", pretrained=False, epochs=2, model_kwargs={TINY_MODEL}'
    scope = {}
    exec(
        replaced(
            python("GLoRAClassifier("),
            (PRETRAINED, model),
            ('budget="1%"', 'budget="20%"'),
            ("n_trials=100", "n_trials=3"),
        ),
        scope,
    )
    assert scope["classifier"].predict(scope["x_test"]).shape == (1597,)
    assert "blocks.0.attn.qkv" in capsys.readouterr().out
    assert Path("digits-adapter/adapter.safetensors").is_file()


def test_readme_output_is_of_the_shipped_recipe():
    assert "<!-- output of glora search digits -->\n```text\n" in README
    shown = blocks("text")[0]
    recipe = load_recipe("digits")
    assert f"Search: {recipe.search.n_trials}/{recipe.search.n_trials} trials" in shown
    for words in ("searched", "linear probe", "LoRA r=", "BitFit", "images"):
        assert words in shown


def test_readme_recipe_keys_are_keys_of_a_recipe():
    table = README[README.index("## Recipe keys") : README.index("## What is stored where")]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", table, flags=re.MULTILINE))
    sections = {
        "training": TrainingSettings,
        "backbone": BackboneSettings,
        **{
            name: Recipe.model_fields[name].annotation
            for name in ("tune", "supernet", "search", "selection")
        },
    }
    assert set(rows) == {"budget", "metric", "search_space", "task", *sections}
    for name, settings in sections.items():
        words = re.findall(r"`([a-z_]+)`", rows[name])
        choices = {"wide", "uniform", "evolution", "tpe", "nsga2", "random", "logistic"}
        assert set(words) - choices <= set(settings.model_fields), name
        if name in ("supernet", "selection"):
            assert set(words) - choices == set(settings.model_fields)


def test_readme_search_space_table_is_one():
    (text,) = re.findall(r"`(\{ base = .* \})`", README)
    space = tomllib.loads(f"search_space = {text}")
    recipe = load_recipe("digits").replace(**space)
    assert recipe.search_space.tie == "block"
    assert recipe.search_space.layers == ("blocks.*.attn.*",)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_names_only_commands_and_flags_that_exist(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for command, rest in re.findall(r"\bglora ([a-z]+)((?: [^`\n]*)?)", text):
        assert command in COMMANDS, f"{page.name}: glora {command}"
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest.split("&&")[0].split(";")[0]))
        assert named <= flags(command), f"{page.name}: glora {command}{rest}"


def test_page_links_and_pictures_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"\]\((?!http|#)([^)#]+)", text):
            assert (page.parent / path).exists(), f"{page.name}: {path}"
