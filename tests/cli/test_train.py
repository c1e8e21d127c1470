import json

import pytest


def test_train_architecture_of_another_study_becomes_a_study(runs, folder, glora):
    text = glora("architecture", "tiny", "--runs", runs)[1]
    document = json.loads(glora("architecture", "tiny", "--runs", runs, "--json")[1])
    (folder / "best of.txt").write_text(text, encoding="utf-8")
    options = ("--architecture", "best of.txt", "--quiet", "--seed", 1)
    code, out, err = glora("train", "tiny.toml", *options)
    assert (code, err) == (0, "")
    assert "Winner: runs/tiny-best-of/winner.json" in out
    assert glora("architecture", "tiny-best-of")[1] == text
    kept = json.loads(glora("show", "tiny-best-of", "--json")[1])
    (row,) = kept["result"]
    assert row["n_params"] == document["n_params"]
    assert f"│ {row['name']} " in out
    code, again, _ = glora("train", "tiny.toml", *options, "--json")
    assert json.loads(again) == kept


def test_train_preset_names_the_study(folder, glora):
    code, out, _ = glora("train", "tiny.toml", "--architecture", "probe", "--quiet", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["study"] == "tiny-probe"
    assert [row["n_params"] for row in document["result"]] == [0]


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("lora-64", ["1494", "--budget"]),
        ("nowhere", ["'nowhere'", "No such file"]),
        ("tiny.toml", ["architecture file 'tiny.toml'"]),
        ("other.txt", ["blocks.7.fc", "blocks.0.attn"]),
    ],
)
def test_train_wrong_architecture_is_one_line_and_leaves_no_file(
    folder, error, architecture, words
):
    (folder / "other.txt").write_text("blocks.7.fc: E=vector", encoding="utf-8")
    before = sorted(folder.rglob("*"))
    message = error("train", "tiny.toml", "--architecture", architecture)
    for word in words:
        assert word in message
    assert sorted(folder.rglob("*")) == before
