import json

from tests.cli.conftest import FAST, sets


def test_suite_prints_and_saves_the_table(folder, glora):
    text = 'recipe = "tiny.toml"\n[[tasks]]\nname = "a"\n[[tasks]]\nname = "b"\n'
    (folder / "two.toml").write_text(text + "set = { seed = 5 }\n", encoding="utf-8")
    options = sets(**{"selection.baselines": "false"})
    code, out, err = glora("suite", "two.toml", *FAST, *options)
    assert code == 0, err
    assert "Study two-b-seed5" in err
    assert "searched" in out
    assert "Table: runs/suite-two.md\n" in out
    assert (folder / "runs/suite-two.md").is_file()
    document = json.loads((folder / "runs/suite-two.json").read_text(encoding="utf-8"))
    assert document == json.loads(glora("suite", "two.toml", *FAST, *options, "--json")[1])


def test_suite_n_seeds_are_studies_of_their_own(folder, glora):
    (folder / "one.toml").write_text('recipe = "tiny.toml"\n[[tasks]]\nname = "a"\n')
    options = sets(**{"selection.baselines": "false", "training.epochs": 2})
    code, _, err = glora("suite", "one.toml", *FAST, *options, "--n-seeds", 2, "--quiet")
    assert code == 0, err
    studies = json.loads(glora("status", "--json")[1])
    assert [study["study"] for study in studies] == ["one-a-seed0", "one-a-seed1"]


def test_suite_unknown_name_is_one_line(folder, error):
    assert "dg, fewshot, vtab1k" in error("suite", "nothing")
