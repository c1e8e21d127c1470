import signal
import threading

import pytest

from glora_automl import _signals
from glora_automl._signals import StopOnSignal, call_stoppable, end_on_signal
from glora_automl.errors import Stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_is_recorded_and_logged_once(number):
    lines = []
    with StopOnSignal(lines.append) as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.received == number
        signal.raise_signal(signal.SIGTERM)
    assert len(lines) == 1


def test_second_sigint_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), StopOnSignal(lambda line: None):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_end_on_signal_that_an_import_swallows_stops_the_work(monkeypatch, number, error):
    monkeypatch.setattr(_signals, "_early", [])
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        end_on_signal()
        with pytest.raises(error):
            signal.raise_signal(number)
        with StopOnSignal(lambda line: None) as stop:
            assert stop()
            assert stop.received == number
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)


def test_end_on_signal_keeps_ignored_signals():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        end_on_signal()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_exit_restores_the_handlers():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopOnSignal(print):
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_enter_in_another_thread_keeps_the_handlers():
    found = []

    def enter():
        with StopOnSignal(print) as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop()))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(before, False)]


def test_call_stoppable_returns_the_value_or_raises_the_error_of_the_work():
    assert call_stoppable(lambda: 3, lambda: False) == 3
    with pytest.raises(ZeroDivisionError):
        call_stoppable(lambda: 1 / 0, lambda: False)


def test_call_stoppable_asked_to_stop_does_not_wait_for_the_work():
    begun, end = threading.Event(), threading.Event()

    def work():
        begun.set()
        end.wait(60)

    with pytest.raises(Stopped):
        call_stoppable(work, begun.is_set)
    assert not end.is_set()
    end.set()


def test_call_stoppable_without_stop_calls_in_this_thread():
    assert call_stoppable(threading.current_thread, None) is threading.current_thread()
