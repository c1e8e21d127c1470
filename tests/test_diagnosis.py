import importlib
import importlib.metadata
import shutil
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from glora_automl import diagnosis, storages
from glora_automl.diagnosis import diagnose

NAMES = ["glora_automl", "python", "packages", "extras", "cpu", "gpu", "precision", "disk"]
NAMES += ["storage", "artifacts", "hub"]
PATIENT = 60.0
"""Time-out of checks that answer; a loaded machine may be slow."""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """The hub is not asked, unless a test does."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def found(*arguments, **options):
    return {check.name: check for check in diagnose(*arguments, timeout=PATIENT, **options)}


def test_diagnose_without_runs_folder_is_healthy_and_creates_nothing(tmp_path):
    checks = found(tmp_path / "runs")
    assert list(checks) == NAMES
    assert {check.state for check in checks.values()} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_diagnose_finished_study_measures_storage_and_artifacts(finished_workspace):
    before = {path.name for path in finished_workspace.folder.rglob("*")}
    checks = found(finished_workspace.folder)
    assert "ms per query" in checks["storage"].value
    assert "ms to write, read and remove" in checks["artifacts"].value
    after = {path.name for path in finished_workspace.folder.rglob("*")}
    assert after - before <= {"studies.db-wal", "studies.db-shm"}


def test_diagnose_missing_places_fail_with_the_way_out(tmp_path):
    checks = found(tmp_path, storage="sqlite:///nowhere/a.db", artifacts=str(tmp_path / "none"))
    assert checks["storage"].state == checks["artifacts"].state == "fail"
    assert "Choose another `storage`." in checks["storage"].value
    assert "Set `artifacts`" in checks["artifacts"].value


def test_diagnose_password_is_not_shown(tmp_path):
    for check in diagnose(tmp_path, storage="postgresql+psycopg://me:gehe1m99@localhost:1/db"):
        assert "gehe1m99" not in str(check)


def test_diagnose_part_that_does_not_answer_fails_within_the_timeout(tmp_path, monkeypatch):
    waiting = threading.Event()
    monkeypatch.setattr(storages, "open_storage", lambda *args, **options: waiting.wait(60))
    (check,) = (
        check
        for check in diagnose(tmp_path, storage="sqlite:///a.db", timeout=0.2)
        if check.name == "storage"
    )
    waiting.set()
    assert (check.state, check.value) == ("fail", "no answer within 0.2 seconds")
    assert check.hint


def test_diagnose_broken_torch_is_a_failure_with_a_hint(tmp_path, monkeypatch):
    def broken(name):
        raise OSError("libcudart.so: cannot open\nshared object file")

    monkeypatch.setattr(diagnosis.importlib, "import_module", broken)
    check = found(tmp_path)["devices"]
    assert check.state == "fail"
    assert "libcudart.so" in check.value
    assert "\n" not in check.value
    assert "Install torch again" in check.hint


def test_diagnose_old_or_missing_package_fails(tmp_path, monkeypatch):
    lines = ["numpy>=999", "pytest; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(diagnosis, "PACKAGES", ("numpy", "no-such-package"))
    check = found(tmp_path)["packages"]
    assert check.state == "fail"
    assert "no-such-package is missing" in check.value
    assert "numpy must be >=999" in check.value


@pytest.mark.parametrize(("free", "state"), [(4e8, "fail"), (4e9, "warn"), (4e10, "ok")])
def test_diagnose_disk_tells_little_space(tmp_path, monkeypatch, free, state):
    usage = namedtuple("usage", "total used free")(1e12, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert found(tmp_path)["disk"].state == state


def test_diagnose_slow_storage_is_a_warning(tmp_path, monkeypatch, finished_workspace):
    monkeypatch.setattr(diagnosis, "SLOW", 0.0)
    assert found(finished_workspace.folder)["storage"].state == "warn"


def test_diagnose_hub_that_answers_is_reached(tmp_path, monkeypatch):
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        check = found(tmp_path)["hub"]
        server.shutdown()
    assert (check.state, check.hint) == ("ok", "")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert found(tmp_path)["hub"].state == "warn"
