"""What holds of the package as a whole."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import glora_automl

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "glora_automl"

# The floors from the ground up: each part imports from those above it in this list, besides
# errors and the private modules that know nothing of the rest.
FLOORS = {
    "errors": set(),
    "progress": set(),
    "architecture": set(),
    "search_space": {"architecture"},
    "budget": {"search_space"},
    "presets": {"architecture", "search_space"},
    "samplers": set(),
    "storages": {"samplers"},
    "adapters": {"architecture"},
    "training": {"adapters"},
    "supernet": {"adapters", "architecture", "training"},
    "tasks": {"progress", "training"},
    "backbones": {"adapters", "architecture", "progress", "search_space", "tasks", "training"},
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
}
UPPER = ["study", "pipeline", "commands", "report", "export", "estimator", "cli"]
"""These may import from every floor below them."""
BELOW = FLOORS | {part: {*FLOORS, *UPPER[:place]} for place, part in enumerate(UPPER)}
FREE = {"errors", "_declarations", "_files", "_signals", "_version"}


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
def test_imports_point_downwards(part):
    paths = (
        (PACKAGE / part).rglob("*.py") if (PACKAGE / part).is_dir() else [PACKAGE / f"{part}.py"]
    )
    for path in paths:
        for module in imports(path):
            if module.startswith("glora_automl."):
                target = module.split(".")[1]
                assert target in BELOW[part] | FREE | {part}, f"{path} imports {module}"


def test_every_part_has_its_place():
    parts = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    public = {part for part in BELOW if not part.startswith("_")}
    assert {part for part in parts if not part.startswith("_")} == public


@pytest.mark.parametrize("part", ["samplers", "storages", "progress", "errors"])
def test_what_needs_no_torch_does_not_import_it(part):
    code = f"import sys, glora_automl.{part}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_help_imports_neither_torch_nor_optuna():
    code = (
        "import sys; from glora_automl.cli import app; "
        "sys.exit(bool({'torch', 'optuna', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_all_names_are_there_and_none_is_missing():
    for name in glora_automl.__all__:
        assert getattr(glora_automl, name) is not None
    homes = {name for names in glora_automl._HOMES.values() for name in names}
    assert homes | {"errors", "__version__"} == set(glora_automl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = glora_automl.nothing


def test_the_wheel_carries_recipes_and_search_spaces(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert "glora_automl/py.typed" in names
    assert "glora_automl/_data/studies/digits.toml" in names
    assert "glora_automl/_data/search_spaces/default.toml" in names
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
