"""Figures of studies: those of a search, and of a user's own."""

import optuna
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

from glora_automl import AdapterProblem, Workspace, visualization
from glora_automl.errors import ReportError
from glora_automl.visualization import matplotlib as drawn

NAMES = visualization.__all__


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    x, y = torch.randn(40, 1, 4, 4), torch.arange(40) % 2
    return AdapterProblem(
        net,
        (x[:20], y[:20]),
        (x[20:], y[20:]),
        budget=60,
        settings={"training": {"epochs": 2, "warmup_epochs": 0}, "search": {"population_size": 6}},
        workspace=Workspace(runs=tmp_path_factory.mktemp("runs"), device="cpu"),
    )


@pytest.fixture(scope="module")
def own(problem):
    """A study that its user created and optimized."""
    study = optuna.create_study(direction=problem.direction, sampler=problem.sampler(seed=0))
    study.optimize(problem.objective, n_trials=14)
    return study


@pytest.mark.parametrize("name", NAMES)
def test_plot_study_of_a_search_is_a_plotly_figure(finished, name):
    if name == "plot_importances" and len(finished.study.trials) < 10:
        pytest.fail("the study must have trials enough for importances")
    figure = getattr(visualization, name)(finished.study)
    assert isinstance(figure, go.Figure)
    assert figure.data


@pytest.mark.parametrize("name", NAMES)
def test_plot_own_study_takes_its_problem(own, problem, name):
    assert getattr(visualization, name)(own, problem=problem).data
    pytest.importorskip("matplotlib", reason="pictures of matplotlib are an extra")
    assert getattr(drawn, name)(own, problem=problem).axes


@pytest.mark.parametrize("name", NAMES)
def test_plot_own_study_without_its_problem_raises(own, name):
    with pytest.raises(ReportError, match="Give the `problem`"):
        getattr(visualization, name)(own)


def test_plot_pareto_front_has_a_point_for_each_trial(own, problem):
    figure = visualization.plot_pareto_front(own, problem=problem)
    (points,) = (trace for trace in figure.data if trace.name == "trials")
    assert list(points.x) == [trial.user_attrs["trainable_params"] for trial in own.trials]
    assert list(points.y) == pytest.approx([trial.value for trial in own.trials], abs=1e-6)


@pytest.mark.parametrize("by", ["block", "tensor", "layer"])
def test_plot_importances_by_one_grouping_add_up_to_one(own, problem, by):
    (bars,) = visualization.plot_importances(own, by, problem=problem).data
    assert bars.name == f"by {by}"
    assert sum(bars.x) == pytest.approx(1, abs=1e-3)


def test_plot_of_too_few_trials_raises(problem):
    study = optuna.create_study(direction=problem.direction)
    for name in NAMES:
        with pytest.raises(ReportError, match="study must have enough trials"):
            getattr(visualization, name)(study, problem=problem)
    with pytest.raises(ReportError, match="`by` must be one of block"):
        visualization.plot_importances(study, "layers", problem=problem)
