import signal
import threading

import pytest

from glora_automl._signals import StopOnSignal


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
