from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from glora_automl.commands import search
from glora_automl.pipeline._watch import Watch, parameter_grid
from glora_automl.progress import Progress
from glora_automl.study import read_recipe
from glora_automl.study._ranking import CONSTRAINT, rank
from tests.report.studies import add_trials, made_study


class Recorder(Progress):
    """Keeps what a search tells of itself."""

    def __init__(self):
        self.states = {}

    @contextmanager
    def stage(self, title, total, unit):
        told = self.states.setdefault(title, [])
        yield lambda steps=1, note="", *, earlier=False: told.append(note)


def test_the_state_is_that_of_the_trials(finished):
    study = finished.study
    watch = Watch(study)
    assert watch.state(target=12, running=[]) == ""
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        watch.see([trial])
        seen = trials[: trial.number + 1]
        best = min(seen, key=lambda t: rank(t, study.directions[0]))
        state = watch.state(target=12, running=[])
        assert state.best == best.value
        assert state.n_params == best.user_attrs[CONSTRAINT]
        assert state.recent == tuple(t.value for t in seen)
    assert state.objective == "validation accuracy"
    assert state.workers == 1
    assert state.budget is state.generation is state.grid is None, "nobody said whose search it is"


def test_trials_over_the_budget_are_the_best_only_until_one_fits():
    study, space = made_study(trials=0)
    over = add_trials(study, space, 2, over=5)
    watch = Watch(study)
    watch.see(over)
    assert watch.state(target=9, running=[]).recent == ()
    (inside,) = add_trials(study, space, 1, validation_accuracy=0.1)
    watch.see([inside])
    state = watch.state(target=9, running=over)
    assert state.best == 0.1
    assert state.recent == (0.1,)
    assert (state.workers, state.running) == (2, 2)


def test_the_grid_adds_up_to_the_parameters():
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


def test_a_search_tells_its_generations_and_its_budget(finished_place, finished):
    recorder = Recorder()
    search(read_recipe(finished.study), name="other", progress=recorder, **finished_place)
    states = recorder.states["Search"]
    assert [state.generation for state in states] == [
        (min(done // 4 + 1, 3), 3) for done in range(1, 13)
    ]
    assert {state.budget for state in states} == {finished.budget}
    for state in states:
        assert sum(map(sum, state.grid.counts)) == state.n_params


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_samplers_without_generations_tell_none(sampler):
    study, space = made_study(trials=2)
    recipe = SimpleNamespace(search=SimpleNamespace(sampler=sampler, population_size=4))
    setup = SimpleNamespace(space=space, budget=100, recipe=recipe)
    watch = Watch(study, setup)
    watch.see(study.get_trials())
    assert watch.state(target=9, running=[]).generation is None
