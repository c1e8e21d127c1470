"""The documentation: commands and examples run, links lead somewhere, pages are current."""

import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from glora_automl.cli import main
from glora_automl.recipes import load_recipe
from glora_automl.report import DashboardServer
from tests.cli.conftest import COMMANDS, flags
from tests.test_readme import blocks, quick_digits, run_example, work  # noqa: F401

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OTHERS = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")]
OTHERS += [ROOT / "benchmarks/README.md", ROOT / "examples/README.md"]
PAGES = [*OTHERS, *sorted(DOCS.rglob("*.md"))]

ALONE = ("tutorials/optuna.md", "how-to/sampler.md", "how-to/model.md")
"""Pages whose examples need nothing."""

AFTERWARDS = ("how-to/storage.md", "how-to/export.md", "how-to/python.md")
"""Pages whose examples read what the commands of all pages leave."""

NOT_RUN = {"suite"}
"""Commands that no page runs: they take hours, or data that is not there."""


def page_id(page):
    return page.relative_to(ROOT).as_posix()


def text_of(page):
    return page.read_text(encoding="utf-8")


def anchors(page):
    """Return the anchors of a page's headings, as mkdocs and hosts of repositories make them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def test_commands_of_all_pages_run(quick_digits, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(DashboardServer, "serve_forever", lambda server: None)  # until Ctrl-C
    Path("photos").mkdir()
    Image.new("L", (8, 8), 200).save("photos/grey.png")
    lines = [line for page in PAGES for line in "".join(blocks("bash", text_of(page))).splitlines()]
    parts = [part.partition(" # ")[0].strip() for line in lines for part in line.split(" && ")]
    ours = list(dict.fromkeys(part for part in parts if part.startswith("glora ")))
    assert {shlex.split(command)[1] for command in ours} == set(COMMANDS) - NOT_RUN
    for command in ours:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, f"{command}: {capsys.readouterr().err}"
    for path in ("runs/studies.db", "runs/digits/winner.json", "digits.html"):
        assert Path(path).is_file()
    assert Path("digits-timm/model.safetensors").is_file()
    assert "photos/grey.png" in capsys.readouterr().out
    for page in AFTERWARDS:
        for example in blocks("python", text_of(DOCS / page)):
            run_example(example)


@pytest.mark.parametrize("page", ALONE)
def test_examples_of_page_run(page, work):  # noqa: F811
    scope = {}
    for example in blocks("python", text_of(DOCS / page)):
        run_example(example, scope)
    assert "study" in scope


def test_toml_blocks_are_sections_of_a_recipe():
    tables = [
        tomllib.loads(block)
        for page in DOCS.rglob("*.md")
        for block in blocks("toml", text_of(page))
    ]
    assert len(tables) >= 3
    for table in tables:
        load_recipe("own").replace(**table)


def test_every_python_block_of_a_page_is_run():
    pages = [page for page in DOCS.rglob("*.md") if blocks("python", text_of(page))]
    assert {page.relative_to(DOCS).as_posix() for page in pages} == {*ALONE, *AFTERWARDS}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_page_names_only_commands_and_flags_that_exist(page):
    text = text_of(page).replace("\\\n", " ")
    for command, rest in re.findall(r"\bglora ([a-z]+)((?: [^`\n]*)?)", text):
        assert command in COMMANDS, f"{page.name}: glora {command}"
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.split("&&|;|#", rest)[0]))
        assert named <= flags(command) | {"--help"}, f"{page.name}: glora {command}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_of_page_lead_to_pages_and_headings(page):
    for target in re.findall(r"\]\((?!http)([^)\s]+)\)", text_of(page)):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name}: {target}"


def test_every_page_stands_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"([\w/-]+\.md)$", text[text.index("\nnav:") :], flags=re.MULTILINE)
    assert sorted(listed) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


def test_generated_pages_are_current():
    generator = runpy.run_path(str(ROOT / ".ci/reference.py"))
    for path, page in generator["PAGES"].items():
        again = f"{path} is old: run 'python .ci/reference.py'"
        assert (ROOT / path).read_text(encoding="utf-8") == page(), again


def test_search_space_of_the_recipe_page_is_one():
    space = runpy.run_path(str(ROOT / ".ci/reference.py"))["SPACE"]
    changed = load_recipe("digits").replace(**tomllib.loads(space)).search_space
    assert (changed.tie, changed.layers) == ("block", ("blocks.*.attn.*",))


def test_sentences_of_a_page_leave_out_code_tables_and_headings():
    sentences = runpy.run_path(str(ROOT / ".ci/sentences.py"))["sentences"]
    page = "# Title\n\nOne two. Three `x` [four](a.md).\n\n- **Five.** Six\n\n"
    page += "| a |\n\n```text\nb\n```\n"
    assert sentences(page) == ["One two.", "Three code four.", "Five.", "Six"]


def test_environment_variables_of_the_package_are_documented():
    page = text_of(DOCS / "reference/environment.md")
    for path in (ROOT / "glora_automl").rglob("*.py"):
        for name in re.findall(r"os\.environ(?:\.get)?[\[(]\"([A-Z_]+)\"", text_of(path)):
            assert f"`{name}`" in page, f"{path}: {name}"


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "reference/api/index.html").is_file()
