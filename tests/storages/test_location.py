"""Places of artifact stores, which are recorded so that a study can be moved."""

import shutil

import optuna
import pytest
import sqlalchemy
from optuna.storages import InMemoryStorage

from glora_automl.storages import absolute_url, full_location, open_storage, portable_location


@pytest.mark.parametrize(
    "template",
    [
        "sqlite:///{}/studies.db",
        "sqlite:///file:{}/studies.db?mode=rwc&uri=true",
        "{}/studies.log",
    ],
)
def test_location_below_the_file_moves_with_it(tmp_path, template):
    runs = tmp_path / "runs"
    runs.mkdir()
    open_storage(f"sqlite:///{runs}/studies.db")
    storage = open_storage(template.format(runs))
    recorded = portable_location(str(runs / "a/artifacts"), storage)
    assert recorded == "a/artifacts"
    assert full_location(recorded, storage) == str(runs / "a/artifacts")
    shutil.copytree(runs, tmp_path / "copy")
    moved = open_storage(template.format(tmp_path / "copy"))
    assert full_location(recorded, moved) == str(tmp_path / "copy/a/artifacts")


def test_full_location_of_a_storage_that_optuna_opened_is_the_same(tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    open_storage(url)
    study = optuna.create_study(storage=url)
    assert full_location("artifacts", study._storage) == str(tmp_path / "artifacts")


@pytest.mark.parametrize("location", ["/elsewhere/artifacts", "s3://bucket/artifacts"])
def test_location_elsewhere_stays_as_it_is(tmp_path, location):
    for storage in (open_storage(f"{tmp_path}/a.log"), InMemoryStorage()):
        assert portable_location(location, storage) == location
        assert full_location(location, storage) == location


def test_location_without_a_file_stays_as_it_is(tmp_path):
    memory = InMemoryStorage()
    assert portable_location(str(tmp_path), memory) == str(tmp_path)
    assert full_location("artifacts", memory) == "artifacts"
    assert portable_location(str(tmp_path), optuna.storages.RDBStorage("sqlite://")) == str(
        tmp_path
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///a.db", "sqlite:///{}/a.db"),
        ("sqlite:///b/a.db?timeout=5", "sqlite:///{}/b/a.db?timeout=5"),
        ("sqlite+pysqlite:///a.db", "sqlite+pysqlite:///{}/a.db"),
        ("sqlite:///file:a.db?mode=rwc&uri=true", "sqlite:///file:{}/a.db?mode=rwc&uri=true"),
        ("sqlite:///file:/x/a.db?uri=true", "sqlite:///file:/x/a.db?uri=true"),
        ("sqlite:///file:///x/a.db?uri=true", "sqlite:///file:///x/a.db?uri=true"),
        ("sqlite:////x/a.db", "sqlite:////x/a.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("postgresql://host:port/a", "postgresql://host:port/a"),
    ],
)
def test_absolute_url_of_sqlite_has_an_absolute_path(tmp_path, monkeypatch, url, expected):
    monkeypatch.chdir(tmp_path)
    found, expected = absolute_url(url), expected.format(tmp_path)
    # Versions of SQLAlchemy escape the colon of file: or not.
    assert found == expected or sqlalchemy.make_url(found) == sqlalchemy.make_url(expected)


@pytest.mark.parametrize("name", ["a.db", "file:a%20b.db?mode=rwc&uri=true"])
def test_absolute_url_opens_the_same_file(tmp_path, monkeypatch, name):
    folder = tmp_path / "a folder, 100%"
    folder.mkdir()
    monkeypatch.chdir(folder)
    open_storage(f"sqlite:///{name}")
    url = absolute_url(f"sqlite:///{name}")
    monkeypatch.chdir(tmp_path)
    open_storage(url, create=False)
    assert len(list(tmp_path.rglob("*.db"))) == 1
