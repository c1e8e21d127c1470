import json
from pathlib import Path

import pytest


def test_select_smaller_budget_is_printed_and_shown(runs, glora):
    code, out, err = glora("select", "tiny", "--budget", "15%", "--runs", runs)
    assert code == 0, err
    assert "searched" in out
    (winner,) = (line for line in out.splitlines() if line.startswith("Winner: "))
    assert Path(winner.removeprefix("Winner: ")).is_file()
    arguments = ("select", "tiny", "--budget", "15%", "--runs", runs)
    document = json.loads(glora(*arguments, "--json")[1])
    assert document["row"]["n_params"] == document["selection"]["n_params"] <= document["budget"]
    assert f"winner-{document['budget']}.json" in winner
    shown = glora("show", "tiny", "--runs", runs)[1]
    assert f"under a budget of {document['budget']:,} trainable" in shown


def test_select_margin_is_printed_and_shown(runs, glora):
    arguments = ("select", "tiny", "--margin", 20, "--runs", runs)
    code, out, err = glora(*arguments)
    assert code == 0, err
    assert "margin 20 points of accuracy" in out
    document = json.loads(glora(*arguments, "--json")[1])
    (winner,) = (line for line in out.splitlines() if line.startswith("Winner: "))
    assert f"winner-{document['budget']}.json" in winner
    chosen = f"at most {document['budget']:,} (smallest)"
    assert chosen in out
    assert chosen in glora("show", "tiny", "--runs", runs)[1]
    shown = json.loads(glora("show", "tiny", "--runs", runs, "--json")[1])
    assert shown["ladder"] == document["ladder"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--budget", "1%", "--margin", 1), "Leave out --budget, --margin or --architecture"),
        (("--margin", 0), "margin must be above 0"),
    ],
)
def test_select_wrong_margin_is_one_line(runs, error, options, words):
    assert words in error("select", "tiny", *options, "--runs", runs)


@pytest.mark.parametrize(
    ("name", "budget", "words"),
    [
        ("tiny", "90%", "that of the study 'tiny'"),
        ("tiny", "some", "budget must be"),
        ("other", "1%", "got 'other'"),
    ],
)
def test_select_wrong_input_is_one_line(runs, error, name, budget, words):
    assert words in error("select", name, "--budget", budget, "--runs", runs)
