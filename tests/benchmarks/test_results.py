"""Scripts, results and pages agree: a dead figure fails."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = sorted(ROOT.glob("benchmarks/results/*.json"))
PAGES = sorted(ROOT.glob("docs/benchmarks/*.md"))
INDEX = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")


def test_tables_of_the_pages_have_the_figures_of_their_results(benchmark_script):
    results = benchmark_script("_results")
    compared = 0
    for page in PAGES:
        n_rows, wrong = results.mismatches(page.read_text(encoding="utf-8"))
        assert wrong == [], page.name
        compared += n_rows
    assert compared >= 40


def test_mismatches_names_a_row_with_another_figure(benchmark_script):
    results = benchmark_script("_results")
    page = (ROOT / "docs/benchmarks/quality.md").read_text(encoding="utf-8")
    assert "| 94.1 | +0.6 ± 0.5 |" in page
    _, wrong = results.mismatches(page.replace("| 94.1 | +0.6 ± 0.5 |", "| 94.2 | +0.6 ± 0.5 |"))
    assert len(wrong) == 1
    assert "uniform truncation" in wrong[0]


def test_every_script_is_listed_with_a_command_that_names_it():
    scripts = {path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")}
    rows = dict(re.findall(r"^\| `(\w+\.py)` \|(.*)\|$", INDEX, flags=re.MULTILINE))
    assert set(rows) == scripts
    for name, row in rows.items():
        assert f"`python benchmarks/{name} " in row


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_results_name_their_command_and_stand_in_the_index(path, benchmark_script):
    document = json.loads(path.read_text(encoding="utf-8"))
    script = re.match(r"python benchmarks/(\w+\.py)", document["command"])
    assert (ROOT / "benchmarks" / script[1]).is_file()
    headline = benchmark_script("_results").headline(path)
    assert f"| `{path.name}` | {headline} |" in INDEX, "run 'python .ci/reference.py'"


def test_results_that_pages_name_exist():
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    for page in pages:
        named = set(re.findall(r"results/([\w-]+\.json)", page.read_text(encoding="utf-8")))
        missing = {name for name in named if not (ROOT / "benchmarks/results" / name).is_file()}
        assert missing == set(), page.name


def test_guarantees_of_the_readme_are_those_of_the_results():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    faults = json.loads((ROOT / "benchmarks/results/faults.json").read_text(encoding="utf-8"))
    target = sum(storage["target"] for storage in faults["storages"].values())
    complete = sum(storage["complete"] for storage in faults["storages"].values())
    assert f"{faults['faults']:,} faults on three storages: {complete:,} of {target:,}" in readme
    rows = json.loads((ROOT / "benchmarks/results/export.json").read_text(encoding="utf-8"))["rows"]
    for key, words in (("merged", "{} to {} times"), ("attached", "unmerged {} to {}")):
        medians = [row[f"{key}_over_backbone"][0] for row in rows]
        assert words.format(f"{min(medians):.2f}", f"{max(medians):.2f}") in readme
    quality = ROOT / "benchmarks/results/quality-digits-4000.json"
    (figures,) = json.loads(quality.read_text(encoding="utf-8"))["figures"].values()
    gain = figures["views"]["all tasks"]["methods"]["LoRA at equal cost"]["over_pairs"]
    assert f"{100 * gain['difference']:.1f} ± {100 * gain['interval']:.1f} points" in readme
