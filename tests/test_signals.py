import os
import signal
import subprocess
import sys
import threading

import pytest

from glora_automl._signals import StopOnSignal, call_stoppable, end_on_signal, raise_on_interrupt
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


SWALLOW = """
import signal, sys
from glora_automl._signals import end_on_signal

signal.signal(signal.SIGINT, signal.default_int_handler)
end_on_signal()
try:
    signal.raise_signal(int(sys.argv[1]))
except BaseException:
    print("swallowed")
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_end_on_signal_ends_also_code_that_swallows_exceptions(number):
    command = [sys.executable, "-c", SWALLOW, str(int(number))]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (128 + number, "", "")


def test_raise_on_interrupt_restores_the_exception_alone():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        end_on_signal()
        raise_on_interrupt()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise_on_interrupt()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


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
