import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from glora_automl.progress import ParameterGrid, SearchState, TerminalProgress, shade
from glora_automl.progress._blocks import sparkline
from glora_automl.progress._pace import Pace
from glora_automl.progress._panel import WIDTH, StageLine, StagePanel
from glora_automl.progress._terminal import _Frame

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def pretended(width=160, height=40, **options):
    """A rich console on a pretended terminal."""
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, **options)


@pytest.fixture
def terminal():
    """Progress on a terminal, and what it shows without control sequences."""
    console = pretended()
    return TerminalProgress(console), lambda: SEQUENCE.sub("", console.file.getvalue())


def made_state(blocks=12, **changes):
    counts = tuple(
        tuple(10 * (row + 1) * (block > 0) for block in range(blocks)) for row in range(2)
    )
    grid = ParameterGrid(("A", "B"), tuple(f"blocks.{i}" for i in range(blocks)), counts)
    return SearchState(
        **{
            "best": 0.8071,
            "objective": "accuracy",
            "n_params": 9487,
            "budget": 10102,
            "recent": (0.5, 0.6, 0.7),
            "generation": (5, 6),
            "workers": 3,
            "running": 2,
            "grid": grid,
            **changes,
        }
    )


def drawn(view, **options):
    """The lines of a view, and what the terminal gets."""
    console = pretended(**options)
    console.print(view)
    return SEQUENCE.sub("", console.file.getvalue()).splitlines(), console.file.getvalue()


def panel(state, **options):
    return drawn(StagePanel("Search", Pace(300, "trials"), state), **options)


def test_the_bar_shows_title_count_unit_and_note(terminal):
    bar, shown = terminal
    with bar.stage("Search", 3, "trials") as advance:
        advance(1)
        advance(1, "best 90% [of 3]")
        advance(0)
    last = shown().splitlines()[-1]
    assert last.startswith("Search ")
    assert "2/3 trials" in last
    assert re.search(r"\d\.\d trials/s", last)
    assert "best 90% [of 3]" in last


def test_the_rate_of_the_bar_leaves_earlier_steps_out(clock):
    pace = Pace(100, "trials")
    pace.step(80, earlier=True)
    clock.now += 10
    pace.step(5, earlier=False)
    (line,), _ = drawn(StageLine("Search", pace), width=120)
    assert "85/100 trials" in line
    assert "0.5 trials/s" in line
    assert line.rstrip().endswith("0:30 left")
    (line,), _ = drawn(StageLine("Search", pace, end=True), width=120)
    assert line.rstrip().endswith("0:10 in all")


def test_the_bar_survives_a_stage_without_steps(terminal):
    bar, shown = terminal
    with bar.stage("Search", 0, "trials") as advance:
        advance(0)
    assert "0/0" in shown()


def test_say_prints_square_brackets_as_they_are(terminal):
    bar, shown = terminal
    bar.log("a [bold]b[/bold] 12")
    assert shown() == "a [bold]b[/bold] 12\n"


def test_a_stage_that_fails_gives_the_terminal_back(terminal):
    bar, shown = terminal
    with pytest.raises(ZeroDivisionError), bar.stage("Search", 3, "trials"):
        raise ZeroDivisionError
    with bar.stage("Search", 3, "trials") as advance:
        advance(3)
    assert "3/3 trials" in shown().splitlines()[-1]


def test_a_search_has_a_panel_that_stays_at_its_end(terminal):
    bar, shown = terminal
    with bar.stage("Search", 300, "trials") as advance:
        advance(300, made_state())
    text = shown()
    for told in (
        "Search",
        "300/300 trials",
        "in all",
        "80.7%, 9,487 parameters",
        "94% of 10,102",
        "▁▅█ 50.0% to 70.0%",
        "generation 5 of 6, 3 workers, 2 trials at others",
    ):
        assert told in text


def test_the_grid_tells_shares_of_the_parameters():
    lines, _ = panel(made_state(blocks=3, n_params=60))
    rows = [line.strip("│ ").split() for line in lines]
    assert ["%", "by", "block", "0", "1", "2"] in rows
    assert ["A", "·", "17", "17"] in rows
    assert ["B", "·", "33", "33"] in rows


def test_neighbouring_blocks_share_a_column_where_there_are_many():
    lines, _ = panel(made_state(blocks=24), width=60)
    (head,) = (line for line in lines if "by block" in line)
    labels = head.strip("│ ").split()[3:]
    first = int(labels[0].split("-")[1]) + 1
    assert labels[0] == f"0-{first - 1}"
    assert labels[-1].endswith("23")
    rows = [line.strip("│ ").split() for line in lines]
    (shares,) = (row[1:] for row in rows if row[0] == "A")
    assert len(shares) == len(labels)
    assert sum(map(int, shares)) == pytest.approx(33, abs=len(shares) / 2)


def test_what_was_not_counted_is_left_out():
    state = SearchState(best=0.25, objective="loss")
    lines, _ = panel(state)
    text = "\n".join(lines)
    assert "loss 0.250" in text
    assert "0 workers" in text
    for missing in ("budget", "recent", "generation", "by block", "parameters"):
        assert missing not in text


@given(
    width=st.integers(1, 200),
    blocks=st.integers(1, 60),
    best=st.floats(0, 1),
    n_params=st.none() | st.integers(0, 10**9),
    budget=st.none() | st.integers(0, 10**9),
    recent=st.lists(st.floats(0, 1), max_size=60).map(tuple),
    total=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_nothing_is_wider_than_the_terminal(width, blocks, best, n_params, budget, recent, total):
    state = made_state(blocks, best=best, n_params=n_params, budget=budget, recent=recent)
    pace = Pace(total, "trials")
    for view, most in (
        (StagePanel("Search", pace, state), min(width, WIDTH)),
        (StageLine("Search", pace, str(state)), width),
    ):
        lines, _ = drawn(view, width=width)
        assert max(map(len, lines)) <= max(most, 4)


def test_a_line_that_is_too_narrow_keeps_the_count():
    for width in (30, 60, 90):
        (line,), _ = drawn(StageLine("Search", Pace(300, "trials"), "best 90%"), width=width)
        assert "0/300 trials" in line
        assert ("best 90%" in line) == (width > 30)


def test_without_colours_the_figures_are_the_same():
    colourful, sent = panel(made_state(), color_system="truecolor", no_color=False)
    plain, bare = panel(made_state(), color_system="truecolor", no_color=True)

    def figures(lines):
        """All but bars, whose rest is not drawn where there are no colours."""
        return [line for line in lines if "0/300" not in line and "of 10,102" not in line]

    assert figures(plain) == figures(colourful)
    weights = {"0", "1", "2", "1;2"}  # bold and dim
    assert not set(re.findall(r"\x1b\[([\d;]*)m", sent)) <= weights
    assert set(re.findall(r"\x1b\[([\d;]*)m", bare)) <= weights


def test_blocks_need_characters_that_the_terminal_has():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, force_terminal=True, width=80).print(
        StagePanel("Search", Pace(3, "trials"), made_state(running=0))
    )
    file.flush()
    assert b"50.0% to 70.0%" in file.buffer.getvalue()


def test_a_low_terminal_shows_a_line_instead():
    console = pretended(width=100, height=8)
    bar = TerminalProgress(console)
    with bar.stage("Search", 300, "trials") as advance:
        advance(300, made_state())
    text = SEQUENCE.sub("", console.file.getvalue())
    assert "best 80.7%, 9,487 parameters" in text
    assert "by block" not in text


def test_wrapped_rows_are_wiped_when_the_terminal_becomes_narrower():
    console = pretended(width=80)
    frame = _Frame(console)
    assert frame.draw(StagePanel("Search", Pace(3, "trials"), made_state()), whole=True)
    rows = len(frame._lines)
    assert "\x1b[1A" not in console.file.getvalue()
    console.width = 50
    frame.draw(StageLine("Search", Pace(3, "trials")))
    assert console.file.getvalue().count("\x1b[2K\x1b[1A") == rows, "each was 80 wide, now two rows"
    console.width = 30
    frame.draw(StageLine("Search", Pace(3, "trials")))
    assert console.file.getvalue().count("\x1b[1A") == rows + 1


def test_steps_cost_no_drawing(terminal, monkeypatch):
    bar, _ = terminal
    draws = []
    draw = _Frame.draw
    monkeypatch.setattr(_Frame, "draw", lambda *args, **kw: draws.append(1) or draw(*args, **kw))
    state = made_state()
    with bar.stage("Search", 10_000, "trials") as advance:
        for _ in range(10_000):
            advance(1, state)
    assert len(draws) < 100


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_a_sparkline_keeps_the_order_of_the_values(values):
    line = sparkline(values)
    assert len(line) == len(values)
    for a, x in zip(line, values, strict=True):
        for b, y in zip(line, values, strict=True):
            assert a <= b or x > y
    if len(set(values)) > 1:
        assert line[values.index(min(values))] == "▁"
        assert line[values.index(max(values))] == "█"


def test_shades_become_darker():
    styles = [shade(10**power) for power in range(6)]
    assert len(set(styles)) == 5
    assert shade(0) == "dim"
