import json

import numpy as np
import pytest

from glora_automl.architecture import LayerShape
from glora_automl.search_space import SearchSpace, load_search_space


@pytest.mark.slow
def test_small_mode_prints_tables_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    module = benchmark_script("searches", "digits", "--small", f"--out={out}")
    printed = capsys.readouterr().out
    runs = json.loads(out.read_text(encoding="utf-8"))["runs"]
    assert set(runs) == set(module.WAYS)
    for way, figures in runs.items():
        assert way in printed
        assert len(figures) == 2
        for found in figures:
            assert 0 <= found["after"]["8"]["hypervolume"] <= 1
            if way != "rejection":
                assert found["infeasible"] == 0
                assert found["selected"]["n_params"] > 0
    # All 8 trials are first proposals, whatever the sampler.
    after = {way: [f["after"] for f in figures] for way, figures in runs.items()}
    assert after["tpe, first proposals"] == after["nsga2, first proposals"] != after["tpe"]


def test_searches_continue_after_the_last_seed(benchmark_script, tmp_path, capsys):
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
        assert [f["selected"] for f in again[way]] == [f["selected"] for f in figures]


def test_hypervolume_is_the_mean_over_budgets(benchmark_script):
    module = benchmark_script("searches")
    figures = [(20, 0.5), (60, 0.8), (30, 0.4), (101, 1.0)]
    found = [module.Evaluated({}, size, accuracy, 2 - accuracy) for size, accuracy in figures]
    best = [max([a for size, a in figures if size <= b] or [0]) for b in range(100)]
    assert module.hypervolume(found, 100) == pytest.approx(np.mean(best))
    assert module.best_value(found, 100, "accuracy") == 0.8
    assert module.best_value(found, 100, "loss") == pytest.approx(1.2)
    assert module.hypervolume(found[3:], 100) == 0
    assert module.best_value(found[3:], 100, "loss") is None


def test_rejection_keeps_to_budget_and_allowed_choices(benchmark_script):
    module = benchmark_script("searches")
    shapes = {f"blocks.{i}.fc1": LayerShape(16, 16) for i in range(4)}
    space = SearchSpace(load_search_space("default"), shapes)
    allowed = {d.name: d.choices[:1] + d.choices[2:] for d in space.dimensions}
    sizes, best = [], {d.name: d.choices[-1] for d in space.dimensions}

    def evaluate(params, count):
        assert count == space.count(params)
        assert all(choice in allowed[name] for name, choice in params.items())
        sizes.append(count)
        return sum(params[name] == value for name, value in best.items()) - count / 1000

    def search(budget, evaluations):
        sizes.clear()
        rng = np.random.default_rng(0)
        module.rejection(space, budget, evaluate, evaluations=evaluations, rng=rng, allowed=allowed)
        assert len(sizes) == evaluations

    budget = (space.minimum + space.maximum) // 2
    search(budget, 230)
    assert max(sizes) <= budget
    # A budget that no draw meets ends, too.
    search(0, 10)
    assert min(sizes) > 0
