from glora_automl._markdown import markdown_table


def test_markdown_table_aligns_all_columns_but_the_first_to_the_right():
    assert markdown_table(("task", "x"), [("low", "1"), ("high", "2")]).splitlines() == [
        "| task | x |",
        "| --- | ---: |",
        "| low | 1 |",
        "| high | 2 |",
    ]


def test_markdown_table_cell_with_a_bar_or_a_line_break_stays_one_cell():
    *_, line = markdown_table(("a|b", "x"), [("day|night\nsky", "1")]).splitlines()
    assert line == r"| day\|night sky | 1 |"
