import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from glora_automl import _messages
from glora_automl._messages import LIMIT, hide, one_line, redact, short
from glora_automl.errors import GLoRAError


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


def test_one_line_state_dict_error_names_one_tensor_and_counts_the_others():
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(3, 2), "extra": torch.zeros(1)})
    text = one_line(caught.value)
    assert text.count("key(s)") == 1
    assert text.endswith("; 2 more")
    assert "\n" not in text


@pytest.mark.parametrize("value", ["", "x" * 1000, "\n[/red]\ud800", ["a"] * 100, 10**100])
def test_short_is_one_bounded_printable_line(value):
    text = short(value, 40)
    assert len(text) <= 40
    assert text.isprintable()


SECRET = "gehe1m99"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://me:{SECRET}@host:5432/studies",
        f"postgresql://me:{SECRET}@host:port/studies",
        f"://me:{SECRET}@host/studies",
        f"postgresql:///me:{SECRET}@host/studies",
        f"postgresql+psycopg://host/studies?user=me&password={SECRET}",
        f"postgresql://host/studies?sslpassword={SECRET}&x=1",
        f"mysql+pymysql://me:{SECRET}@host/studies?passwd={SECRET}",
        f"mysql://host/studies?passwd={SECRET}",
        f"host=localhost user=me password={SECRET} dbname=studies",
        f"host=localhost password='{SECRET}' dbname=studies",
        f"{{'user': 'me', 'password': '{SECRET}'}}",
        f"Driver=x;PWD={SECRET};Server=y",
    ],
)
def test_redact_password_of_any_form_is_left_out(text):
    assert SECRET not in redact(text)
    assert "***" in redact(text)
    assert SECRET not in str(GLoRAError(f"It failed: {text}. Try again."))


def test_redact_hidden_password_is_left_out_of_other_texts(monkeypatch):
    monkeypatch.setattr(_messages, "_SECRETS", set())
    hide("postgresql://me:se@cr/et%2099@host/studies")
    for text in ("no host 'cr/et%2099@host'", "se@cr/et 99", "user et%2099@host"):
        assert "et 99" not in redact(text)
        assert "et%2099" not in redact(text)


@pytest.mark.parametrize(
    "text", ["class_token = False, reg_tokens = 4", "the pass = 3 of 4", "a:b@c", "sqlite:///a.db"]
)
def test_redact_other_text_is_kept(text):
    assert redact(text) == text


@given(st.text(max_size=2000))
def test_error_of_any_text_is_one_printable_line(text):
    message = str(GLoRAError(text))
    assert len(message) <= LIMIT
    assert message.isprintable()


def test_error_long_message_keeps_subject_and_hint():
    message = str(GLoRAError(f"`runs` must be new, got {'x' * 5000}. Choose another `runs`."))
    assert message.startswith("`runs` must be new, got xxx")
    assert message.endswith("xxx. Choose another `runs`.")


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.tuples(x, x)))
def test_shown_any_value_is_short_and_printable(value):
    assert len(short(value)) <= 80
    assert short(value).isprintable()
