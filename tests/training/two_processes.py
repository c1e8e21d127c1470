"""The program of two processes that train together, and the results that they write."""

import json
import os
import shutil
import socket
from functools import partial
from pathlib import Path

import torch

from glora_automl.errors import Stopped, StorageError
from glora_automl.training import ProcessGroup
from tests.processes import start
from tests.training.runs import Run, StopAfter

COUNTS = (20, 21, 17)
"""Numbers of images, with last batches of 4, 5 and 1: shards of 2 and 2, 3 and 2, 1 and 0."""
EPOCHS = 3
STEPS = 3


class RecordedRun(Run):
    """A training that records its steps.

    Args:
        kind: Kind of the run.
        exact: Train in float64, for close comparisons.
        offset: Added to the initial weights, to start processes from different weights.
    """

    def __init__(self, kind, *, exact=False, offset=0.0):
        super().__init__(kind)
        self.exact = exact
        self.images, self.paths, self.seeds = [], [], []
        if exact:
            self.model.double()
        self.model.register_forward_pre_hook(self.record_images)
        if (activate := self.before_step) is not None:
            self.before_step = lambda rng: self.record_path(activate(rng))
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.add_(offset)

    def record_images(self, module, args):
        self.images.append(len(args[0]))
        self.seeds.append(torch.initial_seed())
        return (args[0].double(),) if self.exact else args

    def record_path(self, _):
        layers = [m for m in self.model.modules() if hasattr(m, "active_parameters")]
        shapes = [{k: list(p.shape) for k, p in m.active_parameters().items()} for m in layers]
        self.paths.append(shapes)

    def state(self):
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def error_of(function):
    """Return class and message of the error that a function raises, or None."""
    try:
        function()
    except BaseException as error:
        return [type(error).__name__, str(error)]
    return None


def run_checks(process_group, folder):
    """Write the results of all methods and trainings in one of two processes as JSON."""
    own = folder / f"process{process_group.index}"  # machines have no common folder
    results = method_results(process_group)
    results |= training_results(process_group, folder, own)
    results["errors"] = raised_errors(process_group, own)
    (folder / f"results-{process_group.index}.json").write_text(json.dumps(results))


def method_results(process_group):
    """Return attributes of a process group and results of its methods."""
    index = process_group.index
    return {
        "index": index,
        "size": process_group.size,
        "main": process_group.is_main,
        "broadcast": process_group.broadcast({"from": index}),
        "from_main": process_group.from_main(lambda: os.environ["RANK"]),
        "any": [process_group.any(lambda other=other: index == other) for other in range(3)],
        "shards": [process_group.shard(torch.arange(n)).tolist() for n in (5, 1)],
    }


def training_results(process_group, folder, own):
    """Return losses, digests and records of uninterrupted and of stopped trainings."""
    results = {}
    for count in COUNTS:
        run = RecordedRun("paths", exact=True, offset=0.01 * process_group.index)
        path = own / f"{count}.json"
        result = run.fit(path, epochs=EPOCHS, count=count, process_group=process_group)
        torch.save(run.state(), folder / f"{count}-process{process_group.index}.pt")
        results[f"{count}"] = [result.losses, run.digest(), run.paths, run.images]

    for kind in ("drop-path", "conv"):
        run = RecordedRun(kind)
        result = run.fit(epochs=EPOCHS, count=21, process_group=process_group)
        results[kind] = [result.losses, run.digest()]
        results[f"seeds-{kind}"] = run.seeds
        path = own / f"stopped-{kind}.json"
        for steps in (0, 1, 3, 2):
            # Only process 1 stops. It has no checkpoint, and its initial weights are replaced.
            stop = StopAfter(steps) if process_group.index == 1 else None
            run, written = RecordedRun(kind, offset=float(process_group.index)), []
            options = {
                "process_group": process_group,
                "stop": stop,
                "on_checkpoint": written.append,
            }
            error = error_of(partial(run.fit, path, epochs=EPOCHS, count=21, **options))
            results.setdefault(f"stopped-{kind}", []).append([*error, len(written) > 0])
        if process_group.is_main:
            shutil.copytree(own, folder / f"copy-{kind}")
        run = RecordedRun(kind)
        result = run.fit(path, epochs=EPOCHS, count=21, process_group=process_group)
        results[f"resumed-{kind}"] = [result.losses, run.digest()]
    return results


def raised_errors(process_group, own):
    """Return the errors of this process when one of the two raises."""

    def raises_in(index, error):
        def function(*_):
            if process_group.index == index:
                raise error

        return function

    def resume_altered():
        if process_group.is_main:
            (own / "20.json").write_text("{")
        Run("paths").fit(own / "20.json", epochs=EPOCHS, process_group=process_group)

    def raise_late(rng):
        raise_late.steps += 1
        if process_group.index == 1 and raise_late.steps > 4:
            raise ValueError("no such path")

    raise_late.steps = 0
    full, ended = raises_in(0, StorageError("disk full")), raises_in(1, Stopped("enough"))

    def fit(*arguments, **options):
        Run("paths").fit(*arguments, process_group=process_group, **options)

    identity = {"data": str(process_group.index)}
    return [
        error_of(resume_altered),
        error_of(partial(fit, own / "a.json", on_checkpoint=full)),
        error_of(partial(fit, on_epoch=raises_in(1, KeyError("x")))),
        error_of(partial(fit, before_step=raise_late)),
        error_of(partial(fit, stop=ended)),
        error_of(partial(fit, identity=identity)),
        error_of(partial(process_group.from_main, raises_in(0, KeyboardInterrupt()))),
    ]


def fail(process_group, folder):
    """Raise an uncaught error for an invalid checkpoint in process 0."""
    path = folder / "x.json"
    if process_group.is_main:
        path.write_text("{")
    Run("paths").fit(path, process_group=process_group)


def main(function, folder):
    torch.set_num_threads(1)
    process_group = ProcessGroup.from_environment(torch.device("cpu"))
    {"run_checks": run_checks, "fail": fail}[function](process_group, Path(folder))
    process_group.close()


def run_processes(function, folder):
    """Run a function in two processes with torchrun's variables, and return the processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [
        start(main, function, str(folder), folder=folder, **address, WORLD_SIZE="2",
              LOCAL_WORLD_SIZE="2", RANK=str(index), LOCAL_RANK=str(index))
        for index in range(2)
    ]  # fmt: skip
    for process in processes:
        process.wait()
    return processes
