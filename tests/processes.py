"""Real processes that start fast: a server that has imported torch forks them."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "glora_automl.cli",
        "glora_automl.report",
        "glora_automl.storages._fast",
        "glora_automl.commands",
        # Late imports of these, which each process would repeat.
        "alembic.command",
        "plotly.graph_objs._figure",
        "psycopg",
        "sklearn.datasets",
        "sqlalchemy.dialects.postgresql",
        "timm",
    ]
)


def start(function, *arguments, folder, **environment):
    """Call a function in a separate process, in a folder and with further environment variables."""
    return Process(function, arguments, Path(folder), environment)


class Process:
    """A process with its output in files, read as :attr:`out` and :attr:`err`."""

    def __init__(self, function, arguments, folder, environment):
        self._outputs = [folder / f".{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        for path in self._outputs:
            path.touch()
        self._process = CONTEXT.Process(
            target=_run, args=(function, arguments, folder, self._outputs, environment)
        )
        self._process.start()

    @property
    def out(self):
        """Standard output so far."""
        return self._outputs[0].read_text(encoding="utf-8")

    @property
    def err(self):
        """Standard error so far."""
        return self._outputs[1].read_text(encoding="utf-8")

    @property
    def code(self):
        """Exit code, negative for a signal; None while the process runs."""
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        """Kill the process and wait for its end."""
        if self.code is None:
            self.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds=240):
        """Wait for the end and return the exit code."""
        self._process.join(seconds)
        assert self.code is not None, f"the process did not end: {self.err}"
        return self.code

    def wait_until(self, condition, seconds=120):
        """Wait until a condition is true."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.code is None, f"the process ended early: {self.out}{self.err}"
            assert time.monotonic() < end, "the condition stayed false"
            time.sleep(0.01)


def _run(function, arguments, folder, outputs, environment):
    os.chdir(folder)
    os.environ.update(environment)
    for path, descriptor in zip(outputs, (1, 2), strict=True):
        with open(path, "a", encoding="utf-8") as file:
            os.dup2(file.fileno(), descriptor)
    function(*arguments)


def glora(*arguments):
    """Run the command line."""
    from glora_automl.__main__ import main

    # A process inherits ignored signals, as a background process of a shell does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["glora", *map(str, arguments)]
    main()
