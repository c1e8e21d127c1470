import json
import random

import pytest


def test_bad_inputs_small_finds_no_fault_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    module = benchmark_script("bad_inputs", "--small", f"--out={out}")
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["faults"] == []
    for row in found["rows"]:
        assert row["refused"] > 0, row
        assert sum(row[kind] for kind in module.OUTCOMES) == row["inputs"] == 20
    assert "traceback" in capsys.readouterr().out


def test_outcome_tells_refusals_from_faults(benchmark_script, monkeypatch):
    module = benchmark_script("bad_inputs")
    monkeypatch.setattr(module, "SECONDS", 0.05)

    def refuse():
        raise module.GLoRAError("no")

    def fail():
        raise KeyError("no")

    def hang():
        while True:
            pass

    for call, must_refuse, expected in (
        (lambda: 1, False, "accepted"),
        (lambda: 1, True, "accepted wrongly"),
        (refuse, True, "refused"),
        (fail, True, "traceback"),
        (hang, False, "hang"),
    ):
        assert module.outcome(call, must_refuse)[0] == expected


@pytest.mark.parametrize("seed", range(5))
def test_junk_of_a_seed_is_the_same(benchmark_script, seed):
    junk = benchmark_script("_junk")
    original = {"a": [1, {"b": "text"}], "c": 2.5}
    first, second = (junk.document(random.Random(seed), original) for _ in range(2))
    assert repr(first) == repr(second)
    assert original == {"a": [1, {"b": "text"}], "c": 2.5}
    damaged = junk.damaged(random.Random(seed), b"content of a file")
    assert damaged == junk.damaged(random.Random(seed), b"content of a file")
