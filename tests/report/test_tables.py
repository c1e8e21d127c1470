from io import StringIO

from rich.console import Console

from glora_automl.architecture import TENSORS
from glora_automl.report import (
    PICTURES,
    Snapshot,
    accuracy_text,
    cost_table,
    grid_blocks,
    result_table,
)
from glora_automl.study import Cost, Row
from glora_automl.training import Score
from tests.report.studies import made_study


def printed(table):
    console = Console(file=StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_rows_show_figures_with_their_intervals():
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


def test_what_does_not_fit_the_budget_says_so():
    assert "none fits" in printed(result_table([Row("LoRA")], 0))
    assert accuracy_text(None) == "–"


def test_other_domains_have_a_line_each_and_their_mean():
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


def test_rows_of_studies_from_before_domains_are_read():
    table = Row("BitFit", 12).to_json()
    del table["domains"]
    assert Row.from_json(table) == Row("BitFit", 12)


def test_the_grid_is_printed_in_blocks_of_colour():
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


def test_costs_leave_out_what_nobody_tells():
    costs = [
        Cost("backbone", "a", 1, 2.0, 0, 500.25),
        Cost("search", "a", 10, 3.0, 1500, 600.0),
        Cost("search", "b", 5, 1.0, 500),
    ]
    table = cost_table(costs)
    assert table.columns == ("stage", "worker", "times", "seconds", "images", "memory MiB")
    assert table.lines == [
        ("backbone", "a", "1", "2.0", "–", "500"),
        ("search", "a", "10", "3.0", "1,500", "600"),
        ("search", "b", "5", "1.0", "500", "–"),
        ("all", "2 workers", "16", "6.0", "2,000", "600"),
    ]
    joules = cost_table([Cost("search", "a", 1, 1.0, 1, joules=2500.0)])
    assert joules.columns[-1] == "energy kJ"
    assert joules.lines[-1][-1] == "2.50"
    assert cost_table([]).lines == []
