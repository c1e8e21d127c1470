import json
import math
import sys

import numpy as np
import pytest
from scipy import stats


def test_an_interval_is_that_of_students_t(benchmark_script):
    interval = benchmark_script("_document").interval
    values = [0.5, 0.7, 0.8, 0.6]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx((high - low) / 2)
    assert interval(np.array(values)) == interval(values)
    assert math.isnan(interval([0.5]))


def test_a_document_is_json_with_a_command_to_type_again(benchmark_script, monkeypatch, tmp_path):
    module = benchmark_script("_document")
    monkeypatch.setattr(sys, "argv", ["benchmarks/x.py", "--out", "a b.json"])
    document = {"command": module.command_line(), "machine": module.MACHINE}
    module.write_document(tmp_path / "x.json", document)
    assert json.loads((tmp_path / "x.json").read_text()) == document
    assert document["command"] == "python benchmarks/x.py --out 'a b.json'"
