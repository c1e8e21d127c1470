import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _empty(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def exported(runs, glora):
    """The folder ``taken`` with an export, and an image."""
    Image.new("L", (8, 8), 200).save("grey.png")
    arguments = ("export", "tiny", "--runs", runs, "--quiet", "--out", "taken", "--to", "timm")
    assert glora(*arguments)[0] == 0


def test_predict_prints_the_most_likely_classes(exported, glora):
    code, out, err = glora("predict", "taken", "grey.png", "--top", 2, "--quiet")
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    file, first, p, second, q = line.split("\t")
    assert file == "grey.png"
    assert {first, second} < {"5", "6", "7"}
    assert 1 >= float(p) >= float(q) >= 0
    (best,) = json.loads(glora("predict", "taken", ".", "--json")[1])["images"]
    assert best["file"] == "grey.png"
    assert best["classes"][0]["class"] in ("5", "6", "7")


def test_predict_on_a_terminal_prints_a_table_and_elsewhere_whole_names(
    exported, glora, monkeypatch
):
    name = "a" * 120 + ".png"
    Path("grey.png").rename(name)
    assert glora("predict", "taken", name, "--quiet")[1].startswith(f"{name}\t")
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = glora("predict", "taken", name, "--top", 2, "--quiet")[1]
    assert "2." in out
    assert "images/s" in out


def test_predict_unreadable_image_is_an_error_after_the_others(exported, glora):
    Path("bad.png").touch()
    code, out, err = glora("predict", "taken", ".", "--quiet")
    assert code == 2
    assert "grey.png" in out
    assert err.count("\n") == 1
    assert err.startswith("Error: 1 of 2 images cannot be decoded: bad.png (")


@pytest.mark.parametrize(
    ("arguments", "words"), [((".", "."), "images"), ((".", __file__), "glora.json")]
)
def test_predict_wrong_input_is_one_line(error, arguments, words):
    assert words in error("predict", *arguments)


def test_predict_top_above_the_classes_has_all_of_them(exported, glora):
    document = json.loads(glora("predict", "taken", "grey.png", "--top", 9, "--json")[1])
    assert len(document["images"][0]["classes"]) == 3


@pytest.mark.parametrize("path", ["no.pth", "no.zip"])
def test_predict_wrong_backbone_names_the_option(runs, glora, error, path):
    arguments = ("export", "tiny", "--runs", runs, "--quiet", "--out", "taken", "--to", "adapter")
    assert glora(*arguments)[0] == 0
    Image.new("L", (8, 8), 200).save("grey.png")
    message = error("predict", "taken", "grey.png", "--backbone", path)
    assert path in message
    assert message.endswith("Choose another --backbone.\n")
