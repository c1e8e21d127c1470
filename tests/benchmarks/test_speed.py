import json

import pytest


@pytest.mark.parametrize(
    ("name", "base", "others"),
    [
        ("evaluation", "plain", {"merged", "merged, bfloat16", "unmerged", "reference"}),
        (
            "training",
            "limit",
            {"supernet", "supernet, grad_checkpointing", "reference", "LoRA r=8"},
        ),
    ],
)
def test_speed_benchmark_in_small_mode_prints_a_table_and_writes_json(
    benchmark_script, tmp_path, capsys, name, base, others
):
    out = tmp_path / "out.json"
    benchmark_script(name, "--small", f"--out={out}")
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["command"].startswith(f"python benchmarks/{name}.py --small")
    figures = document["figures"]["test"]
    assert {base, *others} <= figures.keys()
    assert figures[base]["ratio"] == 1
    for figure in figures.values():
        assert figure["ratio"] > 0
        assert len(figure["seconds"]) == 2
    assert "images/s" in capsys.readouterr().out


def test_end_to_end_in_small_mode_splits_the_time_of_a_search(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    benchmark_script("end_to_end", "--small", f"--out={out}")
    figures = json.loads(out.read_text(encoding="utf-8"))["figures"]["test"]
    assert 0 < figures["evaluation_fraction"] <= 1
    assert figures["ms_per_evaluation"] <= figures["ms_per_trial"]
    assert {"supernet", "search"} <= figures["stages"].keys()
    assert "ms per trial" in capsys.readouterr().out
