from pathlib import Path

import optuna
import pytest


@pytest.fixture(autouse=True)
def _empty(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def test_report_is_a_page(runs, glora):
    assert glora("report", "tiny", "--runs", runs) == (0, "Report: tiny.html\n", "")
    assert "LoRA r=" in Path("tiny.html").read_text(encoding="utf-8")


def test_report_png_writes_pictures_alone(runs, glora):
    code, out, _ = glora("report", "tiny", "--runs", runs, "--png", "pictures")
    assert code == 0
    assert out.startswith("Picture: pictures/architecture.png\n")
    assert [path.name for path in Path().iterdir()] == ["pictures"]


@pytest.mark.parametrize("option", ["--out", "--png"])
def test_report_file_instead_of_folder_is_one_line(runs, error, option):
    Path("file").write_text("", encoding="utf-8")
    assert "file" in error("report", "tiny", "--runs", runs, option, "file/x")


def test_report_unknown_study_names_the_known(runs, error):
    assert "(tiny)" in error("report", "tony", "--runs", runs)


def test_report_settings_of_a_later_version_are_one_line(runs, error):
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{runs}/studies.db")
    settings = study.user_attrs["glora:settings"]
    recipe = {**settings["recipe"], "of_a_later_version": 1}
    study.set_user_attr("glora:settings", {**settings, "recipe": recipe})
    message = error("report", "tiny", "--runs", runs, "--out", "a.html")
    assert "of_a_later_version" in message
    assert not Path("a.html").exists()
