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
