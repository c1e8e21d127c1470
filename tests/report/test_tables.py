from io import StringIO

from rich.console import Console

from glora_automl.architecture import TENSORS
from glora_automl.report import (
    PICTURES,
    Snapshot,
    accuracy_text,
    cost_table,
    grid_blocks,
    metric_title,
    result_table,
)
from glora_automl.report._tables import result_texts
from glora_automl.study import Cost, Row, Stage
from glora_automl.training import Score
from tests.report.studies import made_study


def printed(table):
    console = Console(file=StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_result_table_shows_accuracies_with_intervals():
    score = Score(accuracy=0.5, loss=1.0, n_images=100)
    text = printed(result_table([Row("BitFit", 1234, score, score, 700, 1.25)], 5000))
    assert "5,000" in text
    (line,) = (line for line in text.splitlines() if "BitFit" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "BitFit",
        "1,234",
        "50.0 (40–60)",
        "50.0 (40–60)",
        "700",
        "1.2",
    ]


def test_result_table_of_a_row_without_parameters_shows_none_fits():
    assert "none fits" in printed(result_table([Row("LoRA")], 0))
    assert accuracy_text(None) == "–"


def test_result_table_has_a_line_per_domain_and_their_mean():
    score = Score(accuracy=0.5, loss=1.0, n_images=100)
    domains = {"art": Score(0.2, 2.0, 10), "sketch": Score(0.5, 1.0, 1000)}
    row = Row("searched", 1234, score, score, 700, 1.25, domains)
    assert Row.from_json(row.to_json()) == row
    lines = printed(result_table([row], 5000)).splitlines()
    (art,) = (line for line in lines if "on art" in line)
    (mean,) = (line for line in lines if "mean of 2 domains" in line)
    assert "20.0" in art
    assert "35.0" in mean
    assert Row("LoRA").domain_mean is None


def test_row_without_domains_is_read():
    table = Row("BitFit", 12).to_json()
    del table["domains"]
    assert Row.from_json(table) == Row("BitFit", 12)


def test_grid_blocks_have_texts_and_colours():
    study, space = made_study(trials=5)
    picture = PICTURES["architecture"](Snapshot.of(study))
    console = Console(record=True, width=40, color_system="truecolor", force_terminal=True)
    console.print(grid_blocks(picture), soft_wrap=True)
    plain = console.export_text(clear=False).splitlines()
    assert plain[0] == picture.title
    assert plain[1].split() == list(TENSORS)
    architecture = space.architecture(study.best_trial.params)
    for line, (layer, choices) in zip(plain[2:], architecture.items(), strict=True):
        shown = ["·" if choice.kind == "none" else str(choice) for choice in choices]
        assert line.split() == [layer, *shown]
    html = console.export_html()
    assert "#deebf7" in html, "scalars have the lightest colour"


def test_cost_table_omits_unmeasured_columns():
    costs = [
        Cost(Stage.BACKBONE, "a", 1, 2.0, peak_mib=500.25),
        Cost(Stage.SEARCH, "a", 10, 3.0, 1000, 500, peak_mib=600.0),
        Cost(Stage.SEARCH, "b", 5, 1.0, 500),
    ]
    table = cost_table(costs)
    assert table.columns == ("stage", "worker", "times", "seconds", "images", "memory MiB")
    assert table.lines == [
        ("backbone", "a", "1", "2.0", "–", "500"),
        ("search", "a", "10", "3.0", "1,500", "600"),
        ("search", "b", "5", "1.0", "500", "–"),
        ("total", "2 workers", "16", "6.0", "2,000", "600"),
    ]
    joules = cost_table([Cost(Stage.SEARCH, "a", 1, 1.0, 1, joules=2500.0)])
    assert joules.columns[-1] == "energy kJ"
    assert joules.lines[-1][-1] == "2.50"
    assert cost_table([]).lines == []


def test_result_table_notes_stand_below_as_they_are():
    text = printed(result_table([Row("LoRA")], 0, ["1 class has no test image: 'car [/red]'."]))
    assert text.splitlines()[-1].strip() == "1 class has no test image: 'car [/red]'."


def test_result_table_shows_another_metric_below_each_accuracy():
    score = Score(accuracy=0.5, loss=1.0, n_images=100, custom=0.875)
    row = Row("searched", 1234, score, score._replace(custom=None), 700, 1.25, {"art": score})
    for metric, value in (("auroc", "0.875"), ("balanced_accuracy", "87.5")):
        lines = result_texts([row, Row("LoRA")], metric).lines
        title = metric_title(metric)
        assert lines[1] == (f"  {title}", "", value, "–", "", "")
        assert lines[3] == (f"  {title} on art", "", "–", value, "", "")
        assert [line[0] for line in lines[-2:]] == ["  mean of 1 domains", "LoRA"]
    assert len(result_texts([row]).lines) == 3


def test_result_texts_name_a_selected_baseline_first():
    score = Score(accuracy=0.72, loss=1.0, n_images=150)
    rows = [Row(name, 10, score, score) for name in ("searched", "linear probe", "BitFit")]
    names = [line[0] for line in result_texts(rows, preset="BitFit").lines]
    assert names == ["selected: BitFit", "searched", "linear probe"]
    assert [line[0] for line in result_texts(rows).lines] == ["searched", "linear probe", "BitFit"]
