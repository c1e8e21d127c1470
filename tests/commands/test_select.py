"""Several objectives, and adapters for budgets that the search was not for."""

import contextlib

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from glora_automl.adapters import classifiers, linear_shapes
from glora_automl.architecture import Architecture
from glora_automl.commands import _select as _pick
from glora_automl.commands import pick, search
from glora_automl.errors import BudgetError, StudyError
from glora_automl.pipeline._context import prepare
from glora_automl.progress import Progress
from glora_automl.recipes import load_recipe
from glora_automl.study import Selection, summarize
from glora_automl.training import evaluate, load_checkpoint
from tests.conftest import TINY


@pytest.fixture(scope="module")
def trading(tmp_path_factory):
    """A recipe for the whole trade-off."""
    path = tmp_path_factory.mktemp("trading") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return load_recipe(str(path)).replace(
        search={
            "objectives": ["accuracy", "n_params"],
            "n_trials": 32,
            "population_size": 8,
            "n_parents": 4,
        },
        selection={"baselines": False, "finetune_epochs": 0},
    )


@pytest.fixture(scope="module")
def traded_runs(tmp_path_factory):
    return tmp_path_factory.mktemp("traded")


@pytest.fixture(scope="module")
def traded(trading, traded_runs):
    return search(trading, runs=traded_runs)


def test_a_study_of_the_trade_off_has_two_objectives(traded):
    study = traded.study
    assert study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert study.metric_names == ["validation_accuracy", "trainable_params"]
    budget = summarize(study)["budget"]
    for trial in study.trials:
        assert trial.values[0] == trial.user_attrs["validation_accuracy"]
        assert trial.values[1] == trial.user_attrs["trainable_params"] <= budget


def test_the_front_is_optunas_and_its_best_is_selected(traded):
    summary = summarize(traded.study)
    points = {(p["value"], p["n_params"]) for p in summary["front"]}
    assert points == {tuple(t.values) for t in traded.study.best_trials}
    best = max(traded.study.trials, key=lambda t: t.values[0])
    assert summary["best"]["value"] == best.values[0]
    assert traded.selection.inherited.accuracy == best.values[0]


def test_the_search_goes_for_few_parameters(traded, trading, tmp_path):
    standalone = trading.replace(search={"objectives": ["accuracy"]})
    plain = search(standalone, runs=tmp_path / "plain")

    def sizes(result):
        later = result.study.trials[8:]
        return sum(t.user_attrs["trainable_params"] for t in later) / len(later)

    assert sizes(traded) < sizes(plain)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_other_samplers_trade_off_too(trading, tmp_path, sampler):
    result = search(trading.replace(search={"sampler": sampler, "n_trials": 12}), runs=tmp_path)
    assert len(result.study.best_trials) >= 1
    assert all(len(t.values) == 2 for t in result.study.trials)


def test_an_interrupted_search_of_the_trade_off_ends_as_if_it_had_not_been(
    traded, trading, tmp_path, monkeypatch
):
    from glora_automl.pipeline import _objective as _proposals

    left, original = 20, _proposals.Scorer.score

    def interrupted(*args, **keywords):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return original(*args, **keywords)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(_proposals.Scorer, "score", interrupted)
        search(trading, runs=tmp_path / "again")
    again = search(trading, runs=tmp_path / "again")

    def done(study):
        complete = study.get_trials(states=(TrialState.COMPLETE,))
        return [(t.params, t.values) for t in complete]

    assert done(again.study) == done(traded.study)


def test_a_warm_start_takes_the_front(traded, trading, traded_runs):
    front = {p["trial"] for p in summarize(traded.study)["front"]}
    known = [traded.study.trials[number].params for number in front]
    again = search(trading, name="again", runs=traded_runs, warm_start="tiny")
    first = again.study.trials[: min(4, len(front))]
    assert all(trial.params in known for trial in first)


def test_a_pick_fits_its_budget_and_is_kept(finished, finished_place, tiny):
    front = summarize(finished.study)["front"]
    budget = front[len(front) // 2]["n_params"]
    result = pick("tiny", budget, **finished_place)
    fitting = [t for t in finished.study.trials if t.user_attrs["trainable_params"] <= budget]
    assert result.selection.inherited.accuracy == max(t.value for t in fitting)
    assert result.selection.n_params <= budget
    (row,) = result.rows
    assert row.n_params == result.selection.n_params
    setup = prepare(
        tiny, runs=finished_place["runs"], name="tiny", device="cpu", progress=Progress()
    )
    assert evaluate(result.model, *setup.test()) == row.test
    assert evaluate(result.model, *setup.validation, scale_temperature=True) == row.validation
    found = load_checkpoint(finished_place["runs"] / f"tiny/winner-{budget}.json")
    assert found is not None
    architecture = Architecture.parse(found[1]["architecture"])
    assert str(architecture) == result.selection.architecture
    head = {id(p) for m in classifiers(result.model) for p in m.parameters()}
    sizes = sum(p.numel() for p in result.model.parameters() if id(p) in head)
    assert sum(t.numel() for t in found[0].values()) == row.n_params + sizes
    assert set(architecture) <= set(linear_shapes(result.model))
    # The study itself stays as it was, and tells of the pick.
    summary = summarize(result.study)
    assert Selection.from_json(summary["selection"]) == finished.selection
    (picked,) = summary["picks"]
    assert picked["budget"] == budget
    assert picked["row"] == row.to_json()
    assert summary["seconds"]["picks"] > 0


def test_a_pick_is_made_once(finished, finished_place, monkeypatch):
    first = pick("tiny", "9%", **finished_place)
    for name in ("choose", "final_test"):
        monkeypatch.setattr(_pick, name, lambda *_, **__: pytest.fail("it is done"))
    assert pick("tiny", "9%", **finished_place).rows == first.rows


def test_budgets_that_cannot_be_picked_are_told(finished, finished_place):
    budget = finished.budget
    with pytest.raises(BudgetError, match=f"at most that of the study 'tiny', {budget}, got"):
        pick("tiny", budget + 1, **finished_place)
    with pytest.raises(BudgetError, match="must be a count"):
        pick("tiny", "few", **finished_place)
    least = min(t.user_attrs["trainable_params"] for t in finished.study.trials)
    assert least > 0
    with pytest.raises(StudyError, match=f"on the front has {least} parameters"):
        pick("tiny", least - 1, **finished_place)


def test_nothing_is_picked_from_a_study_that_is_not_finished(tiny, tmp_path, monkeypatch):
    from glora_automl.commands import _search

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(_search, "final_test", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        search(tiny, runs=tmp_path)
    with pytest.raises(StudyError, match="must be finished first: run 'glora resume tiny'"):
        pick("tiny", 100, runs=tmp_path)
