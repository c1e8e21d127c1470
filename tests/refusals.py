"""What every reader of input from outside promises, and inputs that it may get."""

import copy

from hypothesis import strategies as st

from glora_automl._messages import LIMIT
from glora_automl.errors import GLoRAError

JUNK = (
    None, True, 0, -1, 10**18, 10**400, 1.5, float("nan"), float("inf"), "", "x", "../../x",
    "[/red]", "\x1b[31m", "\ud800", "9" * 10_000, [], [[]], [None], {}, {"a": None}, {"": {"": []}},
)  # fmt: skip
"""Values of any type, of which most readers refuse most."""

TEXTS = st.one_of(
    st.sampled_from(
        ["", " ", "-1", "nan", "1e999", "9" * 5000, "x" * 5000, "~nouser/x", "/dev/zero", "..",
         "[/red]", "\x1b[31m", "\udcff", "é" * 300, "smoke", "101%", "a=b", "x.toml", "s3://"]
    ),
    st.text(st.characters(exclude_characters="\0"), max_size=20),
)  # fmt: skip
"""Texts that a command line or a setting may have."""


def refusal(call, *args, **kwargs):
    """Call a reader; return its message if it refuses the input, None if it takes it.

    The message is one printable line of bounded length. Any other exception is a fault.
    """
    try:
        call(*args, **kwargs)
    except GLoRAError as error:
        check_line(str(error))
        return str(error)
    return None


def check_line(message):
    """Check that a message is one printable line of bounded length."""
    assert 0 < len(message) <= LIMIT, message
    assert message.isprintable(), message


def places(value, path=()):
    """Yield the paths of all values in a JSON document."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


@st.composite
def altered(draw, document):
    """Draw a copy of a JSON document with another value somewhere, or with one removed."""
    path = draw(st.sampled_from(list(places(document))))
    junk = draw(st.sampled_from([*JUNK, ...] if path else JUNK))
    if not path:
        return junk
    document = copy.deepcopy(document)
    owner = document
    for key in path[:-1]:
        owner = owner[key]
    if junk is ...:
        del owner[path[-1]]
    else:
        owner[path[-1]] = junk
    return document


@st.composite
def damaged(draw, text):
    """Draw a text with a part of it replaced."""
    begin = draw(st.integers(0, len(text)))
    end = min(len(text), begin + draw(st.integers(0, 40)))
    return text[:begin] + draw(TEXTS) + text[end:]
