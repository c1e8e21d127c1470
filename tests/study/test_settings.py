"""Settings that a study is created with, changed and checked."""

from dataclasses import replace

import optuna
import pytest

from glora_automl.errors import RecipeError, StudyError
from glora_automl.study import (
    FORMAT,
    attempt_counts,
    create_study,
    get_attribute,
    get_setting,
    is_glora_study,
    load_study,
    read_recipe,
    read_space,
    set_attribute,
    set_target,
    study_key,
)


def attempts(memory):
    return optuna.create_study(study_name="a/stages", storage=memory, load_if_exists=True)


def changed(settings, **changes):
    return replace(settings, recipe=settings.recipe.replace(**changes))


def test_create_study_keeps_the_settings(settings, memory):
    create_study(memory, "a", settings)
    study = load_study(memory, "a")
    assert is_glora_study(memory, "a")
    assert read_recipe(study) == settings.recipe
    assert get_attribute(study, "format") == FORMAT
    assert get_setting(study, "budget") == 1000
    assert get_setting(study, "initial") == ["01"]
    assert study.metric_names == [f"validation_{settings.recipe.objective}"]
    assert read_space(study).shapes == settings.layers
    settings.check(study)


def test_study_key_changes_with_what_a_study_must_keep(settings, memory):
    study = create_study(memory, "a", settings)
    key = study_key(study)
    for same in (
        changed(settings, search={"n_trials": 21}),
        changed(settings, description="another one"),
        replace(settings, heartbeat=5.0, versions={}, target=3),
    ):
        assert study_key(create_study(memory, "a", same)) == key
    for other in (
        changed(settings, training={"lr": 0.5}),
        replace(settings, digests={**settings.digests, "data": "e" * 64}),
        replace(settings, artifacts="elsewhere"),
    ):
        assert study_key(create_study(memory, "a", other)) != key


def test_create_study_marks_the_key_before_others_find_the_study(settings, memory):
    marks = []

    def mark(key):
        assert not is_glora_study(memory, "a")
        marks.append(key)

    assert study_key(create_study(memory, "a", settings, mark)) == marks[0]


def test_study_key_of_a_study_begun_again_is_another(settings, memory):
    key = study_key(create_study(memory, "a", settings))
    optuna.delete_study(study_name="a", storage=memory)
    assert study_key(create_study(memory, "a", settings)) != key


def test_settings_check_other_recipe_raises_and_names_the_first_difference(settings, memory):
    study = create_study(memory, "a", settings)
    lr = settings.recipe.training.lr
    with pytest.raises(RecipeError, match=f"training.lr must be {lr}, as in the study 'a', got"):
        changed(settings, training={"lr": lr / 2}).check(study)


def test_settings_check_shows_values_as_in_a_recipe(settings, memory):
    study = create_study(memory, "a", settings)
    other = changed(settings, selection={"baselines": not settings.recipe.selection.baselines})
    with pytest.raises(RecipeError, match=r"must be (true|false), as in .* got (true|false)\."):
        other.check(study)
    masked = changed(settings, architecture="lora-4", selection={"holdout": True})
    with pytest.raises(RecipeError, match=r"architecture must be unset, as in"):
        masked.check(study)


@pytest.mark.parametrize("what", ["data", "search space"])
def test_settings_check_other_digest_raises(settings, memory, what):
    study = create_study(memory, "a", settings)
    other = replace(settings, digests={**settings.digests, what: "e" * 64})
    with pytest.raises(StudyError, match=f"The {what} must have the digest .* got {'e' * 16}"):
        other.check(study)


def test_settings_check_other_warm_start_raises(settings, memory):
    study = create_study(memory, "a", replace(settings, warm_start="old"))
    settings.check(study)  # a worker that joins need not name it
    with pytest.raises(RecipeError, match="warm_start must be 'old', as in the study 'a'"):
        replace(settings, warm_start="other").check(study)


def test_settings_change_target_of_an_open_study_is_written(settings, memory):
    study = create_study(memory, "a", settings)
    key = study_key(study)
    more = replace(changed(settings, search={"n_trials": 30}), target=30)
    more.change_target(study, attempts(memory), lambda: False)
    assert get_setting(study, "target") == 30
    assert read_recipe(study).search.n_trials == 30
    assert study_key(study) == key
    more.change_target(study, attempts(memory), lambda: pytest.fail("it has that target already"))


def test_settings_change_target_of_a_finished_study_opens_it_again(settings, memory):
    study = create_study(memory, "a", settings)
    set_attribute(study, "result", [{"name": "searched"}])
    stages = attempts(memory)
    for stage in ("supernet", "selection"):
        trial = stages.ask()
        trial.set_user_attr("stage", stage)
        stages.tell(trial, 1.0)
    assert [attempt_counts(study, trial) for trial in stages.trials] == [True, True]
    more = replace(changed(settings, search={"n_trials": 30}), target=30)
    more.change_target(study, stages, lambda: pytest.fail("it is finished"))
    assert get_setting(study, "target") == 30
    assert get_attribute(study, "result") is None
    # What depends on the trials is done again, the supernet stays.
    assert [attempt_counts(study, trial) for trial in stages.trials] == [True, False]


def test_settings_change_target_counts_enqueued_trials(settings, memory):
    study = create_study(memory, "a", settings)
    set_attribute(study, "result", [{"name": "searched"}])
    settings.change_target(study, attempts(memory), lambda: True, n_enqueued=2)
    assert get_setting(study, "target") == 22
    assert read_recipe(study) == settings.recipe


def test_settings_change_target_counts_enqueued_trials_after_a_lowered_target(settings, memory):
    study = create_study(memory, "a", replace(settings, target=1))
    study.optimize(lambda trial: trial.suggest_categorical("x", [1, 2]), n_trials=3)
    set_attribute(study, "result", [{"name": "searched"}])
    settings.change_target(study, attempts(memory), lambda: True, n_enqueued=1)
    assert get_setting(study, "target") == 4


@pytest.mark.parametrize("closed", [[True], [False, True]], ids=["before", "meanwhile"])
def test_settings_change_target_of_a_closed_study_raises_and_keeps_it(settings, memory, closed):
    study = create_study(memory, "a", settings)
    answers = iter(closed)
    more = replace(changed(settings, search={"n_trials": 30}), target=30)
    with pytest.raises(RecipeError, match=r"n_trials must stay 20 while .*got 30"):
        more.change_target(study, attempts(memory), lambda: next(answers))
    assert get_setting(study, "target") == 20
    assert read_recipe(study) == settings.recipe


def test_settings_change_target_to_a_lower_one_raises_unless_chosen(settings, memory):
    study = create_study(memory, "a", settings)
    fewer = replace(changed(settings, search={"n_trials": 10}), target=10)
    with pytest.raises(RecipeError, match=r"n_trials must be at least 20, .*'glora resume a"):
        fewer.change_target(study, attempts(memory), lambda: False)
    fewer.change_target(study, attempts(memory), lambda: False, chosen=True)
    assert get_setting(study, "target") == read_recipe(study).search.n_trials == 10


def test_settings_change_target_of_a_time_limit_is_replaced_by_a_chosen_one(settings, memory):
    study, stages = create_study(memory, "a", settings), attempts(memory)
    set_target(study, 7)
    settings.change_target(study, stages, lambda: pytest.fail("the recipe is the same"))
    assert get_setting(study, "target") == 7
    with pytest.raises(RecipeError, match=r"n_trials must stay 7 while .*got 20"):
        settings.change_target(study, stages, lambda: True, chosen=True)
    settings.change_target(study, stages, lambda: False, chosen=True)
    assert get_setting(study, "target") == 20


def test_settings_change_target_of_a_finished_study_with_as_many_trials_keeps_it(settings, memory):
    study = create_study(memory, "a", settings)
    result = [{"name": "searched"}]
    set_attribute(study, "result", result)
    fewer = replace(changed(settings, search={"n_trials": 10}), target=10)
    fewer.change_target(study, attempts(memory), lambda: pytest.fail("done"), chosen=True)
    assert get_attribute(study, "result") == result
    assert get_setting(study, "target") == 20


def test_create_study_of_other_directions_raises(settings, memory):
    create_study(memory, "a", settings)
    both = changed(settings, search={"objectives": ["loss", "n_params"]})
    with pytest.raises(StudyError, match=r"\(minimize\), got minimize, minimize"):
        create_study(memory, "a", both)
