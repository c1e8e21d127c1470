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


def test_report_png_is_a_folder_beside_the_page(runs, glora, error):
    code, out, _ = glora("report", "tiny", "--runs", runs, "--png", "pictures", "--out", "a.html")
    assert code == 0
    assert out.endswith("Report: a.html\n")
    assert "--png must be a folder" in error("report", "tiny", "--runs", runs, "--png", "a.PNG")
    assert sorted(path.name for path in Path().iterdir()) == ["a.html", "pictures"]


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


def test_report_out_of_another_program_is_one_line_and_stays(runs, error):
    Path("notes.html").write_text("my notes", encoding="utf-8")
    Path("folder").mkdir()
    for path in ("notes.html", "/dev/null", "/dev/full", "/", "folder"):
        before = Path(path).lstat()
        assert "must be a new file" in error("report", "tiny", "--runs", runs, "--out", path)
        assert (Path(path).lstat().st_ino, Path(path).lstat().st_mode) == (
            before.st_ino,
            before.st_mode,
        )
    assert Path("notes.html").read_text(encoding="utf-8") == "my notes"


def test_report_out_of_an_earlier_report_is_replaced(runs, glora):
    for _ in range(2):
        assert glora("report", "tiny", "--runs", runs)[0] == 0
        assert glora("report", "tiny", "--runs", runs, "--png", "pictures")[0] == 0


def test_report_png_of_another_program_is_one_line_and_stays(runs, error):
    Path("pictures").mkdir()
    Path("pictures/architecture.png").write_bytes(b"mine")
    assert "must be a new file" in error("report", "tiny", "--runs", runs, "--png", "pictures")
    assert Path("pictures/architecture.png").read_bytes() == b"mine"
