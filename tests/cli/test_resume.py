import errno
import json
from pathlib import Path

import optuna
import pytest
import torch

from glora_automl._files import write_atomic
from glora_automl.commands import _search
from glora_automl.errors import Stopped
from glora_automl.pipeline import Context
from glora_automl.pipeline._shared_checkpoint import SharedCheckpoint
from tests.cli.conftest import FAST
from tests.conftest import TINY
from tests.tasks.files import write_classes

STUDIES = "sqlite:///runs/studies.db"


def test_resume_in_an_empty_folder_has_the_same_result(folder, glora, error, monkeypatch):
    code, out, _ = glora("search", "tiny.toml", *FAST, "--json")
    assert code == 0
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    url = f"sqlite:///{folder}/runs/studies.db"
    code, again, _ = glora("resume", "tiny", "--storage", url, "--json")
    assert code == 0
    assert json.loads(again)["result"] == json.loads(out)["result"]
    assert Path("runs/tiny/winner.json").is_file()
    code, more, _ = glora("resume", "tiny", "--storage", url, "--n-trials", 4, "--json")
    assert code == 0
    assert json.loads(more)["trials"]["complete"] == 4


def test_resume_moved_images_are_found_with_data(folder, glora, error):
    write_classes(folder / "zoo", {"ant": 12, "bee": 12})
    before, after = TINY.split("[task]")
    text = before + '[task]\nsource = "folder"\npath = "zoo"\nshots = 4\n\n'
    text += after[after.index("[backbone]") : after.index("[backbone.pretraining]")]
    text += after[after.index("[training]") :].replace("epochs = 12", "epochs = 2")
    (folder / "zoo.toml").write_text(text, encoding="utf-8")
    code, out, err = glora("search", "zoo.toml", *FAST, "--json")
    assert code == 0, err
    (folder / "zoo").rename(folder / "elsewhere")
    assert "task.path must be a folder, got 'zoo'" in error("resume", "zoo")
    code, again, err = glora("resume", "zoo", "--data", "elsewhere", "--json")
    assert code == 0, err
    assert json.loads(again)["result"] == json.loads(out)["result"]


def test_resume_absent_journal_is_an_error(folder, error):
    assert "no such file" in error("resume", "tiny", "--storage", "other.log")


@pytest.fixture
def stopped(folder, error, monkeypatch):
    """A study that a full disk ended in the training of its supernet."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(path, fill):
        def half(file):
            fill(file)
            if path.name.startswith("supernet"):
                full()

        write_atomic(path, half)

    with monkeypatch.context() as patch:
        patch.setattr(SharedCheckpoint, "publish", full)
        patch.setattr("glora_automl.training._checkpoint.write_atomic", write)
        message = error("search", "tiny.toml", "--quiet")
    assert "No space left on device. Free disk space" in message
    return optuna.load_study(study_name="tiny", storage=STUDIES)


def test_resume_after_a_full_disk_has_the_uninterrupted_result(stopped, folder, runs, glora):
    assert not list(folder.rglob("*.tmp"))
    assert not list((folder / "runs/tiny").glob("supernet*"))
    code, out, _ = glora("resume", "tiny", "--json")
    assert code == 0
    expected = json.loads(glora("show", "tiny", "--runs", runs, "--json")[1])
    found = json.loads(out)
    for row in [*found["result"], *expected["result"]]:
        del row["seconds"]
    assert found["result"] == expected["result"]


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("format", 99, ["must have format", "got 99"]),
        ("format", 0, ["must have format", "got 0"]),
        ("format", None, ["tiny"]),
        ("digests", {"data": "0" * 64, "search space": "?"}, ["data", "0" * 16, "the same data"]),
        ("artifacts", "/not/here", ["/not/here", "--artifacts"]),
        ("artifacts", "s3://nobody/x", ["s3://nobody/x"]),
    ],
)
def test_resume_study_of_another_machine_or_version_is_one_line(
    stopped, error, attribute, value, words, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    if attribute == "format":
        stopped.set_user_attr("glora:format", value)
    else:
        settings = stopped.user_attrs["glora:settings"]
        stopped.set_user_attr("glora:settings", {**settings, attribute: value})
    message = error("resume", "tiny", "--quiet")
    for word in words:
        assert word in message


def test_resume_other_backbone_under_the_same_name_is_refused(folder, glora, error, monkeypatch):
    """timm or a hub may have other weights under the same name."""
    before, after = TINY.split("[backbone.pretraining]")
    (folder / "tiny.toml").write_text(before + after[after.index("[training]") :], encoding="utf-8")

    def stop(run):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(_search, "load_supernet", stop)
        assert glora("search", "tiny.toml", "--quiet")[0] == 128
    create = Context.create_backbone

    def other(self):
        model = create(self)
        with torch.no_grad():
            next(model.parameters()).add_(1)
        return model

    monkeypatch.setattr(Context, "create_backbone", other)
    assert "The backbone of the study 'tiny' must have the digest" in error(
        "resume", "tiny", "--quiet"
    )
