import json

from glora_automl.pipeline import Workspace, open_run
from glora_automl.recipes import load_recipe
from tests.cli.conftest import FAST, sets


def test_show_prints_progress_architecture_result_and_cost(runs, glora):
    code, out, _ = glora("show", "tiny", "--runs", runs)
    assert code == 0
    for words in ("blocks.0.attn.qkv", "12 of 12 complete", "linear probe", "Pareto front"):
        assert words in out
    assert "Worker " in out
    assert out.count("blocks.0.attn.qkv") == 1
    assert "Cost" in out


def test_show_two_objectives_prints_the_pareto_front(folder, glora):
    options = sets(**{"search.objectives": '["accuracy", "n_params"]'})
    assert glora("search", "tiny.toml", *FAST, *options, "--quiet")[0] == 0
    document = json.loads(glora("show", "tiny", "--json")[1])
    shown = glora("show", "tiny")[1]
    assert "Pareto front" in shown
    assert document["front"]
    assert all(f"{point['n_params']:,}" in shown for point in document["front"])


def test_show_classes_prints_each_class_and_the_confusions(finished, runs, glora):
    code, out, _ = glora("show", "tiny", "--classes", "--runs", runs)
    assert code == 0
    assert "Classes on test images" in out
    for figures in finished.classes.figures():
        (line,) = (line for line in out.splitlines() if f"{100 * figures.f1:.1f}" in line
                   and line.split()[1] == figures.name)  # fmt: skip
        assert str(figures.support) in line
    assert "Most frequent confusions" in out
    assert "Confusion matrix" in out
    assert "Pareto front" not in out


def test_show_classes_of_an_unfinished_study_is_one_line(folder, error):
    with open_run(load_recipe("tiny.toml"), Workspace()):
        pass
    assert "must be finished and have test images" in error("show", "tiny", "--classes")


def test_show_unknown_study_names_the_known(runs, error):
    assert "tiny" in error("show", "tony", "--runs", runs)


def test_show_without_held_out_images_has_no_column_of_them(folder, glora):
    options = sets(**{"selection.holdout": "false", "selection.baselines": "false"})
    code, out, _ = glora("search", "tiny.toml", *FAST, *options, "--quiet")
    assert code == 0
    assert "The validation images were trained on" in " ".join(out.split())
    header = next(line for line in out.splitlines() if "parameters" in line and "test" in line)
    assert "validation" not in header
    code, out, _ = glora("compare", "tiny", "--only", "LoRA at equal cost", "--quiet")
    assert code == 0
    assert "Best preset by validation" not in out
    for command in ("show", "report"):
        assert glora(command, "tiny")[0] == 0
    assert "The validation images were trained on" in (folder / "tiny.html").read_text(
        encoding="utf-8"
    )
