import re
from html.parser import HTMLParser

import optuna

from glora_automl.report import PICTURES, save_pictures, save_report
from glora_automl.study._study import set_attribute
from tests.report.studies import add_stage, begin_study, finish, made_study


class Reader(HTMLParser):
    """Collects addresses that a browser would load, ids, and the text outside of scripts."""

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


def whole():
    study, space = made_study(trials=30)
    add_stage(study, "supernet", 12.5, n_images=600)
    set_attribute(study, "supernet", {"digest": "x", "losses": [1.5, 0.9, 0.5]})
    finish(study, space)
    return study


def test_a_report_is_one_file_with_everything(tmp_path):
    study = whole()
    path = tmp_path / "new/report.html"
    save_report(study, path)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    page = read(path)
    assert page.loads == []
    assert page.ids == list(PICTURES)
    assert path.read_text(encoding="utf-8").count("plotly.js v") == 1
    best = study.user_attrs["glora:selection"]
    for words in (
        f"trial {best['trial']} with {best['parameters']:,} parameters",
        "LoRA r=2",
        "none fits",
        "12.5",
        best["architecture"].splitlines()[0],
    ):
        assert words in page.text


def test_a_report_of_an_empty_study_says_so(tmp_path):
    study = begin_study(optuna.storages.InMemoryStorage())
    save_report(study, tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    assert "none yet" in page.text
    assert page.ids == []


def test_names_are_no_markup(tmp_path):
    study, _ = made_study(trials=2)
    settings = study.user_attrs["glora:settings"]
    recipe = {**settings["recipe"], "description": "</script><b>bold</b> & co"}
    study.set_user_attr("glora:settings", {**settings, "recipe": recipe})
    save_report(study, tmp_path / "report.html")
    assert "</script><b>bold</b> & co" in read(tmp_path / "report.html").text
    assert "<b>bold" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_pictures_are_files(tmp_path):
    study = whole()
    paths = save_pictures(study, tmp_path / "png")
    assert [path.stem for path in paths] == list(PICTURES)
    assert sorted((tmp_path / "png").iterdir()) == sorted(paths)
    assert all(re.match(rb"\x89PNG", path.read_bytes()) for path in paths)
