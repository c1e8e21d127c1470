from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from glora_automl.commands import search
from glora_automl.pipeline import Monitor
from glora_automl.pipeline._monitor import parameter_grid
from glora_automl.progress import Progress
from glora_automl.samplers import sort_trials
from glora_automl.study import CONSTRAINT, read_recipe
from tests.report.studies import add_trials, made_study


class Recorder(Progress):
    """Keeps the states of a search."""

    def __init__(self):
        self.states = {}

    @contextmanager
    def stage(self, title, total, unit):
        kept = self.states.setdefault(title, [])
        yield lambda steps=1, note="", *, earlier=False: kept.append(note)


def test_state_is_that_of_the_trials(finished):
    study = finished.study
    monitor = Monitor(study)
    assert monitor.state(target=12, running=[]) == ""
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        monitor.see([trial])
        seen = trials[: trial.number + 1]
        (best,) = sort_trials(seen, study.directions, 1)
        state = monitor.state(target=12, running=[])
        assert state.best == best.value
        assert state.n_params == best.user_attrs[CONSTRAINT]
        assert state.recent == tuple(t.value for t in seen)
    assert state.objective == "validation loss"
    assert state.workers == 1
    assert state.budget is state.generation is state.grid is None


def test_state_trial_over_the_budget_is_the_best_only_until_one_fits():
    study, space = made_study(trials=0)
    over = add_trials(study, space, 2, over=5)
    monitor = Monitor(study)
    monitor.see(over)
    assert monitor.state(target=9, running=[]).recent == ()
    (inside,) = add_trials(study, space, 1, validation_accuracy=0.1)
    monitor.see([inside])
    state = monitor.state(target=9, running=over)
    assert state.best == 0.1
    assert state.recent == (0.1,)
    assert (state.workers, state.running) == (2, 2)


def test_parameter_grid_sums_to_the_parameters():
    study, space = made_study(trials=3, depth=3)
    for trial in study.get_trials():
        grid = parameter_grid(space, trial)
        assert grid.columns == ("blocks.0", "blocks.1", "blocks.2")
        assert grid.rows == ("A", "B", "C", "D", "E")
        assert sum(map(sum, grid.counts)) == trial.user_attrs[CONSTRAINT]
        architecture = space.architecture(trial.params)
        for column, block in enumerate(grid.columns):
            layers = [name for name in space.shapes if name.startswith(f"{block}.")]
            expected = [
                sum(getattr(architecture[n], tensor).count(tensor, space.shapes[n]) for n in layers)
                for tensor in grid.rows
            ]
            assert [row[column] for row in grid.counts] == expected


def test_search_reports_generations_and_budget(finished_workspace, finished):
    recorder = Recorder()
    workspace = replace(finished_workspace, progress=recorder)
    search(read_recipe(finished.study), name="other", workspace=workspace)
    states = recorder.states["Search"]
    assert [state.generation for state in states] == [
        (min(done // 4 + 1, 3), 3) for done in range(1, 13)
    ]
    assert {state.budget for state in states} == {finished.budget}
    for state in states:
        assert sum(map(sum, state.grid.counts)) == state.n_params


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_state_of_samplers_without_generations_has_none(sampler):
    study, space = made_study(trials=2)
    recipe = SimpleNamespace(search=SimpleNamespace(sampler=sampler, population_size=4))
    context = SimpleNamespace(space=space, budget=100, recipe=recipe)
    monitor = Monitor(study, context)
    monitor.see(study.get_trials())
    assert monitor.state(target=9, running=[]).generation is None
