from io import StringIO

from rich.console import Console

from glora_automl.report import accuracy_text, result_table
from glora_automl.study import Row
from glora_automl.supernet import Score


def printed(table):
    console = Console(file=StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()


def test_rows_show_figures_with_their_standard_error():
    score = Score(accuracy=0.5, loss=1.0, images=100)
    text = printed(result_table([Row("BitFit", 1234, score, score, 700, 1.25)], 5000))
    assert "5,000" in text
    (line,) = (line for line in text.splitlines() if "BitFit" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == [
        "BitFit",
        "1,234",
        "50.0 ± 5.0",
        "50.0 ± 5.0",
        "700",
        "1.2",
    ]


def test_what_does_not_fit_the_budget_says_so():
    assert "none fits" in printed(result_table([Row("LoRA")], 0))
    assert accuracy_text(None) == "–"


def test_other_domains_have_a_line_each_and_their_mean():
    score = Score(accuracy=0.5, loss=1.0, images=100)
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
