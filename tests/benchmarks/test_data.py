import json

import pytest


@pytest.mark.slow
def test_small_mode_prints_a_table_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    benchmark_script("data", "--small", f"--out={out}")
    rows = json.loads(out.read_text())["rows"]
    assert [row["kept"] for row in rows] == [True, False]
    assert all(row["n_images"] == 58 for row in rows)
    assert all(row["later_pass_seconds"] > 0 for row in rows)
    printed = capsys.readouterr().out
    assert "kept" in printed
    assert "streamed" in printed
