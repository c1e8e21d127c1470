"""The project around the package: metadata, workflows, wheel and sdist."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

SCHEMAS = {
    "vendor.github-workflows": sorted((ROOT / ".github/workflows").glob("*.yml")),
    "vendor.github-issue-forms": [
        ROOT / f".github/ISSUE_TEMPLATE/{name}.yml" for name in ("bug", "feature")
    ],
    "vendor.github-issue-config": [ROOT / ".github/ISSUE_TEMPLATE/config.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_file_of_the_host_fits_its_schema(schema):
    cli = pytest.importorskip("check_jsonschema.cli")
    testing = pytest.importorskip("click.testing")
    arguments = ["--builtin-schema", schema, *map(str, SCHEMAS[schema])]
    assert len(arguments) > 2
    result = testing.CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output


def test_versions_of_package_citation_and_changelog_agree():
    assert f"\nversion: {PROJECT['version']}\n" in (ROOT / "CITATION.cff").read_text(
        encoding="utf-8"
    )
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ – \d{4}-\d\d-\d\d", text) for text in headings[1:])


def test_workflow_tests_the_pythons_of_the_classifiers():
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^ *python: \[(.*)\]$", text, flags=re.MULTILINE)
    declared = [c.rpartition(" :: ")[2] for c in PROJECT["classifiers"] if ":: 3." in c]
    assert re.findall(r"[\d.]+", listed) == declared
    assert PROJECT["requires-python"] == f">={declared[0]}"


@pytest.mark.slow
def test_wheel_in_an_empty_environment_searches_outside_the_checkout(tmp_path):
    """The environment has the packages of this one, but of ``glora_automl`` only the wheel."""
    for target in ("sdist", "wheel"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(tmp_path)]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "studies/digits.toml",
        "search_spaces/lean.toml",
        "suites/vtab1k.toml",
        "portfolios/default.toml",
        "glora_automl/py.typed",
        "LICENSE",
    } <= names
    if shutil.which("twine"):
        check = ["twine", "check", "--strict", str(wheel), str(sdist)]
        subprocess.run(check, check=True, capture_output=True)
    venv.create(tmp_path / "empty", with_pip=True)
    (site,) = (tmp_path / "empty").glob("lib/python3*/site-packages")
    own = {Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    (site / "others.pth").write_text("\n".join(map(str, own)), encoding="utf-8")
    binaries = tmp_path / "empty/bin"
    install = [binaries / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel]
    subprocess.run([*install, "--force-reinstall"], check=True, capture_output=True)
    (tmp_path / "work").mkdir()
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def glora(*arguments):
        return subprocess.run(
            [binaries / "glora", *arguments],
            cwd=tmp_path / "work", env=clean, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    code = "import glora_automl; print(glora_automl.__file__, glora_automl.__version__)"
    where = subprocess.run(
        [binaries / "python", "-c", code],
        cwd=tmp_path, env=clean, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert where.split() == [str(site / "glora_automl/__init__.py"), PROJECT["version"]]
    assert f"torch {version('torch').partition('+')[0]}" in glora("doctor", "--timeout", "120")
    assert "searched" in glora("search", "digits", "--effort", "low", "--quiet")
    assert (tmp_path / "work/runs/digits/winner.json").is_file()
