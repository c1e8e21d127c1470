import signal
import threading

import pytest

from glora_automl._signals import StopOnSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_told_once(number):
    lines = []
    with StopOnSignal(lines.append) as stop:
        assert not stop()
        signal.raise_signal(number)
        assert stop()
        assert stop.received == number
        signal.raise_signal(signal.SIGTERM)
    assert len(lines) == 1


def test_a_second_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), StopOnSignal(lambda line: None):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopOnSignal(print):
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_leaves_signals_alone():
    found = []

    def look():
        with StopOnSignal(print) as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop()))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(before, False)]
