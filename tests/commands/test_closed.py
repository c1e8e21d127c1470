"""Searches that end early: by a time limit, by a lower number of trials, by `select`."""

from functools import partial

import pytest
from optuna.trial import TrialState

from glora_automl.commands import _suite, resume, run_suite, search, select
from glora_automl.errors import StudyError
from glora_automl.pipeline import find_study
from glora_automl.recipes import Suite
from glora_automl.study import get_setting, summarize
from glora_automl.supernet import Scorer
from tests.commands.interrupts import interrupt_after, interrupt_training, run_interrupted

SHORT = {"selection": {"baselines": False, "refit": False}}


@pytest.fixture
def short(tiny):
    return tiny.replace(**SHORT)


@pytest.fixture
def searching(short, workspace, monkeypatch):
    """A study whose search was interrupted after five of twelve trials."""
    interrupt = partial(interrupt_after, owner=Scorer, name="score", calls=6)
    run_interrupted(monkeypatch, interrupt, short, workspace=workspace)
    return find_study("tiny", workspace)[0]


def check_closed(result, n_trials):
    """Check that a study is finished with the first trials of its search."""
    summary = summarize(result.study)
    assert summary["stage"] == "finished"
    assert (summary["trials"]["complete"], summary["trials"]["target"]) == (n_trials, n_trials)
    unfinished = (TrialState.RUNNING, TrialState.WAITING)
    assert result.study.get_trials(states=unfinished) == []
    assert result.rows[0].test is not None


def test_search_at_its_time_limit_ends_with_at_least_one_trial(short, workspace, finished):
    result = search(short, timeout=1e-6, workspace=workspace)
    check_closed(result, 1)
    assert result.study.trials[0].params == finished.study.trials[0].params
    # The same call returns the kept result, with a time limit and without.
    for timeout in (1e-6, None):
        again = search(short, timeout=timeout, workspace=workspace)
        assert again.rows == result.rows


def test_search_within_its_time_limit_has_all_trials(short, workspace):
    check_closed(search(short.replace(search={"n_trials": 3}), timeout=900, workspace=workspace), 3)


def test_search_interrupted_after_its_time_limit_selects_when_it_goes_on(
    short, workspace, monkeypatch
):
    interrupt = partial(interrupt_training, stage="selection")
    run_interrupted(monkeypatch, interrupt, short, timeout=1e-6, workspace=workspace)
    check_closed(resume("tiny", workspace=workspace), 1)


def test_resume_chosen_n_trials_take_the_place_of_a_time_limit(short, workspace, monkeypatch):
    interrupt = partial(interrupt_training, stage="selection")
    run_interrupted(monkeypatch, interrupt, short, timeout=1e-6, workspace=workspace)
    # The interrupted selection is failed, so the search may go on.
    check_closed(resume("tiny", n_trials=4, workspace=workspace), 4)


def test_resume_fewer_trials_than_there_are_ends_the_search(searching, monkeypatch):
    monkeypatch.setattr(Scorer, "score", lambda *args: pytest.fail("the search is finished"))
    check_closed(resume("tiny", n_trials=3, workspace=searching), 5)


def test_resume_fewer_trials_are_reached_exactly(searching):
    check_closed(resume("tiny", n_trials=7, workspace=searching), 7)


def test_select_running_study_ends_its_search(searching, monkeypatch):
    monkeypatch.setattr(Scorer, "score", lambda *args: pytest.fail("the search is finished"))
    result = select("tiny", workspace=searching)
    check_closed(result, 5)
    numbers = {t.number for t in result.study.get_trials(states=(TrialState.COMPLETE,))}
    assert set(result.selection.candidates) <= numbers
    assert select("tiny", workspace=searching).rows == result.rows


def test_select_study_without_trials_raises_and_goes_on(short, workspace, monkeypatch):
    run_interrupted(
        monkeypatch, partial(interrupt_training, stage="supernet"), short, workspace=workspace
    )
    with pytest.raises(StudyError, match="must have a complete trial"):
        select("tiny", workspace=workspace)
    study = search(short.replace(search={"n_trials": 12}), timeout=1e-6, workspace=workspace).study
    assert get_setting(study, "target") == 1


def test_run_suite_studies_that_are_left_share_the_time(workspace, tiny, monkeypatch):
    """Each study gets an equal part of the time that is left when it begins."""
    recipes = [(name, tiny.replace(name=name)) for name in ("a", "b", "c", "d")]
    clock, given = [1000.0], []

    def record(recipe, *, timeout, workspace):
        given.append(timeout)
        clock[0] += 30.0

    monkeypatch.setattr(_suite, "suite_recipes", lambda *args, **kwargs: recipes)
    monkeypatch.setattr(_suite, "search", record)
    monkeypatch.setattr(_suite.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(_suite, "_is_finished", lambda storage, recipe: recipe.name == "b")
    suite = Suite.model_construct(name="s", tasks=(), published=())
    run_suite(suite, timeout=120.0, workspace=workspace)
    assert given == [120 / 3, 90 / 2, 60.0]
