import json

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from glora_automl.architecture import LayerShape
from glora_automl.search_space import SearchSpace, load_search_space


def test_small_mode_prints_a_table_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    module = benchmark_script("searches", "digits", "--small", "--folds=2", f"--out={out}")
    printed = capsys.readouterr().out
    runs = json.loads(out.read_text(encoding="utf-8"))["runs"]
    assert set(runs) == set(module.WAYS)
    for way, figures in runs.items():
        assert way.split(",")[0] in printed
        assert len(figures) == 2
        assert all(0 <= f["after"]["8"]["hypervolume"] <= f["after"]["8"]["best"] for f in figures)
    assert all("cross-validated" in figures for figures in runs["evolution"])


def test_it_goes_on_after_the_last_seed(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    arguments = ("searches", "digits", "--small", "--ways", "evolution", "random", f"--out={out}")
    benchmark_script(*arguments)
    first = json.loads(out.read_text(encoding="utf-8"))
    document = {**first, "runs": {way: figures[:1] for way, figures in first["runs"].items()}}
    out.write_text(json.dumps(document), encoding="utf-8")
    benchmark_script(*arguments)
    assert capsys.readouterr().err.count("seed 0, evolution") == 1
    again = json.loads(out.read_text(encoding="utf-8"))["runs"]
    for way, figures in first["runs"].items():
        assert [f["after"] for f in again[way]] == [f["after"] for f in figures]


def trial(value, count, budget=100):
    return create_trial(
        value=value,
        params={"x": f"{value} {count}"},
        distributions={"x": CategoricalDistribution([f"{value} {count}"])},
        user_attrs={"trainable_params": count},
        constraints={"trainable_params": count - budget},
    )


def test_the_hypervolume_is_the_mean_over_budgets(benchmark_script):
    module = benchmark_script("searches")
    trials = [trial(0.5, 20), trial(0.8, 60), trial(0.4, 30), trial(1.0, 101)]
    every = [max([t.value for t in trials if t.user_attrs["trainable_params"] <= b] or [0])
             for b in range(100)]  # fmt: skip
    assert module.hypervolume(trials, 100) == pytest.approx(np.mean(every))
    assert module.reached(trials) == 0.8
    assert module.reached(trials[3:]) == module.hypervolume(trials[3:], 100) == 0


def test_rejection_keeps_to_a_budget_that_random_draws_can_meet(benchmark_script):
    module = benchmark_script("searches")
    shapes = {f"blocks.{i}.fc1": LayerShape(16, 16) for i in range(4)}
    space = SearchSpace(load_search_space("default"), shapes)
    sizes, best = [], {d.name: d.choices[-1] for d in space.dimensions}

    def evaluate(params, count):
        assert count == space.count(params)
        sizes.append(count)
        return sum(params[name] == value for name, value in best.items()) - count / 1000

    budget = (space.minimum + space.maximum) // 2
    module.rejection(space, budget, evaluate, evaluations=230, rng=np.random.default_rng(0))
    assert len(sizes) == 230
    assert max(sizes) <= budget
    # One that none can meet ends, too.
    sizes.clear()
    module.rejection(space, 0, evaluate, evaluations=10, rng=np.random.default_rng(0))
    assert len(sizes) == 10
    assert min(sizes) > 0
