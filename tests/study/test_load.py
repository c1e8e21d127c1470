"""Studies of this package found in a storage, read and checked."""

import optuna
import pytest

from glora_automl.errors import StudyError
from glora_automl.study import (
    FORMAT,
    create_study,
    get_attribute,
    get_setting,
    load_study,
    refuse_foreign,
    set_attribute,
    study_key,
)


def test_refuse_foreign_raises_for_studies_of_other_programs_alone(settings, memory):
    refuse_foreign(memory, "none")
    create_study(memory, "ours", settings)
    refuse_foreign(memory, "ours")
    begun = optuna.create_study(study_name="begun", storage=memory)
    begun.set_user_attr("glora:settings", {})  # its creation was interrupted
    refuse_foreign(memory, "begun")
    theirs = optuna.create_study(study_name="theirs", storage=memory)
    theirs.set_user_attr("note", "mine")
    full = optuna.create_study(study_name="full", storage=memory)
    full.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for name in ("theirs", "full"):
        with pytest.raises(StudyError, match=f"glora_automl created, got '{name}'"):
            refuse_foreign(memory, name)


def test_load_study_unknown_name_raises_with_the_known_ones(settings, memory):
    with pytest.raises(StudyError, match=r"\(none\), got 'a'"):
        load_study(memory, "a")
    create_study(memory, "b", settings)
    optuna.create_study(study_name="b/stages", storage=memory)
    with pytest.raises(StudyError, match=r"\(b\), got 'a'"):
        load_study(memory, "a")


def test_load_study_of_another_program_or_format_raises(memory):
    study = optuna.create_study(study_name="a", storage=memory)
    with pytest.raises(StudyError, match="glora_automl created, got 'a'"):
        load_study(memory, "a")
    set_attribute(study, "format", 99)
    with pytest.raises(StudyError, match=f"must have format {FORMAT}, got 99"):
        load_study(memory, "a")


def test_set_attribute_writes_equal_values_once(memory, monkeypatch):
    study = optuna.create_study(storage=memory)
    set_attribute(study, "result", [1])
    monkeypatch.setattr(
        optuna.Study, "set_user_attr", lambda *_: pytest.fail("an equal value was written")
    )
    set_attribute(study, "result", [1])
    assert get_attribute(study, "result") == [1]


def test_settings_of_a_study_that_was_deleted_meanwhile_are_a_study_error(settings, memory):
    create_study(memory, "a", settings)
    optuna.delete_study(study_name="a", storage=memory)
    begun = optuna.create_study(study_name="a", storage=memory)
    for call in (settings.check, study_key, lambda s: get_setting(s, "target")):
        with pytest.raises(StudyError, match="another process has deleted it or begun it again"):
            call(begun)
