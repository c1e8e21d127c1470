import itertools
import json

import numpy as np
import pytest


def test_samplers_small_prints_table_and_writes_json(benchmark_script, tmp_path, capsys):
    out = tmp_path / "out.json"
    module = benchmark_script("samplers", "--small", f"--out={out}")
    printed = capsys.readouterr().out
    document = json.loads(out.read_text())
    names = {*module.SAMPLERS, "rejection"}
    assert {entry["sampler"] for entry in document["scores"]} == names
    assert all(name in printed for name in names)
    for entry in document["scores"]:
        assert entry["seeds"] == 2
        assert 0 <= entry["60"]["mean"] <= 1
    regional = [e for e in document["scores"] if e["sampler"].startswith("EvolutionSampler")]
    assert {entry["feasible"] for entry in regional} == {1}


@pytest.mark.parametrize("seed", range(3))
def test_problem_bound_is_close_to_reached_value(benchmark_script, seed):
    problem = benchmark_script("samplers").Problem(seed, budget=30_000, blocks=1)
    rng = np.random.default_rng(seed)
    values = [problem.value(problem.region.draw(rng)) for _ in range(200)]
    assert max(values) <= problem.reached <= problem.optimum
    # Steps of one layer are large here; with 48 layers the two are much closer.
    assert problem.reached > 0.8 * problem.optimum


def test_problem_bound_holds_for_all_architectures(benchmark_script):
    problem = benchmark_script("samplers").Problem(0, budget=30_000, blocks=1)
    dimensions = problem.space.dimensions
    rest = {d.name: d.choices[0] for d in dimensions}
    best = 0.0
    for choices in itertools.product(*(d.choices for d in dimensions[:5])):
        params = rest | dict(zip([d.name for d in dimensions[:5]], choices, strict=True))
        if problem.space.count(params) <= problem.budget:
            best = max(best, problem.value(params))
        price = 1e-5
        net = problem.value(params) - price * problem.space.count(params)
        assert net <= problem.priced(price)[0] + 1e-9
    assert 0 < best <= problem.optimum


def test_score_of_two_points_is_their_hypervolume(benchmark_script):
    module = benchmark_script("samplers")
    problem = module.Problem(0, budget=30_000, blocks=1)
    half = problem.optimum / 2
    one = module.score([(half, 0)], problem, 2)
    assert one == pytest.approx(0.5 / problem.area())
    two = module.score([(half, 0), (2 * half, 15_000), (half / 2, 9), (9.0, 30_001)], problem, 2)
    assert two == pytest.approx(0.75 / problem.area())
    assert module.score([(9.0, 30_001)], problem, 1) == 0
