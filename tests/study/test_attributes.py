"""Studies whose attributes were altered in the storage."""

import contextlib
import dataclasses
import json
import sqlite3

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glora_automl.cli._output import print_summary
from glora_automl.errors import StorageError, StudyError
from glora_automl.report import save_report
from glora_automl.storages import open_storage, storage_errors
from glora_automl.study import Settings, find_architecture, list_studies, load_study, summarize
from glora_automl.study._attributes import KeptSettings
from tests.refusals import altered, refusal


class Database:
    """The database of a finished study."""

    def __init__(self, workspace):
        self.workspace = workspace
        self.connection = sqlite3.connect(workspace.folder / "studies.db")
        self.rows = [
            (table, row, key, json.loads(text))
            for table in ("study_user_attributes", "trial_user_attributes")
            for row, key, text in self.connection.execute(
                f"SELECT {table[:-1]}_id, key, value_json FROM {table}"
            )
        ]

    def set(self, table, row, text):
        self.connection.execute(
            f"UPDATE {table} SET value_json = ? WHERE {table[:-1]}_id = ?", (text, row)
        )
        self.connection.commit()


@pytest.fixture
def database(finished_workspace):
    return Database(finished_workspace)


@contextlib.contextmanager
def opened(workspace):
    storage = open_storage(workspace.storage_location, create=False, write=False)
    try:
        with storage_errors():
            yield storage
    finally:
        storage.engine.dispose()


def load(storage):
    name = min(s.study_name for s in storage.get_all_studies() if "/" not in s.study_name)
    return load_study(storage, name)


READERS = {
    "status": lambda storage, folder: list_studies(storage),
    "show": lambda storage, folder: print_summary(study := load(storage), summarize(study)),
    "architecture": lambda storage, folder: find_architecture(load(storage)),
    "report": lambda storage, folder: save_report(load(storage), folder / "report.html"),
}
"""What commands read of a study."""


def read(workspace, reader):
    with opened(workspace) as storage:
        READERS[reader](storage, workspace.folder)


def test_load_study_unaltered_is_read(database, capsys):
    for reader in READERS:
        read(database.workspace, reader)
    assert "Trials:" in capsys.readouterr().out


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), reader=st.sampled_from(list(READERS)))
def test_load_study_any_altered_attribute_is_read_or_one_line(database, data, reader):
    table, row, _, value = data.draw(st.sampled_from(database.rows))
    database.set(table, row, json.dumps(data.draw(altered(value))))
    try:
        refusal(read, database.workspace, reader)
    finally:
        database.set(table, row, json.dumps(value))


@pytest.mark.parametrize("text", ["", "{", "[1,", "nul", "\x00", '"' + "x" * 2048])
def test_load_study_attribute_that_is_no_json_raises_one_line(database, text):
    for table, row, key, _ in database.rows:
        if key == "glora:settings":
            database.set(table, row, text)
    with pytest.raises(StorageError, match="what Optuna wrote"):
        read(database.workspace, "show")


def test_kept_settings_has_every_setting_that_is_written():
    written = {field.name for field in dataclasses.fields(Settings)}
    assert set(KeptSettings.model_fields) == written | {"key"}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("key", KeptSettings.model_fields)
def test_load_study_setting_of_another_type_or_missing_raises_one_line(database, key, reader):
    ((table, row, _, value),) = [row for row in database.rows if row[2] == "glora:settings"]
    rest = {name: kept for name, kept in value.items() if name != key}
    for changed in ({**value, key: [[]]}, rest):
        database.set(table, row, json.dumps(changed))
        if reader == "status":
            with opened(database.workspace) as storage:
                (summary,) = list_studies(storage)
            message = summary["stage"]
        else:
            message = refusal(read, database.workspace, reader)
        assert message is not None
        assert key in message


def test_list_studies_altered_study_is_named_and_others_are_read(database):
    for table, row, key, value in database.rows:
        if key == "glora:settings":
            database.set(table, row, json.dumps({**value, "budget": "many"}))
    with opened(database.workspace) as storage:
        (summary,) = list_studies(storage)
    assert summary["stage"].startswith("unreadable: ")
    assert "budget" in summary["stage"]


def test_load_study_selection_with_another_layer_raises_one_line(database):
    for table, row, key, value in database.rows:
        if key == "glora:selection":
            text = value["architecture"].replace("blocks.0.mlp.fc1", "blocks.0.mlp.fC1")
            assert text != value["architecture"]
            database.set(table, row, json.dumps({**value, "architecture": text}))
    with pytest.raises(StudyError, match=r"layers of the study, got 'blocks\.0\.mlp\.fC1'"):
        read(database.workspace, "show")
