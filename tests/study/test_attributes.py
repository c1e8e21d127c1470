"""Studies whose attributes were altered in the storage."""

import copy
import json
import random
import sqlite3

import pytest

from glora_automl.cli._output import print_summary
from glora_automl.errors import StorageError
from glora_automl.report import save_report
from glora_automl.storages import open_storage, storage_errors
from glora_automl.study import find_architecture, list_studies, load_study, summarize
from tests.refusals import refusal

JUNK = (
    None, True, 0, -1, 10**18, 10**400, 1.5, float("nan"), float("inf"), "", "x", "../../x",
    "[/red]", "\x1b[31m", "\ud800", "9" * 10_000, [], [[]], [None], {}, {"a": None}, {"": {"": []}},
)  # fmt: skip
"""Values that an altered attribute may have."""


def places(value, path=()):
    """Yield the paths of all values in a JSON document."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def altered(value, path, junk):
    """Return a copy of a document with another value at a path; ``...`` removes it."""
    if not path:
        return junk
    value = copy.deepcopy(value)
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    if junk is ...:
        del owner[path[-1]]
    else:
        owner[path[-1]] = junk
    return value


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


def read(workspace, tmp_path):
    """Read a study as status, show, report and architecture do."""
    storage = open_storage(workspace.storage_location, create=False, write=False)
    try:
        with storage_errors():
            list_studies(storage)
            study = load_study(storage, list_names(storage)[0])
            print_summary(study, summarize(study))
            find_architecture(study)
            save_report(study, tmp_path / "report.html")
    finally:
        storage.engine.dispose()


def list_names(storage):
    return sorted(s.study_name for s in storage.get_all_studies() if "/" not in s.study_name)


def test_load_study_unaltered_is_read(database, tmp_path, capsys):
    read(database.workspace, tmp_path)
    assert "Trials:" in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(12))
def test_load_study_altered_attribute_is_read_or_one_line(database, tmp_path, seed):
    """Every run alters one value of each attribute, or removes it."""
    rng = random.Random(seed)
    for table, row, _, value in rng.sample(database.rows, 4):
        path = rng.choice(list(places(value)))
        junk = rng.choice([*JUNK, ...]) if path else rng.choice(JUNK)
        database.set(table, row, json.dumps(altered(value, path, junk)))
        refusal(read, database.workspace, tmp_path)
        database.set(table, row, json.dumps(value))


@pytest.mark.parametrize("text", ["", "{", "[1,", "nul", "\x00", '"' + "x" * 2048])
def test_load_study_attribute_that_is_no_json_raises_one_line(database, tmp_path, text):
    for table, row, key, _ in database.rows:
        if key == "glora:settings":
            database.set(table, row, text)
    with pytest.raises(StorageError, match="what Optuna wrote"):
        read(database.workspace, tmp_path)


def test_list_studies_altered_study_is_named_and_others_are_read(database):
    for table, row, key, value in database.rows:
        if key == "glora:settings":
            database.set(table, row, json.dumps({**value, "budget": "many"}))
    storage = open_storage(database.workspace.storage_location, create=False, write=False)
    (summary,) = list_studies(storage)
    assert summary["stage"].startswith("unreadable: ")
    assert "budget" in summary["stage"]
    storage.engine.dispose()
