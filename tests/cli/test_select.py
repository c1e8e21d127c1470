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
