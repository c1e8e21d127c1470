import json
from pathlib import Path

import pytest

from glora_automl.errors import TrainingError
from glora_automl.study import Comparison, RankCorrelation, Row
from glora_automl.training import Score

FOLDER = Path(__file__).parents[2] / "benchmarks"


def documents(*paths):
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def test_small_mode_compares_all_methods_and_continues(benchmark_script, tmp_path, capsys):
    out, runs = tmp_path / "out.json", tmp_path / "runs"
    arguments = ["digits", "--small", "--seeds=1", "--budgets", "50%", "--n-architectures=2"]
    arguments += ["--set", "selection.holdout=true", f"--runs={runs}"]
    benchmark_script("quality", *arguments, f"--out={out}")
    printed = capsys.readouterr().out
    (document,) = documents(out)
    (pair,) = document["pairs"]
    figures = document["figures"]["50%"]
    methods = figures["views"]["all tasks"]["methods"]
    for name in (
        "searched",
        "selected by validation",
        "best preset by validation",
        "LoRA at equal cost",
        "random truncations",
        "one random truncation",
        "uniform truncation",
        "searched, from scratch",
        "linear probe",
        "LoRA, highest rank",
        "BitFit",
    ):
        assert name in methods
        assert name in printed
    assert figures["rho"] is None or -1 <= figures["rho"]["mean"] <= 1
    assert str(tmp_path) not in document["command"]
    # Supernet 4 of 4 epochs on 100 images, 6 trials of 150 validation images, 2 epochs from
    # inherited weights, of which both scores count, and 2 on all 250 images.
    search = 3 * (4 * 100 + 2 * 100 + 2 * 250) + (6 + 2) * 150
    assert pair["costs"]["searched"] == search
    assert pair["training"] == 3 * 4 * 100
    assert methods["searched"]["cost"] == pytest.approx(search / pair["training"])
    # At equal cost, in whole epochs of 250 images.
    assert pair["costs"]["LoRA at equal cost"] == pytest.approx(search, abs=3 * 250 / 2)
    # A preset is trained on 100 images, validated, and trained again on all of them.
    assert pair["costs"]["linear probe"] == 3 * (4 * 100 + 2 * 250) + 150
    truncation = 3 * (4 * 100 + 2 * 100 + 2 * 250) + 2 * 150
    assert pair["costs"]["uniform truncation"] == truncation
    assert pair["costs"]["random truncations"] == truncation + 6 * 150

    # Finished studies are read: without the file, and without the runs folder.
    out.rename(tmp_path / "first.json")
    benchmark_script("quality", *arguments, f"--out={out}")
    again = capsys.readouterr()
    assert again.out == printed
    assert "epochs" not in again.err
    assert documents(out)[0]["pairs"] == document["pairs"]
    benchmark_script("quality", *arguments[:-1], f"--runs={tmp_path / 'no'}", f"--out={out}")
    assert capsys.readouterr().out == printed
    assert not (tmp_path / "no").exists()

    with pytest.raises(SystemExit) as stopped:
        benchmark_script("quality", "digits", "--small", "--n-architectures=2")
    assert stopped.value.code == 2
    assert "needs --set selection.holdout=true" in capsys.readouterr().err

    with pytest.raises(SystemExit) as stopped:
        benchmark_script("quality", *arguments, f"--out={out}", "--quick")
    assert stopped.value.code == 2
    assert "--out must be a new file or have the same settings" in capsys.readouterr().err

    quick = tmp_path / "quick.json"
    benchmark_script("quality", *arguments, f"--out={quick}", "--quick")
    (short,) = documents(quick)[0]["pairs"]
    whole = {row["name"]: row for row in pair["comparison"]["rows"]}
    names = [row["name"] for row in short["comparison"]["rows"]]
    assert names[:3] == ["searched", "LoRA at equal cost", "linear probe"]
    assert len(names) == 5
    assert all(row == whole[row["name"]] for row in short["comparison"]["rows"])
    assert short["costs"]["searched"] == search


def test_jobs_in_parallel_have_the_figures_of_jobs_in_turn(benchmark_script, tmp_path):
    arguments = ["digits", "--small", "--seeds=2", "--quick"]
    found = []
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}.json"
        place = [f"--runs={tmp_path / str(jobs)}", f"--out={out}", f"--jobs={jobs}"]
        benchmark_script("quality", *arguments, *place)
        (document,) = documents(out)
        pairs = {pair["study"]: pair for pair in document["pairs"]}
        for pair in pairs.values():
            for row in pair["comparison"]["rows"]:
                del row["seconds"]
        found.append(pairs)
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_a_failed_pair_does_not_end_the_others(benchmark_script, monkeypatch, tmp_path, capsys):
    module = benchmark_script("quality")

    def measure(job):
        if job.recipe.seed == 0:
            raise TrainingError("The loss is not finite.")
        return pair("digits", job.recipe.seed, {"searched": 0.8, "linear probe": 0.7})

    monkeypatch.setattr(module, "measure_pair", measure)
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["quality.py", "digits", "--seeds=2", f"--out={out}"])
    with pytest.raises(SystemExit, match="1 of 2 pairs failed"):
        module.main()
    assert "digits-seed0: The loss is not finite." in capsys.readouterr().err
    assert [p["seed"] for p in documents(out)[0]["pairs"]] == [1]


@pytest.mark.parametrize("option", ["--tasks", "--tuned-on"])
def test_unknown_tasks_are_refused(benchmark_script, capsys, option):
    with pytest.raises(SystemExit) as stopped:
        benchmark_script("quality", "digits", "--small", option, "other")
    assert stopped.value.code == 2
    assert f"{option} must name" in capsys.readouterr().err


def test_the_command_has_no_folder_of_the_machine(benchmark_script, monkeypatch):
    module = benchmark_script("quality")
    words = ["quality.py", "suite.toml", "--data", "/data/x", "--runs=/tmp/runs", "--out", "a.json"]
    words += ["--set", "backbone.checkpoint=/data/x/weights.safetensors"]
    monkeypatch.setattr("sys.argv", words)
    command = module.portable_command("/data/x/")
    assert command == (
        "python quality.py suite.toml --data FOLDER --runs=runs --out a.json "
        "--set backbone.checkpoint=FOLDER/weights.safetensors"
    )


@pytest.mark.parametrize("folder", [".", "/", "/data", "data"])
def test_a_short_folder_changes_no_other_word(benchmark_script, monkeypatch, folder):
    module = benchmark_script("quality")
    words = ["benchmarks/quality.py", "digits", "--seeds", "2", "--set", "task.path=/data2/x.npz"]
    monkeypatch.setattr("sys.argv", [*words, "--data", folder])
    command = module.portable_command(folder)
    assert command.startswith("python benchmarks/quality.py digits --seeds 2 --set task.path=")
    assert command.endswith("x.npz --data FOLDER")


@pytest.mark.parametrize("suite", ["npz-suite", "realnet-suite"])
def test_suites_find_images_and_checkpoint_in_the_folder(benchmark_script, tmp_path, suite):
    module = benchmark_script("quality")
    checkpoint = {"npz-suite": "backbone", "realnet-suite": "tf_efficientnet_lite0"}[suite]
    (tmp_path / f"{checkpoint}.safetensors").touch()
    suite_file = FOLDER / f"{suite}.toml"
    text = suite_file.read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("path"):
            (tmp_path / line.split('"')[1]).touch()
    arguments = module.create_parser().parse_args(
        [str(suite_file), f"--data={tmp_path}", "--seeds=2"]
    )
    jobs = module.find_jobs(arguments)
    assert len(jobs) == 2 * len({job.task for job in jobs})
    assert len({job.recipe.name for job in jobs}) == len(jobs)
    for job in jobs:
        assert job.recipe.backbone.checkpoint == str(tmp_path / f"{checkpoint}.safetensors")
        assert job.recipe.task.path.startswith(str(tmp_path))


def pair(task, seed, tests, rho=None):
    """Return a pair of methods with these test accuracies."""
    rows = tuple(
        Row(name, n_params=100, validation=Score(0.5, 1.0, 10), test=Score(test, 1.0, 100))
        for name, test in tests.items()
    )
    inherited = None if rho is None else RankCorrelation(rho, None, None, ())
    presets = [row.name for row in rows if row.name != "searched"]
    costs = dict.fromkeys([*tests, "selected by validation", "best preset by validation"], 300)
    return {
        "study": f"{task}-{seed}",
        "task": task,
        "budget": "declared",
        "seed": seed,
        "training": 100,
        "costs": costs,
        "selected": "searched",
        "comparison": Comparison(100, rows, presets[0], inherited).to_json(),
    }


def test_differences_average_the_seeds_of_a_task(benchmark_script):
    module = benchmark_script("_quality")
    found = [
        ("a", 0, {"searched": 0.90, "linear probe": 0.70, "BitFit": 0.80}),
        ("a", 1, {"searched": 0.90, "linear probe": 0.70, "BitFit": 0.84}),
        ("b", 0, {"searched": 0.50, "linear probe": 0.45, "BitFit": 0.505}),
        ("c", 0, {"searched": 0.60, "linear probe": 0.65}),
    ]
    figures = module.summarize([pair(*each, rho=0.5) for each in found])["declared"]
    bitfit = figures["views"]["all tasks"]["methods"]["BitFit"]
    assert (bitfit["n_tasks"], bitfit["n_pairs"]) == (2, 3)  # c has no BitFit
    assert bitfit["test"] == pytest.approx((0.82 + 0.505) / 2)
    assert bitfit["cost"] == pytest.approx(3)
    over_tasks, over_pairs = bitfit["over_tasks"], bitfit["over_pairs"]
    assert over_tasks["difference"] == pytest.approx((0.08 - 0.005) / 2)
    assert [over_tasks[key] for key in ("ahead", "level", "behind")] == [1, 1, 0]
    assert over_pairs["difference"] == pytest.approx((0.10 + 0.06 - 0.005) / 3)
    assert [over_pairs[key] for key in ("ahead", "level", "behind")] == [2, 1, 0]
    # Student's t for two tasks.
    assert over_tasks["interval"] == pytest.approx(12.7062 * 0.0425, rel=1e-4)
    searched = figures["views"]["all tasks"]["methods"]["searched"]
    assert searched["n_collapses"] == 1
    assert figures["tasks"]["a"]["BitFit"] == pytest.approx(0.82)
    assert figures["rho"]["mean"] == pytest.approx(0.5)


def test_saturated_and_tuned_tasks_are_reported_apart(benchmark_script):
    module = benchmark_script("_quality")
    pairs = [
        pair("flat", 0, {"searched": 0.81, "linear probe": 0.80, "BitFit": 0.79}),
        pair("tuned", 0, {"searched": 0.90, "linear probe": 0.80, "BitFit": 0.80}),
        pair("other", 0, {"searched": 0.70, "linear probe": 0.60, "BitFit": 0.90}),
    ]
    figures = module.summarize(pairs, ["tuned"])["declared"]
    assert figures["saturated"] == ["flat"]
    assert {name: view["tasks"] for name, view in figures["views"].items()} == {
        "all tasks": ["flat", "tuned", "other"],
        "saturated tasks": ["flat"],
        "tasks that are not saturated": ["tuned", "other"],
        "tasks that no setting was chosen on": ["flat", "other"],
    }
    view = figures["views"]["tasks that no setting was chosen on"]
    assert view["methods"]["searched"]["test"] == pytest.approx((0.81 + 0.70) / 2)


def test_lora_of_any_rank_has_one_name(benchmark_script):
    module = benchmark_script("_quality")
    tests = {"searched": 0.9, "linear probe": 0.5, "LoRA r=8": 0.8, "LoRA r=16": 0.7}
    found = module.methods(pair("a", 0, tests))
    assert found["LoRA, highest rank"].test == 0.7
    assert found["LoRA r=8"].test == 0.8
    attended = {"searched": 0.9, "linear probe": 0.5, "LoRA r=1 in attention": 0.6}
    assert module.methods(pair("a", 0, attended))["LoRA, highest rank"].test == 0.6
