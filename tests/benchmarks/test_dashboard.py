import json


def test_small_mode_prints_a_table_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    benchmark_script("dashboard", "--small", f"--out={out}")
    stock, ours = json.loads(out.read_text())["rows"]
    assert (stock["server"], stock["parameters"]) == ("optuna-dashboard", 32)
    assert (ours["server"], ours["parameters"]) == ("glora dashboard", 2)
    assert 0 < ours["page_bytes"] < stock["page_bytes"] / 5
    assert all(row[key] > 0 for row in (stock, ours) for key in ("first_s", "poll_s"))
    printed = capsys.readouterr().out
    assert "importance s" in printed
    assert f"python benchmarks/dashboard.py --small --out={out}" in printed
