import pytest
import torch
from torch import nn

from glora_automl._messages import one_line, short


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("No such file.\nSee the manual."), "No such file"),
        (ValueError("\n  \nsecond line"), "second line"),
        (ValueError(), "ValueError"),
        (KeyError("depth"), "'depth' is missing"),
    ],
)
def test_one_line_returns_the_first_line_without_full_stop(error, text):
    assert one_line(error) == text


def test_one_line_long_message_is_shortened():
    text = one_line(ValueError("word " * 100))
    assert len(text) <= 200
    assert text.endswith("word")


def test_one_line_state_dict_error_names_two_tensors():
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(3, 2), "extra": torch.zeros(1)})
    text = one_line(caught.value)
    assert text.count("key(s)") == 2
    assert text.endswith("; 1 more")
    assert "\n" not in text


@pytest.mark.parametrize("value", ["", "x" * 1000, "\n[/red]\ud800", ["a"] * 100, 10**100])
def test_short_is_one_bounded_printable_line(value):
    text = short(value, 40)
    assert len(text) <= 40
    assert text.isprintable()
