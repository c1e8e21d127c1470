import json

import pytest


def test_small_mode_prints_tables_and_writes_json(benchmark_script, tmp_path, capsys):
    out, runs = tmp_path / "out.json", tmp_path / "runs"
    arguments = (
        "digits",
        "--small",
        "--budgets",
        "50%",
        f"--runs={runs}",
        f"--out={out}",
    )
    module = benchmark_script("quality", *arguments)
    printed = capsys.readouterr().out
    document = json.loads(out.read_text(encoding="utf-8"))
    assert len(document["pairs"]) == 1
    assert len({(p["seed"], p["budget"]) for p in document["pairs"]}) == 1
    figures = document["figures"]
    for name in ("searched", "searched, retrained", "random search", "BitFit", "linear probe"):
        assert name in figures["methods"]
        assert name in printed
    for pair in document["pairs"]:
        rows = module.methods(pair)
        picked = rows[module.HAND_PICKED]
        others = ("searched", "random search", module.LONGER)
        uniform = [row for name, row in rows.items() if not name.startswith(others)]
        assert picked.validation.accuracy == max(row.validation.accuracy for row in uniform)
        assert rows["linear probe"].n_images == 2 * pair["training"]
    searched = figures["methods"]["searched"]
    # Supernet 4 of 6 epochs, two candidates for half of them and one at two rates, and so three
    # controls.
    assert searched["trainings"] == pytest.approx(4 / 6 + 2 * 3 / 6 + 2 + 3 * 2)
    assert figures["methods"]["linear probe"]["of"] == 1
    # As much at two rates, in whole epochs.
    longer = figures["methods"][module.LONGER]["trainings"]
    assert longer == pytest.approx(searched["trainings"], abs=2 * 1 / 6)
    # Again it has nothing to do but to read: the studies, or its own figures.
    out.rename(tmp_path / "figures.json")
    benchmark_script("quality", *arguments)
    again = capsys.readouterr()
    assert again.out == printed
    assert "epochs" not in again.err
    assert json.loads(out.read_text(encoding="utf-8"))["pairs"] == document["pairs"]
    elsewhere = [a for a in arguments if not a.startswith("--runs")] + [f"--runs={tmp_path / 'no'}"]
    benchmark_script("quality", *elsewhere)
    assert capsys.readouterr().out == printed
    assert not (tmp_path / "no").exists()

    quick = tmp_path / "quick.json"
    benchmark_script("quality", *arguments[:-1], f"--out={quick}", "--quick")
    (pair,) = json.loads(quick.read_text(encoding="utf-8"))["pairs"]
    rows = pair["comparison"]["rows"]
    whole = document["pairs"][0]["comparison"]["rows"]
    searched, aside, probe, *_ = rows
    names = ["searched", module.CONTROLS_ASIDE, "linear probe"]
    assert [row["name"] for row in rows][:3] == names
    assert all(row in whole for row in (searched, probe))
    assert aside["n_images"] == searched["n_images"] - 6 * pair["training"]


def test_unknown_tasks_are_refused(benchmark_script, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark_script("quality", "digits", "--small", "--tasks", "other")
    assert stopped.value.code == 2
    assert "--tasks must name tasks" in capsys.readouterr().err
