"""The README: its form, and its examples run."""

import re
import shutil
from pathlib import Path

import pytest

from glora_automl import _declarations
from glora_automl.recipes import load_recipe
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SETUP = ["pip install -e . && glora search digits\n", 'pip install -e ".[test]" && pytest\n']
"""The two commands that .ci/run reads from the README."""

MAX_LINES = 150

TINY_MODEL = {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
KWARGS = ", ".join(f"{key}={value}" for key, value in TINY_MODEL.items())
SMALLER = [
    (
        r'AdapterProblem\((\s*)"vit_small_patch16_224.augreg_in21k"',
        rf'AdapterProblem(timm.create_model("vit_tiny_patch16_224", num_classes=10, {KWARGS})',
    ),
    (
        r'(\(x_val, y_val\), )budget="1%"',
        r'\1budget="20%", settings={"training": {"epochs": 2, "warmup_epochs": 0}}',
    ),
    (
        r'GLoRAClassifier\("vit_small_patch16_224.augreg_in21k", budget="1%"',
        f'GLoRAClassifier("vit_tiny_patch16_224", pretrained=False, epochs=2, budget="20%", '
        f"model_kwargs={TINY_MODEL}",
    ),
    (r"n_trials=\d+", "n_trials=3"),
]
"""Changes to examples, which then need no download and run in seconds."""


def blocks(language, text=README):
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run_example(example, scope=None):
    """Run an example with a small model; returns its variables."""
    import timm

    for pattern, smaller in SMALLER:
        example = re.sub(pattern, smaller, example)
    assert "augreg" not in example
    scope = {} if scope is None else scope
    exec(example, scope.setdefault("timm", timm) and scope)
    return scope


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

    shutil.copytree(ROOT / "studies", tmp_path / "recipes")
    assert "epochs = 12" in TINY
    text = TINY.replace("epochs = 12", "epochs = 3") + "baselines = false\n"
    (tmp_path / "recipes/digits.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(_declarations, "folder", folder)


def test_readme_has_the_two_commands_in_blocks_of_their_own():
    assert blocks("bash")[0] == SETUP[0]
    assert SETUP[1] in blocks("bash")


def test_readme_is_at_most_150_lines():
    assert len(README.splitlines()) <= MAX_LINES


def test_adapter_problem_example_runs(work):
    import timm

    (example,) = (block for block in blocks("python") if "AdapterProblem(" in block)
    scope = run_example(example)
    study, problem = scope["study"], scope["problem"]
    assert len(study.trials) == 3
    assert problem.architecture(study.best_trial).count(problem.space.shapes) <= problem.budget
    assert type(scope["model"]) is timm.models.VisionTransformer


def test_classifier_example_runs(work, capsys):
    (example,) = (block for block in blocks("python") if "GLoRAClassifier(" in block)
    scope = run_example(example)
    assert 0 <= float(capsys.readouterr().out) <= 1
    assert scope["classifier"].best_architecture_


def test_readme_output_is_of_the_shipped_recipe():
    assert "<!-- output of glora search digits -->\n```text\n" in README
    shown = blocks("text")[0]
    recipe = load_recipe("digits")
    assert f"Search: {recipe.search.n_trials}/{recipe.search.n_trials} trials" in shown
    for words in ("searched", "linear probe", "LoRA r=", "BitFit", "images"):
        assert words in shown
