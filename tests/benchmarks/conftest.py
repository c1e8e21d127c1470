import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_script(monkeypatch):
    """Loads a benchmark and runs it as from the command line; returns the module."""

    monkeypatch.syspath_prepend(FOLDER)  # as for a script

    def run(name, *arguments):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # where dataclasses look
        spec.loader.exec_module(module)
        if arguments:
            monkeypatch.setattr("sys.argv", [f"benchmarks/{name}.py", *map(str, arguments)])
            module.main()
        return module

    return run
