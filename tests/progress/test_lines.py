import pytest

from glora_automl.progress import LineProgress, Progress, SearchState


@pytest.fixture
def lines():
    return []


def test_lines_show_count_rate_note_and_remaining_time(clock, lines):
    with LineProgress(lines.append).stage("Search", 100, "trials") as advance:
        for _ in range(20):
            clock.now += 1
            advance(1, "best 90%")
    assert lines == [
        "Search: 100 trials",
        "Search: 10/100 trials, 1.0 trials/s, best 90%, 1:30 left",
        "Search: 20/100 trials, 1.0 trials/s, best 90%, 1:20 left",
        "Search: 20/100 trials, 1.0 trials/s, best 90%, 0:20 elapsed",
    ]


def test_line_of_a_search_shows_the_best_result(clock, lines):
    with LineProgress(lines.append).stage("Search", 100, "trials") as advance:
        clock.now += 10
        advance(10, SearchState(best=0.9, objective="accuracy", n_params=1234, recent=(0.1, 0.9)))
        clock.now += 10
        advance(10, SearchState(best=0.25, objective="loss"))
    assert lines[1:3] == [
        "Search: 10/100 trials, 1.0 trials/s, best 90.0%, 1,234 parameters, 1:30 left",
        "Search: 20/100 trials, 1.0 trials/s, best loss 0.250, 1:20 left",
    ]


def test_lines_keep_the_interval(clock, lines):
    with LineProgress(lines.append, interval=5).stage("Train", 100, "epochs") as advance:
        for _ in range(30):
            clock.now += 0.5
            advance()
    assert [line.split(",")[0] for line in lines[1:-1]] == [
        "Train: 10/100 epochs",
        "Train: 20/100 epochs",
        "Train: 30/100 epochs",
    ]


def test_long_time_is_shown_in_hours(clock, lines):
    with LineProgress(lines.append).stage("Search", 1001, "trials") as advance:
        clock.now += 10
        advance()
    assert lines[1] == "Search: 1/1001 trials, 10.0 s/trial, 2:46:40 left"


def test_step_without_note_keeps_the_last_note(clock, lines):
    with LineProgress(lines.append).stage("Search", 9, "trials") as advance:
        advance(1, "best 90%")
        clock.now += 10
        advance(1)
    assert "best 90%" in lines[1]


def test_rate_without_elapsed_time_is_zero(clock, lines):
    with LineProgress(lines.append, interval=0).stage("Search", 3, "trials") as advance:
        advance(0)
        advance(1)
    with LineProgress(lines.append, interval=0).stage("Empty", 0, "trials"):
        pass
    assert lines[1] == "Search: 0/3 trials"
    assert lines[-1] == "Empty: 0/0 trials, 0:00 elapsed"


def test_earlier_steps_count_as_done_but_not_for_the_rate(clock, lines):
    with LineProgress(lines.append).stage("Search", 100, "trials") as advance:
        advance(80, earlier=True)
        clock.now += 10
        advance(5)
    assert lines[1] == "Search: 85/100 trials, 2.0 s/trial, 0:30 left"
    assert lines[2] == "Search: 85/100 trials, 2.0 s/trial, 0:10 elapsed"


def test_earlier_steps_alone_give_no_remaining_time(clock, lines):
    with LineProgress(lines.append).stage("Search", 100, "trials") as advance:
        clock.now += 10
        advance(80, earlier=True)
    assert lines[1] == "Search: 80/100 trials"


def test_epochs_before_a_resumption_count_as_earlier(clock, lines):
    with LineProgress(lines.append).epochs("Train", 100) as on_epoch:
        on_epoch(60, 0.5)
        clock.now += 20
        on_epoch(61, 0.25)
    assert lines[1] == "Train: 61/100 epochs, 20.0 s/epoch, loss 0.250, 13:00 left"


def test_log_writes_the_line(lines):
    LineProgress(lines.append).log("hello")
    assert lines == ["hello"]


def test_failing_stage_raises_and_has_no_end_line(clock, lines):
    stage = LineProgress(lines.append).stage("Search", 3, "trials")
    with pytest.raises(ZeroDivisionError), stage:
        raise ZeroDivisionError
    assert lines == ["Search: 3 trials"]


def test_base_progress_prints_nothing(capfd):
    progress = Progress()
    progress.log("hello")
    with progress.stage("Search", 3, "trials") as advance:
        advance(1, "best", earlier=True)
    with progress.epochs("Train", 2) as on_epoch:
        on_epoch(1, 0.5)
    assert capfd.readouterr() == ("", "")
