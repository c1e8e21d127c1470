import json

import pytest


@pytest.mark.slow
def test_storage_small_prints_table_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    benchmark_script("storage", "--small", f"--out={out}")
    rows = json.loads(out.read_text())["rows"]
    assert [(row["database"], row["size"], row["storage"]) for row in rows] == [
        ("sqlite", 0, "stock"),
        ("sqlite", 0, "ours"),
        ("sqlite", 20, "stock"),
        ("sqlite", 20, "ours"),
        ("journal", 0, "stock"),
        ("journal", 0, "ours"),
        ("journal", 20, "stock"),
        ("journal", 20, "ours"),
    ]
    assert all(row["median_ms"] > 0 for row in rows)
    loaded = [row["load"]["trials"] for row in rows if row["size"] == 20]
    assert loaded == [24] * 4  # 20 earlier trials, a first one and three measured ones
    printed = capsys.readouterr().out
    assert "ms per trial" in printed
    assert f"python benchmarks/storage.py --small --out={out}" in printed
