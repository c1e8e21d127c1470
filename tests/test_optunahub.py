"""The sampler as an OptunaHub package."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml

import optunahub
from glora_automl.samplers import EvolutionSampler

ROOT = Path(__file__).parents[1] / "optunahub" / "package"
FOLDER = ROOT / "samplers" / "glora_evolution"


def test_package_loaded_from_registry_has_the_sampler():
    module = optunahub.load_local_module("samplers/glora_evolution", registry_root=str(ROOT))
    assert module.__all__ == ["EvolutionSampler"]
    studies = []
    for sampler in (module.EvolutionSampler, EvolutionSampler):
        study = optuna.create_study(sampler=sampler(population_size=5, n_parents=2, seed=0))
        study.optimize(lambda t: t.suggest_categorical("x", [0, 1, 2]) or 3, n_trials=15)
        studies.append([trial.params for trial in study.trials])
    assert studies[0] == studies[1]


def test_package_is_the_sampler_of_this_package():
    spec = importlib.util.spec_from_file_location("copy", ROOT.parent / "copy_sampler.py")
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    for path, text in copy.copies().items():
        assert path.read_text(encoding="utf-8") == text, "run optunahub/copy_sampler.py"


def test_package_needs_neither_torch_nor_this_package():
    code = (
        "import sys, optunahub; sys.modules['glora_automl'] = sys.modules['torch'] = None; "
        f"load, root = optunahub.load_local_module, {str(ROOT)!r}; "
        "load('samplers/glora_evolution', registry_root=root).EvolutionSampler(seed=0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_example_prints_the_pareto_front(capsys):
    spec = importlib.util.spec_from_file_location("example", FOLDER / "example.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    study = example.main(registry=str(ROOT), n_trials=60)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(study.best_trials)
    assert len(study.trials) == 60
    assert all(trial.values[1] <= 60 for trial in study.best_trials)


@pytest.fixture
def readme():
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def test_readme_front_matter_has_the_keys_of_optunahub(readme):
    (front,) = re.findall(r"\A---\n(.*?)\n---\n", readme, flags=re.DOTALL)
    entries = yaml.safe_load(front)
    assert set(entries) == {
        "author",
        "title",
        "description",
        "tags",
        "optuna_versions",
        "license",
    }
    assert "sampler" in entries["tags"]
    assert entries["license"] == "MIT License"
    assert (FOLDER / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n\nCopyright")
    # The sections that the registry asks for.
    assert [line for line in readme.splitlines() if line.startswith("## ")][:2] == [
        "## Abstract",
        "## APIs",
    ]
    assert "- Class: `EvolutionSampler`" in readme


def test_readme_names_every_argument(readme):
    signature = re.search(r"`EvolutionSampler\(\*, (.*)\)`", readme).group(1)
    parameters = EvolutionSampler.__init__.__kwdefaults__
    assert signature == ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    for name in parameters:
        assert f"- `{name}`: " in readme


def test_readme_example_prints_the_optimum(readme, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    local = optunahub.load_local_module("samplers/glora_evolution", registry_root=str(ROOT))
    monkeypatch.setattr(optunahub, "load_module", lambda package: local)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    exec(code, {})
    assert capsys.readouterr().out == "0.0\n"
