import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "controls.py"


@pytest.fixture
def controls():
    spec = importlib.util.spec_from_file_location("controls", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_small_mode_prints_a_table_and_writes_json(controls, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    runs = tmp_path / "runs"
    monkeypatch.setattr(
        sys, "argv", ["controls.py", "digits", "--small", f"--runs={runs}", f"--out={out}"]
    )
    controls.main()
    printed = capsys.readouterr().out
    document = json.loads(out.read_text())
    arms = {entry["arm"]: entry for entry in document["arms"]}
    assert set(arms) == {
        "searched",
        "linear probe",
        "LoRA, highest uniform rank",
        "BitFit",
    }
    for name, entry in arms.items():
        assert name in printed
        assert entry["seeds"] == 2


def test_differences_are_paired_by_seed(controls):
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

    table = controls.compare([summary(0.6, 0.5), summary(0.8, 0.7), summary(0.7, 0.6)])
    (probe,) = (entry for entry in table if entry["arm"] == "linear probe")
    assert probe["searched_minus_arm"] == pytest.approx(0.1)
    assert probe["searched_minus_arm_interval"] == pytest.approx(0, abs=1e-12)
    assert probe["wins"] == 3
