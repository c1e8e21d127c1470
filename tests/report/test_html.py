import re
from html.parser import HTMLParser

import optuna

from glora_automl.report import PICTURES, save_pictures, save_report
from glora_automl.study import Absent, DataSummary, Overlap, set_attribute
from tests.report.studies import add_stage, begin_study, finish, made_study


class Reader(HTMLParser):
    """Collects the addresses that a browser loads, IDs, and text outside scripts."""

    def __init__(self):
        super().__init__()
        self.loads, self.ids, self.text, self._script = [], [], "", False

    def handle_starttag(self, tag, attrs):
        self._script = tag in ("script", "style")
        found = dict(attrs)
        self.loads += [v for k, v in found.items() if k in ("src", "href")]
        self.ids += [found["id"]] if "id" in found else []

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, data):
        self.text += "" if self._script else data


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def finished_study():
    study, space = made_study(trials=30)
    add_stage(study, "supernet", 12.5, n_trained=600)
    set_attribute(study, "supernet", {"digest": "x", "losses": [1.5, 0.9, 0.5]})
    finish(study, space)
    return study


def test_report_of_a_finished_study_is_one_file(tmp_path):
    study = finished_study()
    path = tmp_path / "new/report.html"
    save_report(study, path)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    page = read(path)
    assert page.loads == []
    assert page.ids == list(PICTURES)
    assert path.read_text(encoding="utf-8").count("plotly.js v") == 1
    selection = study.user_attrs["glora:selection"]
    for words in (
        f"trial {selection['trial']} with {selection['n_params']:,} parameters",
        "LoRA r=2",
        "none fits",
        "12.5",
        "Classes on test images",
        "Most frequent confusions",
        selection["architecture"].splitlines()[0],
    ):
        assert words in page.text


def test_report_of_an_empty_study_has_no_pictures(tmp_path):
    study = begin_study(optuna.storages.InMemoryStorage())
    save_report(study, tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    assert "none yet" in page.text
    assert page.ids == []


def test_report_escapes_names(tmp_path):
    study, _ = made_study(trials=2)
    settings = study.user_attrs["glora:settings"]
    recipe = {**settings["recipe"], "description": "</script><b>bold</b> & co"}
    study.set_user_attr("glora:settings", {**settings, "recipe": recipe})
    save_report(study, tmp_path / "report.html")
    assert "</script><b>bold</b> & co" in read(tmp_path / "report.html").text
    assert "<b>bold" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_save_pictures_writes_one_file_per_picture(tmp_path):
    study = finished_study()
    paths = save_pictures(study, tmp_path / "png")
    assert [path.stem for path in paths] == list(PICTURES)
    assert sorted((tmp_path / "png").iterdir()) == sorted(paths)
    assert all(re.match(rb"\x89PNG", path.read_bytes()) for path in paths)


def test_report_has_what_limits_the_figures(tmp_path):
    study = finished_study()
    save_report(study, tmp_path / "before.html")
    data = DataSummary({"test": 9}, (Overlap("train", "test", 2),), (Absent("test", 1, ("<b>",)),))
    set_attribute(study, "data", data.to_json())
    save_report(study, tmp_path / "after.html")
    for note in data.notes():
        assert note not in read(tmp_path / "before.html").text
        assert note in read(tmp_path / "after.html").text
