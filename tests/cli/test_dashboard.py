import json
import os
import signal
import urllib.request
from pathlib import Path

import pytest

from glora_automl.report import DashboardServer
from tests import processes
from tests.storages.servers import postgresql


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_dashboard_serves_the_studies_until_a_signal(runs, error, number, code):
    arguments = ("dashboard", "--runs", str(runs), "--port", 0)
    process = processes.start(processes.glora, *arguments, folder=runs)
    try:
        process.wait_until(lambda: process.out.endswith("\n"))
        line = process.out
        assert line.endswith("(Ctrl-C ends it)\n")
        url = line.split()[1]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}api/studies", timeout=60) as answer:
            names = [study["study_name"] for study in json.load(answer)["study_summaries"]]
        assert names == ["tiny"]
        port = url.rstrip("/").rpartition(":")[2]
        message = error("dashboard", "--runs", runs, "--port", port)
        assert f"'127.0.0.1:{port}' (Address already in use)" in message
        process.send_signal(number)
        assert process.wait(60) == code
        assert (process.out.rstrip(), process.err) == (line.rstrip(), "")
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("options", "may"), [((), "can read the"), (("--write",), "can read and annotate the")]
)
def test_dashboard_open_address_warns(runs, glora, monkeypatch, options, may):
    monkeypatch.setattr(DashboardServer, "serve_forever", lambda server: None)
    arguments = ("dashboard", "--runs", runs, "--port", 0, "--host", "0.0.0.0")
    code, out, err = glora(*arguments, *options)
    assert code == 0
    assert out.startswith("Dashboard: http://")
    assert err.count("\n") == 1
    assert may in err


def test_dashboard_of_an_empty_database_starts(folder, glora, error, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(DashboardServer, "serve_forever", lambda server: None)
    with postgresql(tmp_path_factory.mktemp("pg")) as url:
        code, out, err = glora("dashboard", "--storage", url, "--port", 0)
        assert (code, err) == (0, "")
        assert out.startswith("Dashboard: http://")
    assert "no such file" in error("dashboard", "--storage", "sqlite:///none.db")
    assert not Path("none.db").exists()


def test_dashboard_unknown_grouping_is_one_line(folder, error):
    message = error("dashboard", "--by", "depth")
    assert "block, kind, tensor, layer" in message
    assert "'depth'" in message
