import json


def test_workers_small_prints_a_table_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "workers.json"
    benchmark_script("workers", "--small", f"--out={out}")
    assert "of linear scaling" in capsys.readouterr().out
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(row["database"], row["n_workers"]) for row in rows] == [("sqlite", 1), ("sqlite", 2)]
    for row in rows:
        (run,) = row["runs"]
        assert sum(run["n_trials_per_worker"]) == run["n_trials"] == 4 * row["n_workers"]
