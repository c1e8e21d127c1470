"""Compare EvolutionSampler with other samplers on a synthetic problem with a known optimum.

The space is ``default`` on the 48 linear layers of a ViT-B/16: 240 categorical parameters. The
value of an architecture is synthetic: each support tensor of each layer has a random strength, the
gain of a layer saturates in the sum of its strengths, layers have random weights, and neighboring
layers interact. Each evaluation has noise. As layers form a chain, dynamic programming with a price
per parameter (a Lagrange multiplier) gives an upper bound of the value under the budget, and an
architecture close to it.

The score is the best noiseless value of the feasible architectures among the first 100, 300 and
1000 evaluations, relative to that bound. With two objectives (maximize value, minimize parameters)
it is the hypervolume of the feasible architectures, relative to the area under the bound. The
figures are means over seeds with 95% intervals; each seed is another problem. The benchmark also
measures the milliseconds of a sampler per trial, with 1,000 and 10,000 finished trials in memory.

Samplers without a region run as in plain Optuna ("constraint": infeasible proposals are marked by
``Trial.set_constraint`` and count as evaluations), and "repaired" (proposals are repaired into the
region before the evaluation). QMC has integer parameters, as Optuna's QMC draws categorical ones at
random; TPE is multivariate. "rejection" is a reimplementation of the search of the GLoRA paper:
infeasible candidates are drawn again (at most 1000 times, then accepted), and the last generation
is never ranked.

    python benchmarks/samplers.py --out benchmarks/results/samplers-synthetic.json
    python benchmarks/samplers.py --small
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from _document import MACHINE, command_line, interval, write_document
from _rejection import rejection
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from rich.console import Console
from rich.table import Table

from glora_automl.architecture import LayerShape
from glora_automl.budget import FeasibleRegion
from glora_automl.samplers import EvolutionSampler
from glora_automl.search_space import SearchSpace, load_search_space

NOISE = 0.005
"""Standard deviation of an evaluation: that of an accuracy of 0.9 on 3,600 images."""
EVALUATIONS = (100, 300, 1000)
FINISHED = (1000, 10_000)
BUDGETS = (200_000, 500_000)
"""Uniform draws have 800,000 parameters on average; of a million draws, none are below the first
budget and 150 below the second."""
LAYERS = {"attn.qkv": (2304, 768), "attn.proj": (768, 768), "mlp.fc1": (3072, 768)}
LAYERS["mlp.fc2"] = (768, 3072)

warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


class Problem:
    """A synthetic search with a known optimum."""

    def __init__(self, seed: int, budget: int, blocks: int = 12) -> None:
        shapes = {
            f"blocks.{i}.{name}": LayerShape(*shape)
            for i in range(blocks)
            for name, shape in LAYERS.items()
        }
        self.space = SearchSpace(load_search_space("default"), shapes)
        self.region = FeasibleRegion(self.space, budget)
        self.budget = budget
        rng = np.random.default_rng([2306, 7967, seed])
        layers = len(shapes)
        self.weights = rng.lognormal(0, 0.7, layers)
        pairs = np.minimum(self.weights[1:], self.weights[:-1])
        # Within 0.3 of the lighter layer, so that the value increases with each gain.
        self.links = rng.uniform(-0.3, 0.3, layers - 1) * pairs
        scale = rng.gamma(0.5, 0.5, (layers, 5))
        kinds = {"none": 0.0, "scalar": 0.15, "vector": 0.6}
        self.strengths = [
            np.array(
                [
                    kinds[c] if c in kinds else 0.8 * math.log2(1 + int(c.removeprefix("lora-")))
                    for c in dimension.choices
                ]
            )
            * scale[divmod(i, 5)]
            for i, dimension in enumerate(self.space.dimensions)
        ]
        self.tables = [
            dict(zip(d.choices, strengths, strict=True))
            for d, strengths in zip(self.space.dimensions, self.strengths, strict=True)
        ]
        self._states = [self._layer_states(layer) for layer in range(layers)]
        self.optimum, self.reached = self._solve()

    def value(self, params: dict[str, str]) -> float:
        """Return the noiseless value: 0 without adapters, at most :attr:`optimum` in the budget."""
        names = [d.name for d in self.space.dimensions]
        sums = [table[params[n]] for n, table in zip(names, self.tables, strict=True)]
        gains = 1 - np.exp(-np.array(sums).reshape(-1, 5).sum(axis=1))
        return float(self.weights @ gains + self.links @ (gains[1:] * gains[:-1]))

    def _layer_states(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Return costs and gains of the non-dominated choices of one layer."""
        rows = range(5 * layer, 5 * layer + 5)
        costs = [self.space.dimensions[row].costs for row in rows]
        cost = np.array([sum(c) for c in itertools.product(*costs)])
        gain = 1 - np.exp([-sum(s) for s in itertools.product(*(self.strengths[r] for r in rows))])
        order = np.lexsort((-gain, cost))
        cost, gain = cost[order], gain[order]
        improves = gain > np.concatenate([[-1.0], np.maximum.accumulate(gain)[:-1]])
        return cost[improves], gain[improves]

    def priced(self, price: float) -> tuple[float, int, float]:
        """Return net value, size and value of the best architecture at a price per parameter."""
        net, path = np.zeros(1), []
        for layer, (cost, gain) in enumerate(self._states):
            own = self.weights[layer] * gain - price * cost
            if layer == 0:
                net = own
                continue
            before = self._states[layer - 1][1]
            total = net[:, None] + self.links[layer - 1] * np.outer(before, gain) + own
            path.append(total.argmax(axis=0))
            net = total.max(axis=0)
        state = int(net.argmax())
        size = int(self._states[-1][0][state])
        for layer in range(len(path) - 1, -1, -1):
            state = int(path[layer][state])
            size += int(self._states[layer][0][state])
        return float(net.max()), size, float(net.max()) + price * size

    def _solve(self) -> tuple[float, float]:
        """Return an upper bound of the value in the budget, and a value that is reached."""
        low, high = 1e-9, 1e-2
        bound, reached = math.inf, 0.0
        for _ in range(60):
            price = math.sqrt(low * high)
            net, size, value = self.priced(price)
            bound = min(bound, net + price * self.budget)
            if size > self.budget:
                low = price
            else:
                high, reached = price, max(reached, value)
        return bound, reached

    def area(self) -> float:
        """Return an upper bound of the hypervolume in units of optimum times budget."""
        sizes = np.linspace(0, self.budget, 1001)
        prices = np.geomspace(1e-8, 1e-2, 120)
        best = np.min([self.priced(p)[0] + p * sizes for p in prices], axis=0)
        return float(np.trapezoid(best, sizes)) / self.optimum / self.budget


@cache
def problem(seed: int, budget: int, blocks: int) -> Problem:
    return Problem(seed, budget, blocks)


def evolution(seed: int, task: Problem, **options: Any) -> EvolutionSampler:
    space = task.space.distributions()
    return EvolutionSampler(search_space=space, region=task.region, seed=seed, **options)


SAMPLERS: dict[str, Callable[[int, Problem], BaseSampler]] = {
    "random": lambda seed, _: RandomSampler(seed=seed),
    "QMC": lambda seed, _: QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
    "TPE": lambda seed, _: TPESampler(seed=seed, multivariate=True),
    "NSGA-II": lambda seed, _: NSGAIISampler(seed=seed),
    "EvolutionSampler": evolution,
}
MAX_EVALUATIONS = {"TPE": 300}
"""Maximum evaluations of slow samplers, which need minutes per study for 1000."""
Found = list[tuple[float, int]]


@dataclass(frozen=True)
class Job:
    """The settings of one study."""

    sampler: str
    variant: str
    objectives: int
    seed: int
    budget: int
    counts: tuple[int, ...]
    blocks: int

    @property
    def evaluations(self) -> int:
        """Total evaluations."""
        return self.counts[-1]


Result = tuple[Job, list[float], float]


def run(job: Job) -> Result:
    """Return the scores of a study after its counts and the feasible fraction."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = problem(job.seed, job.budget, job.blocks)
    found = reject(task, job) if job.sampler == "rejection" else optimize(task, job)
    scores = [score(found[: ranked(job, n)], task, job.objectives) for n in job.counts]
    return job, scores, sum(size <= job.budget for _, size in found) / len(found)


def ranked(job: Job, evaluations: int) -> int:
    return evaluations - 50 if job.sampler == "rejection" else evaluations


def score(found: Found, task: Problem, objectives: int) -> float:
    """Return the best value or the hypervolume relative to the bound."""
    feasible = [(value, size) for value, size in found if size <= task.budget]
    if objectives == 1:
        return max((value for value, _ in feasible), default=0.0) / task.optimum
    area, best, last = 0.0, 0.0, 0
    for value, size in sorted(feasible, key=lambda point: (point[1], -point[0])):
        if value > best:
            area += best * (size - last)
            best, last = value, size
    area += best * (task.budget - last)
    return area / task.optimum / task.budget / task.area()


def optimize(task: Problem, job: Job) -> Found:
    """Return the evaluations of an Optuna sampler."""
    found: Found = []

    def objective(trial: optuna.Trial) -> float | tuple[float, float]:
        rng = np.random.default_rng([job.seed, trial.number])
        params = {}
        for d in task.space.dimensions:
            if job.sampler == "QMC":
                params[d.name] = d.choices[trial.suggest_int(d.name, 0, len(d.choices) - 1)]
            else:
                params[d.name] = trial.suggest_categorical(d.name, d.choices)
        if job.variant == "repaired":
            params = task.region.repair(params, rng)
        value, size = task.value(params), task.space.count(params)
        found.append((value, size))
        trial.set_constraint("trainable_params", float(size - task.budget))
        noisy = value / task.optimum + float(rng.normal(0, NOISE))
        return noisy if job.objectives == 1 else (noisy, float(size))

    study = optuna.create_study(
        directions=["maximize", "minimize"][: job.objectives],
        sampler=SAMPLERS[job.sampler](job.seed, task),
    )
    study.optimize(objective, n_trials=job.evaluations)
    return found


def reject(task: Problem, job: Job) -> Found:
    """Return the evaluations of the search of the paper."""
    rng = np.random.default_rng(job.seed)
    found: Found = []

    def evaluate(params: dict[str, str], size: int) -> float:
        value = task.value(params)
        found.append((value, size))
        return value / task.optimum + float(rng.normal(0, NOISE))

    rejection(task.space, task.budget, evaluate, evaluations=job.evaluations, rng=rng)
    return found


def ask_milliseconds(finished: int, blocks: int, repeats: int) -> dict[str, list[float]]:
    """Return the milliseconds of each sampler for the parameters of a trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    task = problem(0, BUDGETS[-1], blocks)
    space = task.space.distributions()
    rng = np.random.default_rng(0)
    trials = []
    for number in range(finished):
        params = task.region.draw(rng)
        trial = optuna.create_trial(
            params=params,
            distributions=space,
            value=task.value(params),
            system_attrs={NSGAIISampler._get_generation_key(): number // 50},
            constraints={"trainable_params": float(task.space.count(params) - task.budget)},
        )
        trials.append(trial)
    times: dict[str, list[float]] = {}
    for name, make in SAMPLERS.items():
        if name == "QMC":
            continue  # integer parameters, and it reads no finished trials
        # Without copies of the trials, which would take most of the time.
        storage = InMemoryStorage()
        study = optuna.create_study(
            storage=storage, sampler=make(0, task), direction="maximize", study_name=name
        )
        storage._studies[study._study_id].param_distribution.update(space)
        for number, trial in enumerate(trials):
            trial.number = trial._trial_id = number
            storage._trial_id_to_study_id_and_number[number] = (study._study_id, number)
        storage._studies[study._study_id].trials.extend(trials)
        storage._max_trial_id = finished - 1
        spent = clock(study.sampler)
        for _ in range((3 if name.startswith("TPE") else repeats) + 1):
            before = spent[0]
            asked = study.ask(space)
            times.setdefault(name, []).append(1000 * (spent[0] - before))
            value = task.value(asked.params) / task.optimum
            asked.set_constraint("trainable_params", 0.0)
            study.tell(asked, value)
        del times[name][0]  # the first one reads the history
    return times


def clock(sampler: BaseSampler) -> list[float]:
    """Count the seconds in the methods of a sampler from now on."""
    spent = [0.0]
    depth = [0]

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            begin = time.perf_counter()
            depth[0] += 1
            try:
                return method(*arguments, **keywords)
            finally:
                depth[0] -= 1
                if depth[0] == 0:
                    spent[0] += time.perf_counter() - begin

        return call

    for name in ("before_trial", "infer_relative_search_space", "sample_relative"):
        setattr(sampler, name, timed(getattr(sampler, name)))
    sampler.sample_independent = timed(sampler.sample_independent)  # type: ignore[method-assign]
    return spent


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return all studies, slowest first."""
    made = []
    for name in [*SAMPLERS, "rejection"]:
        is_repaired = name == "rejection" or name.startswith("EvolutionSampler")
        counts = tuple(n for n in arguments.counts if n <= MAX_EVALUATIONS.get(name, n))
        for variant in ("as it is",) if is_repaired else ("constraint", "repaired"):
            for objectives in (1,) if name == "rejection" else (1, 2):
                made += [
                    Job(name, variant, objectives, seed, budget, counts, arguments.blocks)
                    for seed in range(arguments.seeds)
                    # A second objective covers every size up to the budget.
                    for budget in (arguments.budgets if objectives == 1 else arguments.budgets[-1:])
                ]
    return sorted(made, key=lambda job: (not job.sampler.startswith("TPE"), -job.objectives))


def summarize(results: list[Result]) -> list[dict[str, Any]]:
    """Return one entry per sampler, variant, budget and number of objectives."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in sorted(results, key=lambda result: result[0].seed):
        job = result[0]
        key = (job.objectives, job.budget, job.sampler, job.variant)
        groups.setdefault(key, []).append(result)
    entries = []
    for (objectives, budget, sampler, variant), group in groups.items():
        entry: dict[str, Any] = {
            "sampler": sampler,
            "variant": variant,
            "objectives": objectives,
            "budget": budget,
            "seeds": len(group),
            "feasible": statistics.mean(feasible for *_, feasible in group),
        }
        for column, count in enumerate(group[0][0].counts):
            values = [scores[column] for _, scores, _ in group]
            entry[str(count)] = {
                "mean": statistics.mean(values),
                "interval": interval(values),
                "values": values,
            }
        entries.append(entry)
    last = str(max(job.evaluations for job, *_ in results))
    return sorted(
        entries,
        key=lambda e: (e["objectives"], e["budget"], -e.get(last, {"mean": -1.0})["mean"]),
    )


def show(
    entries: list[dict[str, Any]],
    counts: tuple[int, ...],
    asks: dict[int, dict[str, list[float]]],
) -> None:
    """Print the comparison."""
    console = Console(width=120)
    for objectives, budget in sorted({(e["objectives"], e["budget"]) for e in entries}):
        quantity = "best value" if objectives == 1 else "hypervolume"
        title = f"{quantity} in % of the bound, budget {budget:,}: mean and 95% interval"
        table = Table("sampler", "proposals", *map(str, counts), "feasible %", title=title)
        for e in entries:
            if (e["objectives"], e["budget"]) != (objectives, budget):
                continue
            cells = [
                f"{100 * e[n]['mean']:.1f} ± {100 * e[n]['interval']:.1f}" if n in e else "–"
                for n in map(str, counts)
            ]
            table.add_row(e["sampler"], e["variant"], *cells, f"{100 * e['feasible']:.1f}")
        console.print(table)
    table = Table("sampler", *(f"{n:,}" for n in asks), title="ms per trial by finished trials")
    for name in next(iter(asks.values()), {}):
        table.add_row(name, *(f"{statistics.median(times[name]):.1f}" for times in asks.values()))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of problems")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument("--out", type=Path, help="JSON file of the figures")
    parser.add_argument(
        "--small", action="store_true", help="run for seconds: 1 block, 2 seeds, 60 trials"
    )
    arguments = parser.parse_args()
    arguments.counts, arguments.blocks, finished, repeats = EVALUATIONS, 12, FINISHED, 30
    if arguments.small:
        arguments.counts, arguments.blocks, finished, repeats = (60,), 1, (50,), 3
        arguments.seeds, arguments.budgets = 2, (30_000,)
    results = []
    todo = jobs(arguments)
    if arguments.workers == 1:
        for job in todo:
            results.append(run(job))
    else:
        with ProcessPoolExecutor(arguments.workers) as pool:
            for done, result in enumerate(pool.map(run, todo), 1):
                results.append(result)
                print(f"{done}/{len(todo)} {result[0]}", file=sys.stderr, flush=True)
    entries = summarize(results)
    asks = {n: ask_milliseconds(n, arguments.blocks, repeats) for n in finished}
    show(entries, arguments.counts, asks)
    if arguments.out is not None:
        problems = [problem(s, b, arguments.blocks) for b in arguments.budgets for s in (0,)]
        document = {
            "benchmark": "samplers",
            "command": command_line(),
            "machine": MACHINE,
            "python": platform.python_version(),
            "optuna": optuna.__version__,
            "parameters": len(problems[0].space.dimensions),
            "noise": NOISE,
            "duality_gap": [1 - p.reached / p.optimum for p in problems],
            "scores": entries,
            "milliseconds_per_trial": {str(n): times for n, times in asks.items()},
        }
        write_document(arguments.out, document)


if __name__ == "__main__":
    main()
