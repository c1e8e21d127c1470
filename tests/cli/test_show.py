import json

from tests.cli.conftest import FAST, sets


def test_show_prints_progress_architecture_result_and_cost(runs, glora):
    code, out, _ = glora("show", "tiny", "--runs", runs)
    assert code == 0
    for words in ("blocks.0.attn.qkv:", "12 of 12 complete", "linear probe", "Pareto front"):
        assert words in out
    assert "Worker " in out
    assert "Cost" in out


def test_show_two_objectives_prints_the_pareto_front(folder, glora):
    options = sets(**{"search.objectives": '["accuracy", "n_params"]'})
    assert glora("search", "tiny.toml", *FAST, *options, "--quiet")[0] == 0
    document = json.loads(glora("show", "tiny", "--json")[1])
    shown = glora("show", "tiny")[1]
    assert "Pareto front" in shown
    assert document["front"]
    assert all(f"{point['n_params']:,}" in shown for point in document["front"])


def test_show_unknown_study_names_the_known(runs, error):
    assert "tiny" in error("show", "tony", "--runs", runs)
