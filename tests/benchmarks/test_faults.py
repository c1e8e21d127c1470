import json

import pytest


@pytest.mark.slow
def test_faults_small_finishes_the_study_after_faults_of_workers_and_storage(
    benchmark_script, tmp_path, capfd
):
    out = tmp_path / "faults.json"
    benchmark_script("faults", "--small", f"--out={out}")
    document = json.loads(out.read_text(encoding="utf-8"))
    counts = document["storages"]["sqlite"]
    assert counts["wrong"] == []
    assert counts["faults"]["kill"] == 8
    assert counts["faults"]["restore"] == counts["faults"]["delete"] == 1
    assert sum(counts["faults"].values()) == 17
    assert document["faults"] == 17 - counts["faults"].get("creator: none", 0)
    assert counts["complete"] == counts["positions"] == counts["target"]
    assert counts["stages"]["test"] == 1
    assert "3 workers on sqlite" in capfd.readouterr().out


def test_faults_find_errors_returns_each_error(benchmark_script):
    faults = benchmark_script("faults")
    counts = {
        "target": 5,
        "complete": 5,
        "positions": 5,
        "positions beyond the target": 0,
        "unfinished": 0,
        "result is that of the only test": True,
        "stages": dict.fromkeys(faults.STAGES, 1),
    }
    assert faults.find_errors(counts) == []
    for change in (
        {"complete": 6},
        {"positions": 4},
        {"positions beyond the target": 1},
        {"unfinished": 1},
        {"result is that of the only test": False},
        {"stages": {**counts["stages"], "test": 2}},
        {"stages": {k: v for k, v in counts["stages"].items() if k != "selection"}},
    ):
        assert len(faults.find_errors({**counts, **change})) == 1
