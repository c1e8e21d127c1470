"""Response times of optuna-dashboard and ``glora dashboard`` on a study of hundreds of parameters.

The study is in SQLite: a vision transformer with the default search space, four layers per block
and five support tensors per layer. Each server runs in its own process and gets the requests of a
browser:

- first: JSON of the study page, as the server's first request;
- poll: new trials since the last one, which an open page requests every few seconds. A trial was
  added, and the dashboard's cache of trials (10 s) has expired;
- importance: importances of the parameters on a study page.

The servers take turns, and the table has medians. ``glora dashboard`` groups by block.

    python benchmarks/dashboard.py --out benchmarks/results/dashboard.json
    python benchmarks/dashboard.py --small
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import optuna_dashboard
from _document import MACHINE, command_line, write_document
from _processes import CONTEXT
from optuna.trial import TrialState, create_trial
from rich.console import Console
from rich.table import Table

from glora_automl.architecture import LayerShape
from glora_automl.budget import FeasibleRegion
from glora_automl.recipes import load_recipe
from glora_automl.report import dashboard_app, open_server
from glora_automl.search_space import SearchSpace
from glora_automl.storages import hold_writes, open_storage
from glora_automl.study import CONSTRAINT, Settings, create_study

SERVERS = ("optuna-dashboard", "glora dashboard")
CACHE_SECONDS = 10
"""Seconds for which optuna-dashboard caches the trials of a large study."""


def fill(url: str, n_trials: int, n_blocks: int) -> tuple[optuna.Study, FeasibleRegion]:
    """Create a study with random architectures under the budget."""
    shapes = {
        f"blocks.{block}.{name}": LayerShape(out * 768, in_ * 768)
        for block in range(n_blocks)
        for name, out, in_ in (
            ("attn.qkv", 3, 1),
            ("attn.proj", 1, 1),
            ("mlp.fc1", 4, 1),
            ("mlp.fc2", 1, 4),
        )
    }
    recipe = load_recipe("digits")
    space = SearchSpace(recipe.search_space, shapes)
    region = FeasibleRegion(space, space.maximum // 5)
    study = create_study(
        open_storage(url),
        "s",
        Settings(
            recipe=recipe,
            budget=region.budget,
            target=n_trials,
            digests={},
            versions={},
            heartbeat=10.0,
            artifacts="",
            layers=space.shapes,
        ),
    )
    for number in range(n_trials):
        add(study, region, number)
    return study, region


def add(study: optuna.Study, region: FeasibleRegion, number: int) -> None:
    """Add a trial with the attributes of a search."""
    rng = np.random.default_rng(number)
    params = region.draw(rng)
    count = region.space.count(params)
    accuracy = 0.5 + 0.3 * count / region.budget + 0.1 * float(rng.random())
    attributes = {
        "trainable_params": count,
        "validation_accuracy": accuracy,
        "validation_loss": 1 - accuracy,
        "validation_images": 1000,
        "seconds": 0.123456,
    }
    running = create_trial(state=TrialState.RUNNING, user_attrs={"worker": "host-12345-abcd"})
    trial = optuna.Trial(study, study._storage.create_new_trial(study._study_id, running))
    with hold_writes(study._storage):
        for name, distribution in region.space.distributions().items():
            value = distribution.to_internal_repr(params[name])
            study._storage.set_trial_param(trial._trial_id, name, value, distribution)
        trial.set_constraint(CONSTRAINT, count - region.budget)
        for key, attribute in attributes.items():
            trial.set_user_attr(key, attribute)
        study.tell(trial, accuracy)


def serve(name: str, url: str, sender: Connection) -> None:
    """Send the server's address, then serve until the process is terminated."""
    if name == "optuna-dashboard":
        app = optuna_dashboard.wsgi(url)
    else:
        app = dashboard_app(open_storage(url, write=False))
    server = open_server(app, "127.0.0.1", 0)
    sender.send(server.url)
    server.serve_forever()


@contextmanager
def serving(name: str, url: str) -> Iterator[str]:
    """Run a server in its own process, and yield its address."""
    address, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=serve, args=(name, url, sender))
    process.start()
    sender.close()
    try:
        yield address.recv()
    finally:
        process.terminate()
        process.join()


def request(address: str) -> tuple[float, bytes]:
    """Return the seconds until the whole response has arrived, and the response."""
    begin = time.perf_counter()
    with urllib.request.urlopen(address, timeout=600) as response:
        content = response.read()
    return time.perf_counter() - begin, content


def measure(
    name: str, url: str, study: optuna.Study, region: FeasibleRegion, wait: float
) -> dict[str, Any]:
    """Measure one round of one server."""
    with serving(name, url) as address:
        page = f"{address}api/studies/{study._study_id}"
        first, content = request(f"{page}?after=0")
        page_json = json.loads(content)
        before = len(page_json["trials"])
        importance, _ = request(f"{page}/param_importances")
        add(study, region, before)
        time.sleep(wait)
        poll, update = request(f"{page}?after={before}")
        assert len(json.loads(update)["trials"]) == (1 if wait >= CACHE_SECONDS else 0)
        return {
            "server": name,
            "trials": before,
            "parameters": len(page_json["union_search_space"]),
            "page_bytes": len(content),
            "first_s": first,
            "poll_bytes": len(update),
            "poll_s": poll,
            "importance_s": importance,
        }


def summarize(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians and all rounds."""
    last = rounds[-1]
    return {
        key: statistics.median(r[key] for r in rounds) if key.endswith(("_s", "_bytes")) else value
        for key, value in last.items()
    } | {"rounds": rounds}


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(
        "server", "parameters", "page MB", "first s", "poll kB", "poll s", "importance s",
        title=f"Study of {rows[0]['trials']:,} trials",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["server"],
            str(row["parameters"]),
            f"{row['page_bytes'] / 1e6:.2f}",
            f"{row['first_s']:.2f}",
            f"{row['poll_bytes'] / 1e3:.0f}",
            f"{row['poll_s']:.2f}",
            f"{row['importance_s']:.2f}",
        )
    Console(width=100).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-trials", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=12, help="blocks of 20 parameters")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--small", action="store_true", help="seconds: few trials, cached polls")
    arguments = parser.parse_args()
    wait = CACHE_SECONDS + 1.0
    if arguments.small:
        arguments.n_trials, arguments.blocks, arguments.rounds, wait = 20, 2, 1, 0.0
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    command = command_line()
    print(command)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/studies.db"
        study, region = fill(url, arguments.n_trials, arguments.blocks)
        for number in range(arguments.rounds):
            for name in SERVERS:
                print(f"round {number + 1}, {name}", file=sys.stderr, flush=True)
                rounds[name].append(measure(name, url, study, region, wait))
    rows = [summarize(found) for found in rounds.values()]
    show(rows)
    if arguments.out is not None:
        document = {
            "benchmark": "dashboard",
            "command": command,
            "machine": MACHINE,
            "optuna": optuna.__version__,
            "optuna_dashboard": optuna_dashboard.__version__,
            "rows": rows,
        }
        write_document(arguments.out, document)


if __name__ == "__main__":
    main()
