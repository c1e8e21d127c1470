"""Real processes, started in a moment: a server that has imported torch once forks them."""

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
        # What these import late, and each process would import again.
        "alembic.command",
        "plotly.graph_objs._figure",
        "psycopg",
        "sklearn.datasets",
        "sqlalchemy.dialects.postgresql",
        "timm",
    ]
)


def start(function, *arguments, folder, **environment):
    """Call a function in a process of its own, in a folder and with more environment variables."""
    return Process(function, arguments, Path(folder), environment)


class Process:
    """A process; what it prints is in files, as :attr:`out` and :attr:`err`."""

    def __init__(self, function, arguments, folder, environment):
        self._printed = [folder / f".{name}-{time.monotonic_ns()}" for name in ("out", "err")]
        for path in self._printed:
            path.touch()
        self._process = CONTEXT.Process(
            target=_run, args=(function, arguments, folder, self._printed, environment)
        )
        self._process.start()

    @property
    def out(self):
        """What it has printed so far."""
        return self._printed[0].read_text(encoding="utf-8")

    @property
    def err(self):
        """What it has complained about so far."""
        return self._printed[1].read_text(encoding="utf-8")

    @property
    def code(self):
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        """Kill it, and wait until it is gone."""
        if self.code is None:
            self.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds=240):
        """Wait for its end; returns its exit code."""
        self._process.join(seconds)
        assert self.code is not None, f"it did not end: {self.err}"
        return self.code

    def wait_until(self, condition, seconds=120):
        """Wait for something that it does."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.code is None, f"it ended early: {self.out}{self.err}"
            assert time.monotonic() < end, "it did not come so far"
            time.sleep(0.01)


def _run(function, arguments, folder, printed, environment):
    os.chdir(folder)
    os.environ.update(environment)
    for path, descriptor in zip(printed, (1, 2), strict=True):
        with open(path, "a", encoding="utf-8") as file:
            os.dup2(file.fileno(), descriptor)
    function(*arguments)


def glora(*arguments):
    """The command line."""
    from glora_automl.cli import _app as cli

    # What a test's process ignores is ignored by those that it starts, as by what a shell
    # starts with &.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["glora", *map(str, arguments)]
    cli.main()
