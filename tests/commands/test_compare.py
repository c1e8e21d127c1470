"""Random search at the same cost, uniform adapters, and how well the supernet ranks."""

import contextlib
import json
import shutil

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from glora_automl.architecture import Architecture
from glora_automl.commands import _compare, compare
from glora_automl.errors import RecipeError, StudyError
from glora_automl.pipeline._baselines import uniform_architectures
from glora_automl.pipeline._context import prepare
from glora_automl.progress import Progress
from glora_automl.study import Comparison, summarize
from glora_automl.study._comparison import kendall


@pytest.fixture(scope="module")
def compared_place(finished, finished_runs, tmp_path_factory):
    """Where a study is that was compared."""
    runs = tmp_path_factory.mktemp("compared") / "runs"
    shutil.copytree(finished_runs, runs)
    return {"runs": runs, "artifacts": str(runs / "artifacts")}


@pytest.fixture(scope="module")
def compared(compared_place):
    return compare("tiny", architectures=3, **compared_place)


def study_of(place, ending):
    storage = f"sqlite:///{place['runs']}/studies.db"
    (name,) = (n for n in optuna.get_all_study_names(storage) if ending in n)
    return optuna.load_study(study_name=name, storage=storage)


def test_the_table_has_search_random_search_and_uniform_adapters(
    compared, finished, compared_place, tiny
):
    setup = prepare(
        tiny, runs=compared_place["runs"], name="tiny", device="cpu", progress=Progress()
    )
    uniform = uniform_architectures(setup)
    searched = ["searched", "searched, inherited", "searched, retrained"]
    random = ["random search", "random search, retrained"]
    assert [row.name for row in compared.rows] == [*searched, *random, *uniform]
    assert {"linear probe", "LoRA r=1", "BitFit", "SSF-like"} <= set(uniform)
    for row in compared.rows:
        assert row.n_params <= setup.budget
        assert row.n_images == (12 + 2 * (row.name != "searched, inherited")) * 24
        assert row.test is not None
        assert row.seconds > 0
    # What the study has tested is not tested again.
    own = {row.name: row for row in finished.rows if row.n_params is not None}
    for row in compared.rows:
        assert row == own.get(row.name, row)
    rows = {row.name: row for row in compared.rows}
    best = max(rows[name].validation.accuracy for name in uniform)
    assert rows[compared.best_uniform].validation.accuracy == best


def test_the_random_search_costs_the_same(compared, finished, compared_place):
    random = study_of(compared_place, "/random-")
    assert random.metric_names == finished.study.metric_names
    trials = random.trials
    assert len(trials) == len(finished.study.trials)
    budget = finished.budget
    assert all(t.user_attrs["trainable_params"] <= budget for t in trials)
    assert len({tuple(t.params.items()) for t in trials}) == len(trials)
    # Draws like those of the first generation behind what was picked by hand, here the same ones:
    # its seed is the search's.
    assert [t.params for t in trials[2:4]] == [t.params for t in finished.study.trials[2:4]]
    assert [t.value for t in trials[2:4]] == [t.value for t in finished.study.trials[2:4]]
    (row,) = (row for row in compared.rows if row.name == "random search")
    assert row.n_params in {t.user_attrs["trainable_params"] for t in trials}


def test_inherited_scores_are_those_of_the_random_search(compared, compared_place):
    trials = study_of(compared_place, "/random-").trials
    assert [a for a, _ in compared.inherited.pairs] == [t.value for t in trials[:3]]
    standalone = study_of(compared_place, "tiny/stages").trials
    retrained = [
        t.user_attrs["outcome"]["pair"][1]
        for t in standalone
        if t.user_attrs["stage"].startswith("compare-alone")
    ]
    assert sorted(b for _, b in compared.inherited.pairs) == sorted(retrained)


def test_it_is_kept_in_the_study(compared, compared_place):
    storage = f"sqlite:///{compared_place['runs']}/studies.db"
    study = optuna.load_study(study_name="tiny", storage=storage)
    kept = summarize(study)["comparison"]
    assert Comparison.from_json(json.loads(json.dumps(kept))) == compared
    assert summarize(study)["seconds"]["comparison"] > 0


def test_more_architectures_are_added_and_nothing_is_done_twice(
    compared, compared_place, tmp_path, monkeypatch
):
    shutil.copytree(compared_place["runs"], tmp_path / "runs")
    place = {"runs": tmp_path / "runs", "artifacts": str(tmp_path / "runs/artifacts")}
    calls = []
    original = _compare.train_standalone

    def counted(run, stage, *args, **keywords):
        calls.append(stage)
        return original(run, stage, *args, **keywords)

    monkeypatch.setattr(_compare, "train_standalone", counted)
    for name in ("choose", "final_test", "run_trials", "train_baseline"):
        monkeypatch.setattr(_compare, name, lambda *_, **__: pytest.fail("it is done"))
    again = compare("tiny", architectures=4, **place)
    assert calls == ["compare-alone-4"]
    assert again.rows == compared.rows
    assert again.inherited.pairs[:3] == compared.inherited.pairs


def test_an_interrupted_comparison_goes_on(compared, finished, tmp_path, finished_runs, tiny):
    place = {"runs": tmp_path / "again", "artifacts": str(tmp_path / "again/artifacts")}
    shutil.copytree(finished_runs, place["runs"])
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        stop = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
        patch.setattr(_compare, "_train_sample", stop)
        compare("tiny", architectures=3, **place)
        pytest.fail("the interrupt did not come")
    again = compare("tiny", architectures=3, **place)

    def figures(comparison):
        return [(r.name, r.n_params, r.validation, r.test) for r in comparison.rows]

    assert figures(again) == figures(compared)
    assert again.inherited == compared.inherited


def test_no_architectures_no_correlation(compared, compared_place, tmp_path):
    shutil.copytree(compared_place["runs"], tmp_path / "runs")
    place = {"runs": tmp_path / "runs", "artifacts": str(tmp_path / "runs/artifacts")}
    assert compare("tiny", architectures=0, **place).inherited is None


@pytest.mark.parametrize("count", [-1, 1, 13])
def test_wrong_numbers_of_architectures_are_told(finished_place, count):
    with pytest.raises(RecipeError, match=f"0 or from 2 to the 12 trials .* got {count}"):
        compare("tiny", architectures=count, **finished_place)


def test_an_unknown_study_is_told(finished_place):
    with pytest.raises(StudyError, match="has no study 'other'"):
        compare("other", **finished_place)


def test_uniform_adapters_fit_and_are_all_that_fit(tiny, tmp_path):
    setup = prepare(tiny, runs=tmp_path, name="tiny", device="cpu", progress=Progress())
    found = uniform_architectures(setup)
    assert all(a.count(setup.space.shapes) <= setup.budget for a in found.values())
    ranks = sorted(int(name[7:]) for name in found if name.startswith("LoRA"))
    highest = ranks[-1]
    assert set(ranks) == {2**i for i in range(10) if 2**i <= highest} | {highest}
    above = Architecture.uniform(setup.space.shapes, B=f"lora-{highest + 1}")
    assert above.count(setup.space.shapes) > setup.budget


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=12))
def test_kendalls_tau_is_scipys_and_in_its_interval(points):
    found = kendall(points)
    assert found.pairs == tuple((float(a), float(b)) for a, b in points)
    reference = stats.kendalltau([a for a, _ in points], [b for _, b in points])
    if len({a for a, _ in points}) == 1 or len({b for _, b in points}) == 1:
        assert found.tau is found.low is found.high is found.pvalue is None
    else:
        assert found.tau == reference.statistic
        assert -1 <= found.low <= found.high <= 1
