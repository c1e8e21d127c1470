import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

from glora_automl import cli
from glora_automl.study import load_recipe, search
from tests.conftest import TINY


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


FAST = ("--trials", 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The runs folder of a finished study ``tiny``."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    search(load_recipe(str(folder / "tiny.toml")).replace(search={"trials": 3}), runs=folder)
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
    assert "optuna-dashboard sqlite:///runs/studies.db" in out
    assert (folder / "runs/tiny/winner.json").is_file()


def test_json_is_the_only_thing_on_standard_output(folder, glora):
    code, out, _ = glora("search", "tiny.toml", *FAST, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["trials"]["complete"] == 3
    assert document["result"][0]["test"]["images"] > 0
    assert json.loads(glora("show", "tiny", "--json")[1]) == document
    assert json.loads(glora("status", "--json")[1]) == [document]


def test_options_override_the_recipe(folder, glora):
    options = ("--name", "mine", "--budget", "300", "--seed", 4, "--runs", "there", "--quiet")
    _, out, err = glora("search", "tiny.toml", *FAST, *options, "--json")
    document = json.loads(out)
    assert err == ""
    assert document["study"] == "mine"
    assert document["budget"] == 300
    assert document["recipe"]["seed"] == 4
    assert (folder / "there/studies.db").is_file()


def test_status_and_show_tell_of_a_study(runs, glora):
    code, out, _ = glora("status", "--runs", runs)
    assert code == 0
    assert "tiny" in out
    assert "finished" in out
    assert "3/3" in out
    code, out, _ = glora("show", "tiny", "--runs", runs)
    assert code == 0
    assert "blocks.0.attn.qkv:" in out
    assert "3 of 3 complete" in out
    assert "linear probe" in out


def test_lists(glora):
    assert "digits" in glora("recipes")[1]
    assert json.loads(glora("spaces", "--json")[1]).keys() == {
        "default",
        "lora-ranks",
        "paper",
        "vectors",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "nothing"], ["'nothing'", "digits"]),
        (["search", "missing.toml"], ["missing.toml", "No such file"]),
        (["search", "tiny.toml", "--budget", "12q"], ["12q", "12k"]),
        (["search", "tiny.toml", "--trials", "0"], ["search.trials"]),
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
        (["show", "tiny"], ["no such file"]),
        (["status"], ["no such file"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in ("search", "show", "status") else "",
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


def run_in_background(folder):
    command = [sys.executable, "-m", "glora_automl", "search", "tiny.toml", "--quiet"]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"it ended early: {process.stderr.read()}"
        assert time.monotonic() < end, "it did not come so far"
        time.sleep(0.005)


def complete_trials(folder):
    """(params, value) of the complete trials; none while there is no study yet."""
    url = f"sqlite:///{folder}/runs/studies.db"
    if not (folder / "runs/studies.db").exists():
        return []
    try:
        study = optuna.load_study(study_name="tiny", storage=url)
    except KeyError:
        return []
    return [(t.params, t.value) for t in study.get_trials(states=(TrialState.COMPLETE,))]


def test_killed_in_training_and_in_search_it_ends_with_the_same_trials(folder, glora, tiny_toml):
    text = tiny_toml.replace("checkpoint_every = 2", "checkpoint_every = 1")
    text = text.replace("epochs = 12", "epochs = 60").replace("trials = 12", "trials = 30")
    text = text.replace("[selection]", "[selection]\ncontrols = false")
    (folder / "tiny.toml").write_text(text, encoding="utf-8")

    process = run_in_background(folder)
    wait_until((folder / "runs/tiny/supernet.json").exists, process)
    kill(process)
    done = len(json.loads((folder / "runs/tiny/supernet.json").read_text())["state"]["losses"])
    assert 0 < done < 60, "the kill must come in the middle of the training"

    process = run_in_background(folder)
    wait_until(lambda: len(complete_trials(folder)) >= 5, process)
    kill(process)
    assert 5 <= len(complete_trials(folder)) < 30, "the kill must come in the middle of the search"

    code, out, _ = glora("search", "tiny.toml", "--json")
    assert code == 0
    killed = complete_trials(folder)
    (folder / "fresh").mkdir()
    code, fresh, _ = glora("search", "tiny.toml", "--runs", "fresh/runs", "--json")
    assert code == 0
    assert killed == complete_trials(folder / "fresh")
    assert len(killed) == 30
    tables = [json.loads(text)["result"] for text in (out, fresh)]
    for row in [*tables[0], *tables[1]]:
        del row["seconds"]
    assert tables[0] == tables[1]
    assert not list((folder / "runs/tiny").glob(".*.tmp"))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_says_how_to_go_on(folder):
    process = run_in_background(folder)
    wait_until((folder / "runs/tiny").exists, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == (
        "Stopping at the next safe point; another Ctrl-C stops at once.\n"
        "Interrupted: run the same command again to go on.\n"
    )
