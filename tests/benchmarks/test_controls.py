import json

import pytest


def test_small_mode_prints_a_table_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    benchmark_script("controls", "digits", "--small", f"--runs={tmp_path}", f"--out={out}")
    printed = capsys.readouterr().out
    arms = {entry["arm"]: entry for entry in json.loads(out.read_text())["arms"]}
    assert set(arms) == {
        "searched",
        "linear probe",
        "LoRA, highest uniform rank",
        "BitFit",
    }
    for name, entry in arms.items():
        assert name in printed
        assert entry["seeds"] == 2


def test_differences_are_paired_by_seed(benchmark_script):
    def summary(searched, probe):
        return {
            "result": [
                {
                    "name": name,
                    "parameters": 1,
                    "images": 1,
                    "seconds": 1.0,
                    "validation": {"accuracy": 0.5},
                    "test": {"accuracy": accuracy},
                }
                for name, accuracy in (("searched", searched), ("linear probe", probe))
            ]
        }

    compare = benchmark_script("controls").compare
    table = compare([summary(0.6, 0.5), summary(0.8, 0.7), summary(0.7, 0.6)])
    (probe,) = (entry for entry in table if entry["arm"] == "linear probe")
    assert probe["searched_minus_arm"] == pytest.approx(0.1)
    assert probe["searched_minus_arm_interval"] == pytest.approx(0, abs=1e-12)
    assert probe["wins"] == 3
