"""Faults of workers and database during a search, and the study that results.

Several workers run one study, as if each were on its own machine. Faults come at random moments:

- a worker gets SIGKILL or SIGTERM, or is suspended until its trial is stale
- a worker is killed while it takes a trial from the queue
- the database restarts
- an older backup of the storage is restored
- the study is deleted, so the workers begin it again under its name

Each worker is started again until the study is finished. The study must then have exactly the
target number of complete trials, one per position. No trial is running or queued, each stage was
done once, and the result is that of the only test. A worker ends with a result or one line.

Workers that propose at the same moment do not see each other's architectures. So a few of them are
evaluated twice, at two positions, also without a fault: 9 of 500 with four workers of one machine,
none with one worker. A worker that waited for the others would cost more.

Then pairs of processes create one storage at once, and one of them is killed or suspended. Single
lines of a journal are lost.

    python benchmarks/faults.py --out benchmarks/results/faults.json
    python benchmarks/faults.py --small
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _document import MACHINE, command_line, write_document
from _processes import CONTEXT
from _storages import DATABASES, Database, create_together, lose_lines, open_database
from rich.console import Console
from rich.table import Table

from glora_automl.samplers import trial_positions
from glora_automl.storages import open_storage

RECIPE = """
description = "digits, small enough for hundreds of runs"
budget = "20%"

[task]
source = "digits"
classes = [5, 6, 7]
pretraining_classes = [0, 1, 2]
train_per_class = 8
validation_per_class = 20

[backbone]
model = "vit_tiny_patch16_224"
kwargs = {{ img_size = 8, patch_size = 4, embed_dim = 16, depth = 2, num_heads = 2 }}

[backbone.pretraining]
epochs = 4
lr = 1e-3

[training]
epochs = {epochs}
batch_size = 12
lr = 1e-2
checkpoint_every = 5

[search]
n_trials = {n_trials}
population_size = 10
n_parents = 4

[selection]
holdout = true
n_candidates = 3
epochs_ratio = 0.2
"""
MAX_ERRORS = 200
"""Workers that may end with an error, as faults come; more of them never start."""

NAME = "faults"
HEARTBEAT = 1.0
STAGES = {
    "backbone",
    "supernet",
    "selection",
    "refit",
    "baseline-linear-probe",
    "baseline-BitFit",
    "test",
}
"""Stages that the study must have done."""


ANSWERS = (
    "that can be opened, got",  # the database restarts, or a backup of a journal was restored
    "has deleted it or begun it again",
    "deleted or replaced by an older backup",
    "as by an older backup",
    "a line is lost or altered",
    "must be a study of the storage",
)
"""Parts of the only errors with which a worker may end."""


def work(
    arguments: list[str], folder: str, machine: str, pause: float, log: str, dies: bool
) -> None:
    """Run the command line in its own process and folder, as if on its own machine."""
    from glora_automl.cli import main
    from glora_automl.supernet import Scorer
    from glora_automl.workers import _worker

    os.chdir(folder)
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # The process ids of another machine do not show that a process has ended.
    _worker._scope = lambda: machine
    if dies:  # after it took a trial from the queue, before it has named itself
        _worker.hold_writes = lambda storage: os.kill(os.getpid(), signal.SIGKILL)
    score = Scorer.score

    def score_slowly(*args: Any, **keywords: Any) -> Any:
        time.sleep(pause)  # So that faults come during evaluations.
        return score(*args, **keywords)

    Scorer.score = score_slowly  # type: ignore[method-assign]
    sys.argv = ["glora", *arguments]
    main()


@dataclass
class Workers:
    """Workers of one study, started again when they end.

    Attributes:
        folder: Parent of their folders.
        storage: Location of the storage.
        n_workers: Number of workers.
        n_trials: Complete trials to reach.
        epochs: Epochs of the supernet's training.
        pause: Additional seconds per evaluation.
        codes: Number of ended processes by exit code.
        processes: Last process of each worker.
        finished: Workers whose process has ended without a fault.
        dying: Whether the next process is killed while it takes a trial from the queue.
    """

    folder: Path
    storage: str
    n_workers: int
    n_trials: int
    epochs: int = 60
    pause: float = 0.03
    codes: Counter[int] = field(default_factory=Counter)
    processes: dict[int, Any] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    dying: bool = False

    def __post_init__(self) -> None:
        text = RECIPE.format(n_trials=self.n_trials, epochs=self.epochs)
        (self.folder / f"{NAME}.toml").write_text(text, encoding="utf-8")

    def log(self, index: int) -> Path:
        """Return the file with the output of a worker."""
        return self.folder / f"worker{index}.log"

    def start(self, index: int) -> None:
        """Start a process for a worker."""
        # Workers 0 and 1 share a folder, as workers on one machine do.
        home = self.folder / f"machine{max(index, 1)}"
        home.mkdir(exist_ok=True)
        arguments = ["search", str(self.folder / f"{NAME}.toml"), "--storage", self.storage]
        arguments += ["--artifacts", str(self.folder / "artifacts"), "--heartbeat", str(HEARTBEAT)]
        process = CONTEXT.Process(
            target=work,
            args=(
                arguments,
                str(home),
                f"machine{index}",
                self.pause,
                str(self.log(index)),
                self.dying,
            ),
        )
        self.dying = False
        process.start()
        self.processes[index] = process

    def restart_ended(self) -> bool:
        """Start workers that ended by a fault; return whether any worker is not finished."""
        for index in set(range(self.n_workers)) - self.finished:
            process = self.processes.get(index)
            if process is not None and process.exitcode is not None:
                self.codes[process.exitcode] += 1
                if self.codes[2] > MAX_ERRORS:
                    raise SystemExit(f"Workers end again and again: {self.log(index).read_text()}")
                if process.exitcode == 0:
                    self.finished.add(index)
                    continue
            if process is None or process.exitcode is not None:
                self.start(index)
        return len(self.finished) < self.n_workers

    def alive(self) -> list[Any]:
        """Return the running processes."""
        return [process for process in self.processes.values() if process.exitcode is None]

    def kill(self) -> None:
        """Kill all processes."""
        for process in self.alive():
            process.kill()
            process.join()


def send_signal(process: Any, number: int) -> None:
    """Send a signal to a process, which may just have ended."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


BACKUP_EVERY = 10
"""Faults between two backups, of which the later one may be restored."""


def inject_faults(
    workers: Workers, database: Database, faults: list[str], rate: float, rng: random.Random
) -> Counter[str]:
    """Inject faults at random moments until all workers are finished.

    Args:
        workers: The workers.
        database: Their storage.
        faults: The faults to inject, last one first; the injected ones are removed.
        rate: Faults per second.
        rng: Random numbers.

    Returns:
        Number of injected faults by type.
    """
    injected: Counter[str] = Counter()
    suspended: list[tuple[float, Any]] = []
    backup: Any = None
    next_fault = time.monotonic() + 1.0
    while workers.restart_ended():
        now = time.monotonic()
        for entry in [e for e in suspended if e[0] <= now]:
            suspended.remove(entry)
            send_signal(entry[1], signal.SIGCONT)
        running = [p for p in workers.alive() if p not in [e[1] for e in suspended]]
        if faults and now >= next_fault and running and not workers.finished:
            if injected.total() % BACKUP_EVERY == 5:
                backup = database.back_up()
            fault, process = faults.pop(), rng.choice(running)
            if fault == "restart":
                assert database.restart is not None
                database.restart()
            elif fault == "delete":
                database.delete(NAME)
            elif fault == "restore":
                if backup is None:
                    backup = database.back_up()
                database.restore(backup)
            elif fault == "pause":
                send_signal(process, signal.SIGSTOP)
                suspended.append((now + 4.5 * HEARTBEAT, process))
            else:
                workers.dying = fault == "kill in the queue"
                number = signal.SIGKILL if fault == "kill" else signal.SIGTERM
                send_signal(process, number)
                process.join(timeout=30)
            injected[fault] += 1
            next_fault = time.monotonic() + rng.expovariate(rate)
        time.sleep(0.02)
    return injected


def count_study(storage: str, n_trials: int) -> dict[str, Any]:
    """Return the counts of a finished study, for :func:`find_errors`."""
    import optuna
    from optuna.trial import TrialState

    opened = open_storage(storage, create=False, write=False)
    study = optuna.load_study(study_name=NAME, storage=opened)
    stages = optuna.load_study(study_name=f"{NAME}/stages", storage=opened)
    trials = study.get_trials(deepcopy=False)
    stage_trials = stages.get_trials(deepcopy=False)
    positions = trial_positions(trials)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    filled = Counter(positions[t.number] for t in complete)
    key = study.user_attrs["glora:settings"]["key"]
    done = [t for t in stage_trials if t.state == TrialState.COMPLETE]
    # A study that was deleted leaves its stages, which do not count.
    done = [t for t in done if t.user_attrs["key"] == key]
    done_stages = Counter(t.user_attrs["stage"] for t in done)
    result = study.user_attrs.get("glora:result")
    (test,) = [t for t in done if t.user_attrs["stage"] == "test"] or [None]
    return {
        "target": n_trials,
        "complete": len(complete),
        "positions": len(filled),
        "positions beyond the target": sum(position >= n_trials for position in filled),
        "failed": sum(t.state == TrialState.FAIL for t in trials),
        "retries": sum("retry_history" in t.system_attrs for t in trials),
        "unfinished": sum(not t.state.is_finished() for t in [*trials, *stage_trials]),
        "architectures": len({tuple(sorted(t.params.items())) for t in complete}),
        "stages": dict(done_stages),
        "workers": len({t.user_attrs["worker"] for t in complete}),
        "result is that of the only test": test is not None
        and test.user_attrs["outcome"]["rows"] == result,
    }


def find_errors(counts: dict[str, Any]) -> list[str]:
    """Return the errors of a study; an empty list if it is right."""
    expected = {
        "complete": counts["target"],
        "positions": counts["target"],
        "positions beyond the target": 0,
        "unfinished": 0,
        "result is that of the only test": True,
    }
    errors = [
        f"{key}: {counts[key]}, not {value}"
        for key, value in expected.items()
        if counts[key] != value
    ]
    for stage in sorted(STAGES | set(counts["stages"])):
        if counts["stages"].get(stage) != 1:
            errors.append(f"stage {stage}: done {counts['stages'].get(stage, 0)} times")
    return errors


def run(arguments: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Run a study with faults on one kind of storage, and return its counts."""
    rng = random.Random(f"{arguments.seed} {kind}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with open_database(kind, folder) as database:
            faults = ["kill"] * arguments.kills + ["terminate"] * arguments.terminations
            faults += ["pause"] * arguments.pauses + ["restore"] * arguments.restores
            faults += ["kill in the queue"] * arguments.queue_kills
            faults += ["restart"] * (arguments.restarts if database.restart else 0)
            rng.shuffle(faults)
            # Among the first tenth, as the study begins again.
            for _ in range(arguments.deletions):
                faults.insert(rng.randrange(len(faults) * 9 // 10, len(faults)), "delete")
            # Long enough for all faults on a machine of any speed.
            seconds = 1.5 * len(faults) / arguments.rate
            pause = max(0.03, seconds * arguments.workers / arguments.n_trials)
            workers = Workers(
                folder, database.url, arguments.workers, arguments.n_trials, pause=pause
            )
            begin = time.monotonic()
            try:
                injected = inject_faults(workers, database, faults, arguments.rate, rng)
            finally:
                workers.kill()
            seconds = time.monotonic() - begin
            counts = count_study(database.url, arguments.n_trials)
            wrong = find_errors(counts)
            for number in range(arguments.creators):
                fault, found = create_together(database, number, rng)
                injected[f"creator: {fault}"] += 1
                wrong += found
            if kind == "journal":
                injected["lost line"] += arguments.lost_lines
                wrong += lose_lines(database, arguments.lost_lines, rng)
            logs = "".join(workers.log(i).read_text() for i in range(workers.n_workers))
    errors = Counter(line for line in logs.splitlines() if line.startswith("Error: "))
    wrong += [line for line in errors if not any(answer in line for answer in ANSWERS)]
    if faults:
        wrong.append(f"{len(faults)} faults came too late; raise --n-trials")
    expected = {0, 2, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
    if unexpected := set(workers.codes) - expected:
        wrong.append(f"exit codes {sorted(unexpected)}")
    if tracebacks := logs.count("Traceback"):
        wrong.append(f"{tracebacks} tracebacks")
    if tracebacks or arguments.keep_logs:
        print(logs, file=sys.stderr)
    return {
        "faults": dict(injected),
        "seconds": round(seconds, 1),
        "exit codes": {str(code): n for code, n in sorted(workers.codes.items())},
        **counts,
        "tracebacks": tracebacks,
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=list(DATABASES))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--n-trials", type=int, default=500)
    parser.add_argument("--kills", type=int, default=220)
    parser.add_argument("--terminations", type=int, default=40)
    parser.add_argument("--queue-kills", type=int, default=20, help="kills while taking a trial")
    parser.add_argument("--pauses", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=5, help="of PostgreSQL")
    parser.add_argument("--restores", type=int, default=5, help="older backups of the storage")
    parser.add_argument("--deletions", type=int, default=2, help="of the study")
    parser.add_argument("--creators", type=int, default=20, help="pairs that create a storage")
    parser.add_argument("--lost-lines", type=int, default=40, help="of the journal")
    parser.add_argument("--rate", type=float, default=1.5, help="faults per second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folders")
    parser.add_argument("--keep-logs", action="store_true", help="print the workers' logs")
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    parser.add_argument("--small", action="store_true", help="a minute, on SQLite alone")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.databases, arguments.n_trials, arguments.rate = ["sqlite"], 60, 2.0
        arguments.kills, arguments.terminations, arguments.queue_kills = 8, 2, 1
        arguments.pauses, arguments.restores, arguments.deletions = 1, 1, 1
        arguments.creators, arguments.workers = 3, 3
    runs = {}
    for kind in arguments.databases:
        runs[kind] = run(arguments, kind)
        table = Table("name", "count", title=f"{arguments.workers} workers on {kind}")
        for key, value in runs[kind].items():
            table.add_row(key, json.dumps(value) if isinstance(value, dict | list) else str(value))
        Console(width=100).print(table)
    if arguments.out is not None:
        total = sum(
            n
            for counts in runs.values()
            for fault, n in counts["faults"].items()
            if fault != "creator: none"  # a round without a fault
        )
        document = {
            "benchmark": "faults",
            "command": command_line(),
            "machine": MACHINE,
            "faults": total,
            "storages": runs,
        }
        write_document(arguments.out, document)
    if any(counts["wrong"] for counts in runs.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
