"""The package as a whole: import directions, sizes, mirrored tests, public names, wheel."""

import ast
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import glora_automl

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "glora_automl"

# The floors from the ground up. A part imports from the parts that it lists, and from FREE.
FLOORS = {
    "errors": set(),
    "progress": set(),
    "architecture": set(),
    "search_space": {"architecture"},
    "budget": {"search_space"},
    "presets": {"architecture"},
    "samplers": set(),
    "storages": {"samplers"},
    "diagnosis": {"storages"},
    "adapters": {"architecture"},
    "training": {"adapters"},
    "supernet": {"adapters", "architecture", "search_space", "training"},
    "tasks": {"progress", "training"},
    "backbones": {
        "adapters",
        "architecture",
        "budget",
        "progress",
        "search_space",
        "tasks",
        "training",
    },
    "recipes": {
        "architecture",
        "backbones",
        "budget",
        "presets",
        "search_space",
        "tasks",
        "training",
    },
    "workers": {"progress", "samplers", "storages"},
    "trackers": {"progress"},
}
UPPER = [
    "study",
    "pipeline",
    "problem",
    "commands",
    "report",
    "visualization",
    "clusters",
    "export",
    "estimator",
    "cli",
]
"""These may import from every floor below them."""
BELOW = FLOORS | {part: {*FLOORS, *UPPER[:place]} for place, part in enumerate(UPPER)}
FREE = {"errors", "_declarations", "_extras", "_files", "_lazy", "_markdown", "_messages"}
FREE |= {"_rules", "_signals", "_version"}
"""Modules that know nothing of the rest."""

NO_TORCH = ("errors", "progress", "samplers", "storages", "diagnosis", "trackers")
NO_TORCH += ("recipes", "workers", "study", "report")

MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES = 400, 80

NO_MODULE = {
    "commands/test_closed.py": "search, resume, select, suite: searches that end early",
    "commands/test_holdout.py": "search, select, compare: all labelled images in training",
    "commands/test_interrupted.py": "search, resume: killed and stopped processes",
    "commands/test_local_backbone.py": "search: backbones from local checkpoints",
    "commands/test_machines.py": "search, resume: several workers",
    "commands/test_presets.py": "train: presets",
    "commands/test_refused.py": "search, resume: studies that do not fit",
    "commands/test_replaced.py": "search: studies that are deleted or replaced by a backup",
    "commands/test_tasks.py": "search: every source of images",
    "estimator/test_checks.py": "scikit-learn's own checks of estimators",
    "export/test_formats.py": "timm and ONNX exports in a process without the package",
    "recipes/test_architecture.py": "the recipe's key `architecture`",
    "report/test_browser.py": "the dashboard in a browser",
    "report/test_pictures.py": "the pictures, drawn by plotly and matplotlib",
    "samplers/test_draws.py": "draws of all samplers",
    "test_docs.py": "the documentation",
    "test_examples.py": "the examples",
    "test_deploy.py": "the files in deploy/",
    "test_optunahub.py": "the OptunaHub package",
    "test_package.py": "the package as a whole",
    "test_project.py": "metadata, workflows, wheel and sdist",
    "test_readme.py": "the README",
    "training/test_cuda.py": "training and evaluation on a GPU",
}
"""Test files of more than one module, or of none, with their subject."""


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "glora_automl":
                yield from ((f"glora_automl.{alias.name}") for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("part", sorted(BELOW))
def test_part_imports_only_from_lower_floors(part):
    folder = PACKAGE / part
    paths = folder.rglob("*.py") if folder.is_dir() else [PACKAGE / f"{part}.py"]
    for path in paths:
        for module in imports(path):
            if module.startswith("glora_automl."):
                target = module.split(".")[1]
                assert target in BELOW[part] | FREE | {part}, f"{path} imports {module}"


def test_floors_have_every_part():
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert {part for part in parts if not part.startswith("_")} == set(BELOW)


def test_contributing_lists_every_part():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(\w+)(?:/|\.py)`", rows))
    assert set(BELOW) <= named


def test_parts_without_torch_do_not_import_it():
    code = (
        "import importlib, sys\n"
        "for part in sys.argv[1:]:\n"
        "    module = importlib.import_module(f'glora_automl.{part}')\n"
        "    assert 'torch' not in sys.modules, part\n"
    )
    subprocess.run([sys.executable, "-c", code, *NO_TORCH], check=True, cwd=ROOT)


@pytest.mark.parametrize("part", sorted(set(BELOW) - {"errors"}))
def test_part_exports_the_names_of_all(part):
    module = importlib.import_module(f"glora_automl.{part}")
    assert all(getattr(module, name, None) is not None for name in module.__all__)


def test_import_changes_nothing_global():
    code = """
import locale, logging, os, random, signal, sys, threading, warnings
import numpy, optuna.artifacts  # boto3 changes the filters of warnings

def state():
    return (
        dict(os.environ), os.getcwd(), random.getstate(), numpy.random.get_state()[1].tolist(),
        list(warnings.filters), logging.root.level, list(logging.root.handlers),
        optuna.logging.get_verbosity(), [signal.getsignal(n) for n in (2, 13, 15)],
        threading.active_count(), sys.excepthook, sys.getrecursionlimit(), list(sys.path),
        locale.setlocale(locale.LC_ALL), numpy.geterr(), sys.get_int_max_str_digits(),
    )

before = state()
import glora_automl, glora_automl.samplers, glora_automl.storages, glora_automl.progress
sys.exit(state() != before)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_modules_are_at_most_400_lines():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_functions_are_at_most_80_lines():
    long = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node.body[0]
                n_lines = node.end_lineno - first.lineno + 1  # of the body without docstring
                if n_lines > MAX_FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}: {node.name}"] = n_lines
    assert long == {}


def test_test_files_mirror_the_package():
    """``tests/<room>/test_<module>.py`` tests ``glora_automl/<room>/_<module>.py``."""
    without = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        test = path.relative_to(ROOT / "tests")
        module = test.stem.removeprefix("test_")
        home = ROOT if test.parts[0] == "benchmarks" else PACKAGE
        if not any((home / test.parent / f"{name}.py").exists() for name in (module, f"_{module}")):
            without.add(test.as_posix())
    assert without == set(NO_MODULE)


def test_every_room_has_tests():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    tested = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert rooms <= tested


def test_help_imports_neither_torch_nor_optuna():
    code = (
        "import sys; from glora_automl.cli import app; "
        "sys.exit(bool({'torch', 'optuna', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_public_names_are_those_of_all():
    for name in glora_automl.__all__:
        assert getattr(glora_automl, name) is not None
    assert set(glora_automl.__all__) <= set(dir(glora_automl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = glora_automl.nothing


def test_wheel_has_recipes_search_spaces_and_suites(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert "glora_automl/py.typed" in names
    assert "glora_automl/_data/studies/digits.toml" in names
    assert "glora_automl/_data/search_spaces/default.toml" in names
    assert "glora_automl/_data/suites/vtab1k.toml" in names
    code = "import glora_automl as g; print(g.list_search_spaces(), g.list_recipes(), g.__file__)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert "paper" in ran.stdout
    assert "digits" in ran.stdout
    assert str(tmp_path / "site") in ran.stdout
