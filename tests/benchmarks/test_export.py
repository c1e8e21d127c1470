import json

import pytest


def test_main_with_small_prints_tables_and_writes_json(benchmark_script, tmp_path, capsys):
    pytest.importorskip("peft", reason="needs peft")
    out = tmp_path / "out.json"
    module = benchmark_script("export", "--small", f"--out={out}")
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["model"] for row in rows] == list(module.SMALL)
    for row in rows:
        size = row["bytes"]
        assert size["lower_bound"] < size["adapter"] < size["peft"]
        assert size["adapter"] < size["full"]
        assert row["equal_work"]
        assert row["multiply_adds"] > row["n_params"] > 0
        assert all(ms > 0 for ms in row["median_cpu_ms"].values())
    printed = capsys.readouterr().out
    assert "merged / backbone" in printed
    assert f"{rows[0]['bytes']['adapter']:,}" in printed


def test_median_ratio_lies_in_its_interval(benchmark_script):
    module = benchmark_script("export")
    assert module.median_ratio([2.0] * 5, [1.0] * 5) == [2.0, 2.0, 2.0]
    middle, low, high = module.median_ratio([1.0, 1.1, 0.9, 1.2, 5.0], [1.0] * 5)
    assert middle == pytest.approx(1.1)
    assert low <= middle <= high
