import json
import re

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from scipy.stats import binomtest

from glora_automl.architecture import TENSORS
from glora_automl.report import PICTURES, Snapshot, front_table, pictures, to_figure
from glora_automl.report._architecture import N_RANDOM
from glora_automl.report._importance import importances
from glora_automl.report._matplotlib import save_png
from glora_automl.report._picture import Axis, Band, Bars, Grid, Line, Picture, Points
from glora_automl.report._progress import MAX_POINTS
from glora_automl.study import set_attribute, summarize
from tests.report.studies import add_stage, add_trials, begin_study, finish, made_space, made_study


def find_mark(picture, kind, name=None):
    (found,) = (
        m for m in picture.marks if isinstance(m, kind) and name in (None, getattr(m, "name", None))
    )
    return found


@pytest.fixture(scope="module")
def finished():
    """A finished study with data for every picture."""
    study, space = made_study(trials=40)
    add_trials(study, space, 3, over=7)
    add_stage(study, "supernet", 12.5, n_trained=600)
    add_stage(study, "baseline-BitFit", 2.0, worker="host-1", n_trained=300)
    add_stage(study, "baseline-LoRA-r2", 3.0, worker="host-1", n_trained=300)
    set_attribute(study, "supernet", {"digest": "x", "losses": [1.5, 0.9, 0.5]})
    finish(study, space)
    return study, space


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_architecture_picture_shows_the_best_trial(seed):
    study = begin_study(optuna.storages.InMemoryStorage())
    space = made_space()
    add_trials(study, space, 3, seed=seed)
    best = study.best_trial
    architecture = space.architecture(best.params)
    picture = PICTURES["architecture"](Snapshot.of(study))
    grid = find_mark(picture, Grid)
    assert list(grid.rows) == list(space.shapes)
    assert tuple(grid.columns) == TENSORS
    for layer, values, texts in zip(grid.rows, grid.values, grid.texts, strict=True):
        for tensor, value, text in zip(TENSORS, values, texts, strict=True):
            choice = getattr(architecture[layer], tensor)
            assert value == choice.count(tensor, space.shapes[layer])
            assert text == ("" if choice.kind == "none" else str(choice))
    assert sum(map(sum, grid.values)) == best.user_attrs["trainable_params"]
    assert f"{best.user_attrs['trainable_params']:,}" in picture.title
    assert f"trial {best.number}" in picture.title


def test_architecture_picture_after_the_selection_shows_the_selected_architecture(finished):
    study, space = finished
    other = study.trials[0]
    selection = study.user_attrs["glora:selection"]
    text = str(space.architecture(other.params))
    study.set_user_attr("glora:selection", {**selection, "trial": 0, "architecture": text})
    try:
        picture = PICTURES["architecture"](Snapshot.of(study))
        assert "trial 0 (selected)" in picture.title
        total = sum(map(sum, find_mark(picture, Grid).values))
        assert total == other.user_attrs["trainable_params"]
    finally:
        study.set_user_attr("glora:selection", selection)


def test_survival_picture_counts_choices_of_the_best_and_of_random_architectures(finished):
    study, space = finished
    picture = PICTURES["survival"](Snapshot.of(study))
    best, random = find_mark(picture, Bars, "best 3"), find_mark(picture, Bars, "random")
    parents = sorted(study.trials[:40], key=lambda t: -t.value)[:3]
    for label, frequency in zip(best.labels, best.values, strict=True):
        tensor, choice = label.split(" = ")
        names = [f"{layer}.{tensor}" for layer in space.shapes]
        hits = [trial.params[name] == choice for trial in parents for name in names]
        assert frequency == pytest.approx(np.mean(hits))
    assert best.labels == random.labels
    for bars in (best, random):
        for tensor in TENSORS:
            frequencies = [
                v for n, v in zip(bars.labels, bars.values, strict=True) if n[0] == tensor
            ]
            assert sum(frequencies) == pytest.approx(1)
    assert f"in {N_RANDOM} random ones" in picture.caption


def test_front_picture_shows_the_pareto_front_of_feasible_trials(finished):
    study, _ = finished
    picture = PICTURES["front"](Snapshot.of(study))
    front = find_mark(picture, Line, "Pareto front")
    budget = study.user_attrs["glora:settings"]["budget"]
    points = [
        (t.user_attrs["trainable_params"], t.user_attrs["validation_accuracy"])
        for t in study.trials[:40]
    ]
    expected = sorted(
        p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points)
    )
    assert list(zip(front.x, front.y, strict=True)) == expected
    assert len(find_mark(picture, Points, "trials").x) == 40
    assert find_mark(picture, Points, "over the budget").texts == [
        "trial 40",
        "trial 41",
        "trial 42",
    ]
    line = find_mark(picture, Line, f"budget, {budget:,}")
    assert list(line.x) == [budget, budget]
    # Trained weights are not on the axis of inherited ones.
    assert {mark.name for mark in picture.marks} == {
        "trials",
        "over the budget",
        f"budget, {budget:,}",
        "Pareto front",
    }
    adapters = PICTURES["adapters"](Snapshot.of(study))
    assert [mark.name for mark in adapters.marks] == ["searched", "LoRA r=2"]
    assert not any(mark.texts for mark in adapters.marks)  # the legend names them


def test_pictures_of_a_loss_study_show_the_loss(tmp_path):
    space = made_space()
    study = begin_study(optuna.storages.InMemoryStorage(), objectives=["loss", "n_params"])
    for trial in add_trials(made_study(trials=0)[0], space, 20):
        # Another order than that of the accuracies.
        loss, count = (trial.number * 7) % 20 / 10, trial.user_attrs["trainable_params"]
        study.add_trial(
            create_trial(
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={**trial.user_attrs, "validation_loss": loss},
                constraints=trial.constraints,
                values=[loss, count],
            )
        )
    finish(study, space)
    snapshot = Snapshot.of(study)
    made = {picture.name: picture for picture in pictures(snapshot)}
    front = find_mark(made["front"], Line, "Pareto front")
    expected = summarize(study)["front"]
    assert list(zip(front.x, front.y, strict=True)) == [
        (p["n_params"], p["value"]) for p in expected
    ]
    assert [list(mark.y) for mark in made["adapters"].marks] == [[0.5], [0.5]]
    assert made["front"].title == "Validation loss against trainable parameters"
    for name in ("front", "history", "generations"):
        assert made[name].y == Axis("validation loss")
    assert not [m for m in made["history"].marks if isinstance(m, Band)]
    assert made["history"].title == "Best validation loss so far"
    columns, lines = front_table(snapshot)
    assert columns == ("trial", "parameters", "validation loss")
    assert [line[2] for line in lines] == [f"{p['value']:.4g}" for p in expected[::-1]]


def test_history_picture_shows_the_best_value_so_far(finished):
    study, _ = finished
    picture = PICTURES["history"](Snapshot.of(study))
    line = find_mark(picture, Line)
    values = [trial.value for trial in study.trials[:40]]
    for number in range(40):
        drawn = [y for x, y in zip(line.x, line.y, strict=True) if x <= number][-1]
        assert drawn == max(values[: number + 1])
    assert picture.y == Axis("validation accuracy in %", percent=True)


def test_history_picture_has_the_interval_of_the_best_accuracy(finished, tmp_path):
    study, _ = finished
    picture = PICTURES["history"](Snapshot.of(study))
    line, band = find_mark(picture, Line), find_mark(picture, Band)
    assert "95% interval" in picture.title
    assert band.x == line.x
    for best, low, high in zip(line.y, band.low, band.high, strict=True):
        interval = binomtest(round(best * 150), 150).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert {t["line"]["shape"] for t in to_figure(picture).to_dict()["data"][:2]} == {"hv"}


def test_history_picture_without_image_counts_has_no_interval():
    study, space = begin_study(optuna.storages.InMemoryStorage()), made_space()
    add_trials(study, space, 3, validation_images=None)
    picture = PICTURES["history"](Snapshot.of(study))
    assert not [m for m in picture.marks if isinstance(m, Band)]


def test_generations_picture_shows_quartiles(finished):
    study, _ = finished
    picture = PICTURES["generations"](Snapshot.of(study))
    assert to_figure(picture).layout.xaxis.dtick == 1, "generations are integers"
    assert "presets" not in picture.caption, "the study was created without initial architectures"
    band = find_mark(picture, Band)
    assert list(band.x) == [0, 1, 2, 3, 4]
    for generation in range(5):
        values = [trial.value for trial in study.trials[8 * generation : 8 * generation + 8]]
        assert band.low[generation] == pytest.approx(np.quantile(values, 0.25), abs=1e-6)
        assert band.high[generation] == pytest.approx(np.quantile(values, 0.75), abs=1e-6)
        assert find_mark(picture, Line, "best").y[generation] == max(values)


def test_importances_are_highest_for_the_relevant_block():
    study, space = begin_study(optuna.storages.InMemoryStorage(), depth=4), made_space(depth=4)
    for trial in add_trials(made_study(trials=0, depth=4)[0], space, 120):
        heavy = sum(
            d.costs[d.choices.index(trial.params[d.name])]
            for d in space.dimensions
            if d.name.startswith("blocks.2.") and d.tensor == "B"
        )
        study.add_trial(
            create_trial(
                params=trial.params,
                distributions=trial.distributions,
                constraints=trial.constraints,
                value=heavy,
            )
        )
    snapshot = Snapshot.of(study)
    blocks, tensors = importances(snapshot, "block"), importances(snapshot, "tensor")
    assert max(blocks, key=blocks.get) == "blocks.2"
    assert max(tensors, key=tensors.get) == "B"
    assert sum(blocks.values()) == pytest.approx(1)
    bars = find_mark(PICTURES["importance"](snapshot), Bars, "by block")
    assert dict(zip(bars.labels, bars.values, strict=True)) == {
        name: pytest.approx(value, abs=1e-4) for name, value in blocks.items()
    }
    foreign = optuna.distributions.FloatDistribution(0, 1)
    study.add_trial(create_trial(params={"x": 0.5}, distributions={"x": foreign}, value=99.0))
    assert importances(Snapshot.of(study), "block") == blocks


def test_loss_and_cost_pictures_show_the_figures_of_the_study(finished):
    study, _ = finished
    made = {picture.name: picture for picture in pictures(Snapshot.of(study))}
    assert find_mark(made["supernet"], Line).y == [1.5, 0.9, 0.5]
    bars = find_mark(made["cost"], Bars)
    assert dict(zip(bars.labels, bars.values, strict=True)) == {
        "supernet": 12.5,
        "search": 0.5 * 43,
        "baseline": 5.0,
    }


def test_pictures_of_a_large_study_show_a_subset_of_trials():
    study, _ = made_study(trials=1)
    frozen = study.trials[0]
    study.add_trials([frozen] * (2 * MAX_POINTS))
    for name in ("front", "history"):
        picture = PICTURES[name](Snapshot.of(study))
        assert MAX_POINTS / 2 < len(find_mark(picture, Points, "trials").x) <= MAX_POINTS


HAS_BEST = {"architecture", "survival", "history"}
STUDIES = {
    "none": ({"count": 0}, set()),
    "one": ({"count": 1}, HAS_BEST | {"front", "cost"}),
    "failed": ({"count": 3, "state": TrialState.FAIL}, set()),
    "infeasible": ({"count": 3, "over": 4}, {"front", "cost"}),
    "equal": (
        {"count": 12, "validation_accuracy": 0.5},
        {*PICTURES} - {"supernet", "generations", "confusion", "adapters"},
    ),
    "unknown": ({"count": 7, "trainable_params": None}, HAS_BEST | {"cost"}),
}


@pytest.mark.parametrize("trials", STUDIES)
def test_study_with_few_usable_trials_has_pictures_of_its_data(trials, tmp_path):
    options, names = STUDIES[trials]
    study = begin_study(optuna.storages.InMemoryStorage(), population_size=50)
    add_trials(study, made_space(), **options)
    made = pictures(Snapshot.of(study))
    assert {picture.name for picture in made} == names
    for picture in made:
        json.loads(to_figure(picture).to_json())
        assert save_png(picture, tmp_path).stat().st_size > 1000


def test_minimized_and_several_objectives_have_pictures(tmp_path):
    space = made_space()
    for directions in (["minimize"], ["maximize", "minimize"]):
        study = optuna.create_study(directions=directions)
        begun = begin_study(optuna.storages.InMemoryStorage())
        for key, value in begun.user_attrs.items():
            study.set_user_attr(key, value)
        for trial in add_trials(begun, space, 20):
            accuracy, count = trial.value, trial.user_attrs["trainable_params"]
            values = [1 - accuracy] if len(directions) == 1 else [accuracy, count]
            study.add_trial(
                create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs=trial.user_attrs,
                    constraints=trial.constraints,
                    values=values,
                )
            )
        best = max(study.trials, key=lambda t: t.user_attrs["validation_accuracy"])
        made = {picture.name: picture for picture in pictures(Snapshot.of(study))}
        assert {"architecture", "front", "survival", "history", "generations"} <= made.keys()
        assert f"trial {best.number} (best so far)" in made["architecture"].title


def test_pictures_of_plotly_and_matplotlib_have_the_same_content(finished, tmp_path):
    study, _ = finished
    made = pictures(Snapshot.of(study))
    assert [picture.name for picture in made] == list(PICTURES)
    for picture in made:
        figure = json.loads(to_figure(picture).to_json())
        assert figure["layout"]["title"]["text"] == picture.title
        assert figure["layout"]["xaxis"]["title"]["text"] == picture.x.title
        assert figure["layout"]["yaxis"]["title"]["text"] == picture.y.title
        n_traces = sum(1 + isinstance(m, Band) for m in picture.marks)
        assert len(figure["data"]) == n_traces
        assert "bdata" not in json.dumps(figure), "optuna-dashboard may not read binary arrays"
        path = save_png(picture, tmp_path)
        assert path.name == f"{picture.name}.png"
        assert path.read_bytes()[:4] == b"\x89PNG"
        assert re.fullmatch(r"[a-z]+", picture.name)


def test_save_png_without_matplotlib_raises(monkeypatch, tmp_path):
    from glora_automl.errors import ReportError

    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    picture = Picture("a", "A", "", Axis("x"), Axis("y"), (Line("l", [0, 1], [0, 1], "blue"),))
    with pytest.raises(ReportError, match=r"glora-automl\[png\]"):
        save_png(picture, tmp_path)
    assert list(tmp_path.iterdir()) == []
