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


def fake_terminal(width=160, height=40, **options):
    """Return a rich console on a fake terminal."""
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, **options)


@pytest.fixture
def terminal():
    """Progress on a terminal, and a function that returns its text without control sequences."""
    console = fake_terminal()
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


def draw(view, **options):
    """Return the lines of a view, and the raw output."""
    console = fake_terminal(**options)
    console.print(view)
    return SEQUENCE.sub("", console.file.getvalue()).splitlines(), console.file.getvalue()


def panel(state, **options):
    return draw(StagePanel("Search", Pace(300, "trials"), state), **options)


def test_bar_shows_title_count_unit_and_note(terminal):
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


def test_bar_rate_excludes_earlier_steps(clock):
    pace = Pace(100, "trials")
    pace.step(80, earlier=True)
    clock.now += 10
    pace.step(5, earlier=False)
    (line,), _ = draw(StageLine("Search", pace), width=120)
    assert "85/100 trials" in line
    assert "2.0 s/trial" in line
    assert line.rstrip().endswith("0:30 left")
    (line,), _ = draw(StageLine("Search", pace, end=True), width=120)
    assert line.rstrip().endswith("0:10 elapsed")


def test_bar_of_a_stage_without_steps_is_shown(terminal):
    bar, shown = terminal
    with bar.stage("Search", 0, "trials") as advance:
        advance(0)
    assert "0/0" in shown()


def test_log_prints_square_brackets_literally(terminal):
    bar, shown = terminal
    bar.log("a [bold]b[/bold] 12")
    assert shown() == "a [bold]b[/bold] 12\n"


def test_failing_stage_releases_the_terminal(terminal):
    bar, shown = terminal
    with pytest.raises(ZeroDivisionError), bar.stage("Search", 3, "trials"):
        raise ZeroDivisionError
    with bar.stage("Search", 3, "trials") as advance:
        advance(3)
    assert "3/3 trials" in shown().splitlines()[-1]


def test_search_panel_stays_after_the_end(terminal):
    bar, shown = terminal
    with bar.stage("Search", 300, "trials") as advance:
        advance(300, made_state())
    text = shown()
    for words in (
        "Search",
        "300/300 trials",
        "elapsed",
        "80.7%, 9,487 parameters",
        "94% of 10,102",
        "▁▅█ 50.0% to 70.0%",
        "generation 5 of 6, 3 workers, 2 trials on other workers",
    ):
        assert words in text


def test_grid_shows_percentages_of_the_parameters():
    lines, _ = panel(made_state(blocks=3, n_params=60))
    rows = [line.strip("│ ").split() for line in lines]
    assert ["%", "by", "block", "0", "1", "2"] in rows
    assert ["A", "·", "17", "17"] in rows
    assert ["B", "·", "33", "33"] in rows


def test_grid_with_many_blocks_merges_neighbours():
    lines, _ = panel(made_state(blocks=24), width=60)
    (head,) = (line for line in lines if "by block" in line)
    labels = head.strip("│ ").split()[3:]
    first = int(labels[0].split("-")[1]) + 1
    assert labels[0] == f"0-{first - 1}"
    assert labels[-1].endswith("23")
    rows = [line.strip("│ ").split() for line in lines]
    (percentages,) = (row[1:] for row in rows if row[0] == "A")
    assert len(percentages) == len(labels)
    assert sum(map(int, percentages)) == pytest.approx(33, abs=len(percentages) / 2)


def test_panel_without_counts_omits_their_rows():
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
def test_display_is_never_wider_than_the_terminal(
    width, blocks, best, n_params, budget, recent, total
):
    state = made_state(blocks, best=best, n_params=n_params, budget=budget, recent=recent)
    pace = Pace(total, "trials")
    for view, max_width in (
        (StagePanel("Search", pace, state), min(width, WIDTH)),
        (StageLine("Search", pace, str(state)), width),
    ):
        lines, _ = draw(view, width=width)
        assert max(map(len, lines)) <= max(max_width, 4)


def test_narrow_line_keeps_the_count():
    for width in (30, 60, 90):
        (line,), _ = draw(StageLine("Search", Pace(300, "trials"), "best 90%"), width=width)
        assert "0/300 trials" in line
        assert ("best 90%" in line) == (width > 30)


def test_panel_without_colours_has_the_same_figures():
    coloured, output = panel(made_state(), color_system="truecolor", no_color=False)
    plain, plain_output = panel(made_state(), color_system="truecolor", no_color=True)

    def figures(lines):
        """Return the lines without bars, whose background needs colours."""
        return [line for line in lines if "0/300" not in line and "of 10,102" not in line]

    assert figures(plain) == figures(coloured)
    weights = {"0", "1", "2", "1;2"}  # bold and dim
    assert not set(re.findall(r"\x1b\[([\d;]*)m", output)) <= weights
    assert set(re.findall(r"\x1b\[([\d;]*)m", plain_output)) <= weights


def test_panel_on_an_ascii_terminal_has_no_blocks():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, force_terminal=True, width=80).print(
        StagePanel("Search", Pace(3, "trials"), made_state(running=0))
    )
    file.flush()
    assert b"50.0% to 70.0%" in file.buffer.getvalue()


def test_low_terminal_shows_a_line_instead_of_the_panel():
    console = fake_terminal(width=100, height=8)
    bar = TerminalProgress(console)
    with bar.stage("Search", 300, "trials") as advance:
        advance(300, made_state())
    text = SEQUENCE.sub("", console.file.getvalue())
    assert "best 80.7%, 9,487 parameters" in text
    assert "by block" not in text


def test_wrapped_rows_are_erased_after_the_terminal_becomes_narrower():
    console = fake_terminal(width=80)
    frame = _Frame(console)
    assert frame.draw(StagePanel("Search", Pace(3, "trials"), made_state()), whole=True)
    rows = len(frame._lines)
    assert "\x1b[1A" not in console.file.getvalue()
    console.width = 50
    frame.draw(StageLine("Search", Pace(3, "trials")))
    assert console.file.getvalue().count("\x1b[2K\x1b[1A") == rows, (
        "each 80-column line takes two rows"
    )
    console.width = 30
    frame.draw(StageLine("Search", Pace(3, "trials")))
    assert console.file.getvalue().count("\x1b[1A") == rows + 1


def test_steps_cause_no_drawing(terminal, monkeypatch):
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
def test_sparkline_keeps_the_order_of_the_values(values):
    line = sparkline(values)
    assert len(line) == len(values)
    for a, x in zip(line, values, strict=True):
        for b, y in zip(line, values, strict=True):
            assert a <= b or x > y
    if len(set(values)) > 1:
        assert line[values.index(min(values))] == "▁"
        assert line[values.index(max(values))] == "█"


def test_shades_differ_by_order_of_magnitude():
    styles = [shade(10**power) for power in range(6)]
    assert len(set(styles)) == 5
    assert shade(0) == "dim"
