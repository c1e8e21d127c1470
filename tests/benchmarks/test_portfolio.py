import json
import tomllib

import numpy as np

from glora_automl.recipes import load_recipe, nested


def test_small_mode_writes_figures_and_portfolio(benchmark_script, tmp_path, capsys):
    out, portfolio = tmp_path / "out.json", tmp_path / "portfolio.toml"
    arguments = ["digits", "--small", f"--out={out}", f"--runs={tmp_path / 'runs'}"]
    benchmark_script("portfolio", *arguments, f"--write={portfolio}")
    document = json.loads(out.read_text(encoding="utf-8"))
    names = document["figures"]["portfolio"]
    assert names[0] == "the recipe itself"
    assert document["figures"]["tasks"]["digits"]["the recipe itself"] == 0
    lists = [row["same tasks"] for row in document["figures"]["lists"].values()]
    assert lists[0] == document["figures"]["base"]["digits"]
    written = tomllib.loads(portfolio.read_text(encoding="utf-8"))["settings"]
    assert written == [document["candidates"][name] for name in names[1:]]
    assert "Effect of each candidate" in capsys.readouterr().out


def test_greedy_takes_what_helps_after_choice_by_validation(benchmark_script):
    script = benchmark_script("portfolio")
    losses = np.array([[1.0, 0.5, 0.1, 0.9], [1.0, 0.9, 0.8, 0.5]])
    tests = np.array([[0.5, 0.9, 0.1, 0.5], [0.5, 0.5, 0.1, 0.8]])
    # The third misleads validation: its losses are the lowest, its accuracies the worst.
    assert script.greedy(losses, tests, 3) == [0, 1, 3]
    assert script.value([0, 1, 3], losses, tests) == (0.9 + 0.8) / 2


def test_every_candidate_fits_a_recipe(benchmark_script):
    recipe = load_recipe("digits")
    for settings in benchmark_script("portfolio").CANDIDATES.values():
        assert recipe.replace(**nested(settings)) is not None
