"""The log: time stamps, JSON lines, files."""

import json
import logging
from datetime import datetime

import pytest

from glora_automl.errors import StorageError
from glora_automl.progress import LogProgress, ProgressGroup, log_to_file


@pytest.mark.parametrize("kind", ["text", "json"])
def test_log_to_file_writes_lines_with_time_stamps(tmp_path, kind):
    path = tmp_path / "new/a.log"
    progress = LogProgress()
    with log_to_file(path, kind, "host-1"), progress.stage("Search", 2, "trials") as advance:
        progress.log("Storage: postgresql://me:secret@db/x\nand more")
        advance(2, "best 90%")
    progress.log("after the block")
    lines = path.read_text(encoding="utf-8").splitlines()
    if kind == "text":
        stamps, messages = zip(*(line.split(" INFO ", 1) for line in lines), strict=True)
    else:
        tables = [json.loads(line) for line in lines]
        stamps, messages = zip(*((t["time"], t["message"]) for t in tables), strict=True)
        assert {(t["level"], t["worker"], t["logger"]) for t in tables} == {
            ("INFO", "host-1", "glora_automl")
        }
    assert all(datetime.fromisoformat(stamp).tzinfo for stamp in stamps)
    assert messages[0] == "Search: 2 trials"
    assert messages[1] == "Storage: postgresql://me:***@db/x and more"
    assert messages[2].startswith("Search: 2/2 trials")
    assert len(messages) == 3


def test_log_to_file_restores_the_level(tmp_path):
    logger = logging.getLogger("glora_automl")
    before = logger.level, list(logger.handlers)
    with log_to_file(tmp_path / "a.log", "text"):
        assert logger.isEnabledFor(logging.INFO)
    assert (logger.level, logger.handlers) == before


@pytest.mark.parametrize("name", ["", "file/a.log", "file/folder/a.log"])
def test_log_to_file_of_a_folder_or_below_a_file_raises(tmp_path, name):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StorageError, match="The log file must be writable"),
        log_to_file(tmp_path / name, "text"),
    ):
        pass


def test_log_progress_is_caught_by_logging(caplog):
    with caplog.at_level(logging.INFO, "glora_automl"):
        ProgressGroup([LogProgress()]).log("Three images are copies.")
    assert caplog.messages == ["Three images are copies."]
