import copy
import datetime

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from glora_automl.errors import StorageError
from glora_automl.storages import StudyView, open_storage

NAMES = [f"x{i}" for i in range(6)]


class Total:
    """A projection onto the sum of the parameters, which counts its calls."""

    distributions = {"sum": IntDistribution(0, 60)}  # noqa: RUF012

    def __init__(self):
        self.n_calls = 0

    def __call__(self, params):
        self.n_calls += 1
        if "other" in params:
            raise ValueError("foreign")
        return {"sum": sum(params.values())} if len(params) == len(NAMES) else {}

    def describe(self, attributes):
        return {"described": len(attributes)}


@pytest.fixture(params=["sqlite", "journal", "memory"])
def storage(request, tmp_path):
    if request.param == "sqlite":
        opened = open_storage(f"sqlite:///{tmp_path}/a.db")
        yield opened
        opened.engine.dispose()
    else:
        yield open_storage(f"{tmp_path}/a.log") if request.param == "journal" else InMemoryStorage()


@pytest.fixture
def study(storage):
    return optuna.create_study(study_name="s", storage=storage, direction="maximize")


def add(study, value, *, state=TrialState.COMPLETE, violation=None, params=None):
    params = dict.fromkeys(NAMES, 1) if params is None else params
    study.add_trial(
        create_trial(
            state=state,
            value=value if state == TrialState.COMPLETE else None,
            params=params,
            distributions=dict.fromkeys(params, IntDistribution(0, 10)),
            constraints=None if violation is None else {"size": violation},
            system_attrs={"fixed_params": dict(params)},
        )
    )


def test_view_trials_have_projected_parameters_and_constraints(study):
    total = Total()
    view = StudyView(study._storage, lambda study: total)
    add(study, 0.5, violation=-2.0)
    add(study, 0.7, violation=3.0)
    for trial in view.get_all_trials(study._study_id):
        assert trial.params == {"sum": 6}
        assert trial.distributions == total.distributions
        assert "fixed_params" not in trial.system_attrs
    first, second = view.get_all_trials(study._study_id, deepcopy=False)
    assert (first.system_attrs["constraints"], second.system_attrs["constraints"]) == ([-2.0], [3])
    assert first.value == 0.5
    assert view.get_trial(first._trial_id) is first
    assert study.trials[0].params == dict.fromkeys(NAMES, 1)
    assert "constraints" not in study.trials[0].system_attrs


def test_view_projects_finished_trials_once(study):
    total = Total()
    view = StudyView(study._storage, lambda study: total)
    for value in range(5):
        add(study, value)
    running = study.ask()
    view.get_all_trials(study._study_id)
    assert total.n_calls == 6
    assert view.get_all_trials(study._study_id)[-1].params == {}
    assert total.n_calls == 7
    for name in NAMES:
        running.suggest_int(name, 0, 10)
    expected = sum(running.params.values())
    assert view.get_all_trials(study._study_id)[-1].params == {"sum": expected}
    study.tell(running, 1.0)
    add(study, 9)
    before = total.n_calls
    assert len(view.get_all_trials(study._study_id)) == 7
    view.get_all_trials(study._study_id)
    assert total.n_calls == before + 2


def test_view_of_trial_without_parameters_has_distributions(study):
    """The dashboard shows the parameters that all trials have."""
    view = StudyView(study._storage, lambda study: Total())
    study.ask()
    assert view.get_all_trials(study._study_id)[0].distributions == Total.distributions


def test_view_of_study_with_reused_ids_projects_again(storage):
    total = Total()
    view = StudyView(storage, lambda study: total)
    first = optuna.create_study(study_name="s", storage=storage)
    add(first, 1.0)
    assert view.get_all_trials(first._study_id)[0].params == {"sum": 6}
    optuna.delete_study(study_name="s", storage=storage)
    second = optuna.create_study(study_name="s", storage=storage)
    add(second, 1.0, params=dict.fromkeys(NAMES, 2))
    assert view.get_all_trials(second._study_id)[0].params == {"sum": 12}


def test_view_after_changed_attribute_projects_again(study):
    first, second = Total(), Total()
    view = StudyView(study._storage, lambda s: second if "changed" in s.user_attrs else first)
    add(study, 1.0)
    view.get_all_trials(study._study_id)
    study.set_user_attr("changed", True)
    view.get_all_trials(study._study_id)
    assert (first.n_calls, second.n_calls) == (1, 1)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_view_best_trial_is_best_feasible(direction):
    study = optuna.create_study(direction=direction)
    view = StudyView(study._storage, lambda study: Total())
    sign = 1 if direction == "maximize" else -1
    with pytest.raises(ValueError, match="No trials are completed"):
        view.get_best_trial(study._study_id)
    add(study, sign * 5.0, violation=2.0)
    add(study, sign * 9.0, violation=4.0)
    assert view.get_best_trial(study._study_id).number == 0, "least violation"
    add(study, sign * 1.0, violation=0.0)
    add(study, sign * 3.0, violation=-1.0)
    add(study, sign * 3.0, violation=-1.0)
    add(study, 0.0, state=TrialState.FAIL)
    assert view.get_best_trial(study._study_id).number == 3
    assert study.best_trial.number == 3


def test_view_best_trial_of_several_objectives_raises():
    study = optuna.create_study(directions=["maximize", "minimize"])
    view = StudyView(study._storage, lambda study: Total())
    with pytest.raises(RuntimeError, match="several objectives"):
        view.get_best_trial(study._study_id)


def test_view_without_projection_equals_storage(study):
    view = StudyView(study._storage, lambda study: None)
    study.set_user_attr("a", 1)
    add(study, 0.5, violation=2.0)
    add(study, 0.4, violation=-2.0)
    assert view.get_all_trials(study._study_id) == study.trials
    assert view.get_best_trial(study._study_id) == study._storage.get_best_trial(study._study_id)
    (found,) = view.get_all_studies()
    assert found.user_attrs == {"a": 1}


def test_view_of_foreign_trial_keeps_parameters(study):
    view = StudyView(study._storage, lambda study: Total())
    add(study, 1.0, params={"other": 3})
    assert view.get_all_trials(study._study_id)[0].params == {"other": 3}


def test_view_lists_studies_in_order_with_described_attributes(storage):
    for name in ("b", "b/stages", "a"):
        optuna.create_study(study_name=name, storage=storage)

    def hides(study, by_name):
        return study.study_name.removesuffix("/stages") != study.study_name and "b" in by_name

    view = StudyView(storage, lambda s: Total() if s.study_name == "a" else None, hides=hides)
    assert [(s.study_name, s.user_attrs) for s in view.get_all_studies()] == [
        ("b", {}),
        ("a", {"described": 0}),
    ]


def writes(view, study, trial_id):
    trial = create_trial(value=1.0)
    return {
        "study attribute": lambda: view.set_study_user_attr(study._study_id, "a", 1),
        "study system attribute": lambda: view.set_study_system_attr(study._study_id, "b", 1),
        "trial attribute": lambda: view.set_trial_user_attr(trial_id, "c", 1),
        "trial system attribute": lambda: view.set_trial_system_attr(trial_id, "d", 1),
        "new study": lambda: view.create_new_study([StudyDirection.MINIMIZE], "new"),
        "new trial": lambda: view.create_new_trial(study._study_id, trial),
        "parameter": lambda: view.set_trial_param(trial_id, "x", 1.0, IntDistribution(0, 3)),
        "value": lambda: view.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0]),
        "intermediate": lambda: view.set_trial_intermediate_value(trial_id, 1, 1.0),
        "delete": lambda: view.delete_study(study._study_id),
    }


def test_view_writes_only_attributes_if_writable(study):
    trial = study.ask()
    before = copy.deepcopy(study.trials), study.user_attrs, study._storage.get_all_studies()
    for name, write in writes(StudyView(study._storage, lambda s: None), study, 0).items():
        with pytest.raises(
            StorageError, match=r"^`writable` must be|^A view of a storage must not"
        ):
            write()
        after = study.trials, study.user_attrs, study._storage.get_all_studies()
        assert [s.__dict__ for s in after[2]] == [s.__dict__ for s in before[2]], name
        assert after[:2] == before[:2], name
    view = StudyView(study._storage, lambda s: None, writable=True)
    allowed = writes(view, study, trial._trial_id)
    for name in ("new study", "new trial", "parameter", "value", "intermediate", "delete"):
        with pytest.raises(StorageError, match="must not create or delete"):
            allowed[name]()
    for name in ("study attribute", "study system attribute", "trial attribute"):
        allowed[name]()
    assert study.user_attrs == {"a": 1}
    assert study.trials[0].user_attrs == {"c": 1}


def test_optuna_loads_study_from_view(study):
    view = StudyView(study._storage, lambda study: Total())
    for value in (1.0, 2.0):
        add(study, value, violation=-1.0)
    found = optuna.load_study(study_name="s", storage=view)
    assert found.best_value == 2.0
    assert [trial.params for trial in found.trials] == [{"sum": 6}] * 2
    assert isinstance(found.trials[0].datetime_complete, datetime.datetime)
    assert view.get_n_trials(study._study_id) == 2


def test_view_of_journal_projects_once(tmp_path):
    storage = open_storage(f"{tmp_path}/a.log")
    assert isinstance(storage, JournalStorage)
    study = optuna.create_study(study_name="s", storage=storage)
    add(study, 1.0)
    total = Total()
    view = StudyView(storage, lambda study: total)
    view.get_all_trials(study._study_id)
    view.get_all_trials(study._study_id)
    assert total.n_calls == 1
