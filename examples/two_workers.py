"""Run one study by two workers that share a PostgreSQL database and a folder of artifacts.

Here both are processes of this machine. On two machines, start one of them on each.

    python examples/two_workers.py --storage postgresql+psycopg://me@localhost/glora
    python examples/two_workers.py --small --storage postgresql+psycopg://me@localhost/glora
"""

import multiprocessing
from pathlib import Path

from sample import SMALL, arguments

from glora_automl import Workspace, load_recipe, resume, search
from glora_automl.storages import default_url


def work(number: int, storage: str, runs: Path, small: bool) -> None:
    """Search or join: each worker has a runs folder of its own, as on its own machine."""
    workspace = Workspace(
        storage=storage, artifacts=str(runs / "artifacts"), runs=runs / f"worker-{number}"
    )
    recipe = load_recipe("digits")
    if small:
        recipe = load_recipe("smoke").replace(
            search=SMALL["search"], selection=SMALL["selection"], training={"epochs": 2}
        )
    result = search(recipe, name="shared", workspace=workspace)
    workers = {trial.user_attrs["worker"] for trial in result.study.get_trials(deepcopy=False)}
    print(f"worker {number}: test accuracy {result.rows[0].test.accuracy:.1%} by {len(workers)}")


def main() -> None:
    options = arguments(__doc__, storage=None)
    options.runs.mkdir(parents=True, exist_ok=True)
    storage = options.storage or default_url(options.runs)
    context = multiprocessing.get_context("spawn")
    jobs = [(number, storage, options.runs, options.small) for number in (1, 2)]
    workers = [context.Process(target=work, args=job) for job in jobs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed")
    # A third one finds the finished study, and needs its name alone.
    done = resume("shared", workspace=Workspace(storage=storage, runs=options.runs / "worker-3"))
    print(f"{len(done.study.trials)} trials in {storage.partition('://')[0]}")


if __name__ == "__main__":
    main()
