import json


def test_small_mode_measures_each_method_and_continues(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ["digits", "--small", "--budget=50%", "--costs", "3", f"--runs={tmp_path / 'runs'}"]
    chosen = ["--methods", "LoRA 3x", "TPE over LoRA 3x", "searched 3x"]
    benchmark_script("rivals", *arguments, *chosen[:2], f"--out={out}")
    first = json.loads(out.read_text(encoding="utf-8"))["pairs"]
    assert [pair["method"] for pair in first] == ["LoRA 3x"]
    benchmark_script("rivals", *arguments, *chosen, f"--out={out}")
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["pairs"][0] == first[0]
    assert document["command"].startswith("python ")
    assert str(tmp_path) not in document["command"]
    figures = document["figures"]
    assert set(figures) == set(chosen[1:])
    assert figures["searched 3x"]["difference"] == 0
    for name in ("LoRA 3x", "TPE over LoRA 3x"):
        minus = figures["searched 3x"]["test"] - figures[name]["test"]
        assert abs(figures[name]["difference"] - minus) < 1e-9
        # Whole epochs of 250 images, in units of four epochs of 100.
        assert abs(figures[name]["cost"] - 3) <= 250 / 2 / 400 + 1e-9
    assert "searched 3x" in capsys.readouterr().out


def test_a_method_is_compared_with_the_search_of_its_cost(benchmark_script):
    tests = {
        "LoRA 1x": 0.5,
        "searched 1x": 0.6,
        "LoRA 3x": 0.6,
        "searched 3x": 0.9,
        "PEFT EVA": 0.4,
    }
    pairs = [
        {"task": "t", "seed": 0, "method": name, "test": test, "cost": 1.0, "n_params": 1}
        for name, test in tests.items()
    ]
    figures = benchmark_script("rivals").summarize(pairs)
    found = {name: round(entry["difference"], 6) for name, entry in figures.items()}
    ahead = {"LoRA 1x": 0.1, "LoRA 3x": 0.3, "PEFT EVA": 0.2}
    assert found == {**ahead, "searched 1x": 0.0, "searched 3x": 0.0}
