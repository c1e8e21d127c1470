"""The search beside what a user would do instead: longer LoRA, and a study over LoRA's settings.

All methods of a task have the same images, backbone and budget, and end with weights that were
trained on all labelled images and tested once. The cost counts images of forward passes, three for
a training step, in trainings of LoRA on the training images.

- `LoRA 1x, 3x, 8x`: the highest rank that fits, with the recipe, for that many trainings.
- `TPE over LoRA 3x, 8x`: an Optuna study with TPE and median pruning over LoRA's rank and place,
  learning rate, weight decay, batch size, crops, flips, shifts, mixup and CutMix. Each trial is a
  quarter of a training, validated on the validation images. The best one is trained on all labelled
  images with what is left of the cost.
- `PEFT LoRA`: PEFT's own LoRA of the same rank and its learning rate in a plain loop with AdamW and
  linear decay, without augmentation, as most examples have it.
- `PEFT EVA`: the same with ranks redistributed by EVA (arXiv 2410.07170) at the same size.
- `searched 1x, 3x, 8x`: `glora search --effort low, medium, high`.

The first table has paired differences "search of the same cost minus method" with 95 % intervals
over tasks. Those of PEFT are to the search at 1x.
The same command continues an interrupted run.

    python benchmarks/rivals.py digits --seeds 3 --out benchmarks/results/rivals-digits.json
    python benchmarks/rivals.py benchmarks/npz-suite.toml --data FOLDER --budget 6820 \\
        --set training.epochs=20 --costs 1 3 --out benchmarks/results/rivals-npz.json
    python benchmarks/rivals.py digits --small --budget 50%
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from _document import MACHINE, interval, portable_command, write_document
from quality import SMALL, with_checkpoint
from rich.console import Console
from rich.table import Table

from glora_automl.commands import search
from glora_automl.pipeline import (
    Context,
    TrainingJob,
    Workspace,
    prepare,
    standalone,
    validate,
)
from glora_automl.presets import fitting_loras
from glora_automl.progress import Progress
from glora_automl.recipes import (
    Recipe,
    list_recipes,
    load_suite,
    nested,
    override_recipe,
    suite_recipes,
    with_effort,
)
from glora_automl.study import SEARCHED, Spent
from glora_automl.training import evaluate

EFFORTS = {1: "low", 3: "medium", 8: "high"}
TRIAL = 0.25
"""Length of a trial of the study over LoRA, in trainings."""


class Measured(NamedTuple):
    """Figures of a method on a pair of a task and a seed."""

    test: float
    cost: float
    n_params: int


def lora(context: Context, ratio: int) -> Measured:
    """Train LoRA of the highest rank that fits on all labelled images."""
    architecture = fitting_loras(context.space.shapes, context.budget)[-1].architecture
    subnet = standalone(context, architecture)
    spent = TrainingJob(context, "LoRA", "", context.labelled, ratio).run(subnet)
    accuracy = evaluate(subnet.model, *context.test()).accuracy
    count = architecture.count(context.space.shapes)
    return Measured(accuracy, spent.forward_images / training(context), count)


def training(context: Context) -> int:
    """Return the cost of a training on the training images, in images of a forward pass."""
    return 3 * context.recipe.training.epochs * len(context.task.train)


def tpe(context: Context, limit: int) -> Measured:
    """Run a study over LoRA and its training, and train the best trial on all labelled images."""
    own_context, context = context, context.holding_out()
    places = {p.label: p.architecture for p in fitting_loras(context.space.shapes, context.budget)}
    highest = list(places)[-1]
    own = context.recipe.training
    one, last = training(context), max(1.0, limit / 4)
    spent_images = 0

    def prepared(settings: dict[str, Any]) -> Context:
        return context.with_recipe(context.recipe.replace(**nested(settings)))

    def objective(trial: optuna.Trial) -> float:
        nonlocal spent_images
        name = trial.suggest_categorical("place", list(places))
        settings = {
            "training.lr": trial.suggest_float("training.lr", 3e-4, 3e-2, log=True),
            "training.weight_decay": trial.suggest_float(
                "training.weight_decay", 1e-5, 1e-1, log=True
            ),
            **{
                key: trial.suggest_categorical(key, sorted({*values, getattr(own, key[9:])}))
                for key, values in {
                    "training.batch_size": [16, own.batch_size],
                    "training.scale": [0.5, 1.0],
                    "training.hflip": [0.0, 0.5],
                    "training.shift": [0.0, 0.1],
                    "training.mixup": [0.0, 0.4],
                    "training.cutmix": [0.0, 1.0],
                }.items()
            },
        }
        changed = prepared(settings)
        subnet = standalone(changed, places[name])
        job = TrainingJob(changed, "tpe", "", changed.train, TRIAL)
        half = max(1, job.settings.epochs // 2)
        n_epochs, is_reported = 0, False

        def on_epoch(epoch: int) -> None:
            nonlocal n_epochs, is_reported
            n_epochs += 1
            if epoch == half < job.settings.epochs and not is_reported:
                is_reported = True
                trial.report(loss(), step=0)
                if trial.should_prune():
                    raise optuna.TrialPruned

        def loss() -> float:
            nonlocal spent_images
            score = validate(changed, subnet)
            spent_images += score.n_images
            assert score.scaled_loss is not None
            return score.scaled_loss

        try:
            job.run(subnet, on_epoch=on_epoch)
        finally:
            spent_images += 3 * n_epochs * len(changed.train[1])
        return loss()

    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=context.recipe.seed, n_startup_trials=5),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    first = {
        "place": highest,
        **{
            f"training.{key}": getattr(own, key)
            for key in (
                "lr",
                "weight_decay",
                "batch_size",
                "scale",
                "hflip",
                "shift",
                "mixup",
                "cutmix",
            )
        },
    }
    study.enqueue_trial(first)
    while spent_images + TRIAL * one <= (limit - last) * one:
        study.optimize(objective, n_trials=1)
    best = dict(study.best_params)
    architecture = places[best.pop("place")]
    # As the other methods: the last training begins with a head of all labelled images.
    changed = own_context.with_recipe(own_context.recipe.replace(**nested(best)))
    subnet = standalone(changed, architecture)
    rest = limit - spent_images / one
    spent = TrainingJob(changed, "LoRA", "", changed.labelled, rest).run(subnet)
    return Measured(
        evaluate(subnet.model, *context.test()).accuracy,
        (spent_images + spent.forward_images) / one,
        architecture.count(context.space.shapes),
    )


def peft_lora(context: Context, *, eva: bool) -> Measured:
    """Train PEFT's LoRA of the same rank in a plain loop on all labelled images."""
    import peft

    architecture = fitting_loras(context.space.shapes, context.budget)[-1].architecture
    adapted = {name: tensors.B.rank for name, tensors in architecture.items() if tensors.B.rank}
    rank = max(adapted.values())
    model = context.initial_model()
    images, labels = context.labelled
    options: dict[str, Any] = {}
    if eva:
        options = {"init_lora_weights": "eva", "eva_config": peft.EvaConfig(rho=2.0)}
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(adapted), **options)
    batch = context.recipe.training.batch_size
    torch.manual_seed(context.recipe.seed)
    wrapped = peft.get_peft_model(model, config)
    if eva:
        loader = [images[i : i + batch] for i in range(0, len(labels), batch)]
        peft.initialize_lora_eva_weights(
            wrapped,
            loader,
            forward_fn=lambda module, pixels: module(pixels),
            prepare_model_inputs_fn=None,
            prepare_layer_inputs_fn=_flat,
            show_progress_bar=False,
        )
    for parameter in wrapped.get_base_model().get_classifier().parameters():
        parameter.requires_grad_(True)
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    head = sum(p.numel() for p in wrapped.get_base_model().get_classifier().parameters())
    n_steps = math.ceil(context.recipe.training.epochs * len(context.task.train) / batch)
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, n_steps)
    generator = torch.Generator().manual_seed(context.recipe.seed)
    order = torch.empty(0, dtype=torch.long)
    wrapped.train()
    for _step in range(n_steps):
        if len(order) < batch:
            order = torch.randperm(len(labels), generator=generator).to(labels.device)
        chosen, order = order[:batch], order[batch:]
        loss = torch.nn.functional.cross_entropy(wrapped(images[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    accuracy = evaluate(wrapped.eval(), *context.test()).accuracy
    cost = 3 * n_steps * batch / training(context)
    return Measured(accuracy, cost, sum(p.numel() for p in trained) - head)


def _flat(inputs: Any, model_inputs: Any, name: str) -> torch.Tensor:
    """Return a layer's inputs, one row per token."""
    tensor: torch.Tensor = inputs if isinstance(inputs, torch.Tensor) else inputs[0]
    return tensor.flatten(0, -2)


def searched(context: Context, ratio: int, runs: Path) -> Measured:
    """Search with an effort."""
    recipe = with_effort(context.recipe, EFFORTS[ratio])
    recipe = recipe.replace(name=f"{recipe.name}-{EFFORTS[ratio]}")
    found = search(recipe, workspace=Workspace(runs=runs))
    (row,) = (row for row in found.rows if row.name == SEARCHED)
    images = Spent(row.n_images, row.n_evaluated).forward_images
    assert row.test is not None
    assert row.n_params is not None
    return Measured(row.test.accuracy, images / training(context), row.n_params)


def methods(costs: Sequence[int], runs: Path) -> dict[str, Callable[[Context], Measured]]:
    """Return the methods by name, the cheap ones first."""
    found: dict[str, Callable[[Context], Measured]] = {
        "PEFT LoRA": partial(peft_lora, eva=False),
        "PEFT EVA": partial(peft_lora, eva=True),
    }
    for ratio in costs:
        found[f"LoRA {ratio}x"] = partial(lora, ratio=ratio)
        found[f"searched {ratio}x"] = partial(searched, ratio=ratio, runs=runs)
        if ratio > 1:
            found[f"TPE over LoRA {ratio}x"] = partial(tpe, limit=ratio)
    return found


def find_recipes(arguments: argparse.Namespace) -> list[tuple[str, Recipe]]:
    """Return the tasks with their recipes, all with the first seed, then the next one."""
    if arguments.suite in list_recipes():
        recipe = override_recipe(arguments.suite, settings=arguments.settings)
        found = [
            (recipe.name, recipe.replace(seed=seed, name=f"{recipe.name}-seed{seed}"))
            for seed in range(arguments.seeds)
        ]
    else:
        suite = load_suite(arguments.suite, data=arguments.data)
        found = suite_recipes(suite, settings=arguments.settings, n_seeds=arguments.seeds)
        found = [(task, with_checkpoint(recipe, arguments.data)) for task, recipe in found]
    if arguments.budget is not None:
        found = [(task, recipe.replace(budget=arguments.budget)) for task, recipe in found]
    if arguments.small:
        found = [(task, recipe.replace(**SMALL)) for task, recipe in found]
    return [(task, recipe) for task, recipe in found if task in (arguments.tasks or [task])]


def search_of(method: str) -> str:
    """Return the name of the search that costs as much as a method."""
    cost = method.rpartition(" ")[2]
    return f"searched {cost if cost in {f'{ratio}x' for ratio in EFFORTS} else '1x'}"


def summarize(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means over tasks, and paired differences to the search of the same cost."""
    figures: dict[str, Any] = {}
    for name in dict.fromkeys(pair["method"] for pair in pairs):
        own = [pair for pair in pairs if pair["method"] == name]
        by_task: dict[str, list[float]] = {}
        for pair in own:
            for other in pairs:
                same = (other["task"], other["seed"]) == (pair["task"], pair["seed"])
                if same and other["method"] == search_of(name):
                    by_task.setdefault(pair["task"], []).append(other["test"] - pair["test"])
        # Over tasks, with seeds as repeats; one task has only its seeds.
        values = [float(np.mean(found)) for found in by_task.values()]
        if len(values) == 1:
            values = next(iter(by_task.values()))
        half = interval(values)
        figures[name] = {
            "n_pairs": len(own),
            "test": float(np.mean([pair["test"] for pair in own])),
            "cost": float(np.mean([pair["cost"] for pair in own])),
            "n_params": float(np.mean([pair["n_params"] for pair in own])),
            "difference": float(np.mean(values)) if values else None,
            "interval": None if math.isnan(half) else half,
            "tasks": {
                task: float(np.mean([p["test"] for p in own if p["task"] == task]))
                for task in dict.fromkeys(pair["task"] for pair in own)
            },
        }
    return figures


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=140)
    table = Table(title="minus: test accuracy of the search of the same cost minus the method's")
    for column in ("method", "pairs", "parameters", "cost", "test %", "minus"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, entry in figures.items():
        minus = "–"
        if entry["difference"] is not None and name != search_of(name):
            half = "" if entry["interval"] is None else f" ± {100 * entry['interval']:.1f}"
            minus = f"{100 * entry['difference']:+.1f}{half}"
        table.add_row(
            name,
            str(entry["n_pairs"]),
            f"{entry['n_params']:,.0f}",
            f"{entry['cost']:.2f}",
            f"{100 * entry['test']:.1f}",
            minus,
        )
    console.print(table)
    tasks = dict.fromkeys(task for entry in figures.values() for task in entry["tasks"])
    table = Table(title="Test accuracy in %")
    table.add_column("method")
    for task in tasks:
        table.add_column(task, justify="right")
    for name, entry in figures.items():
        cells = (entry["tasks"].get(task) for task in tasks)
        table.add_row(name, *("–" if cell is None else f"{100 * cell:.1f}" for cell in cells))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", help="name of a recipe, or file of a suite")
    parser.add_argument("--data", help="folder of the suite's images, and of a checkpoint")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="some of the suite's tasks")
    parser.add_argument("--budget", help="budget; the recipe's by default")
    parser.add_argument("--seeds", type=int, default=1, help="seeds per task")
    parser.add_argument("--costs", type=int, nargs="+", default=[1, 3, 8], choices=[1, 3, 8])
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="some of the methods")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-rivals"))
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    parser.add_argument("--small", action="store_true", help="seconds: tiny model and trainings")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pairs: list[dict[str, Any]] = []
    if arguments.out is not None and arguments.out.exists():
        pairs = json.loads(arguments.out.read_text(encoding="utf-8"))["pairs"]
    done = {(pair["task"], pair["seed"], pair["method"]) for pair in pairs}
    chosen = methods(arguments.costs, arguments.runs)
    for task, recipe in find_recipes(arguments):
        context = prepare(recipe, Workspace(runs=arguments.runs), recipe.name)
        context = replace(context, progress=Progress())
        context = context.with_backbone(context.create_backbone())
        for name, method in chosen.items():
            key = task, recipe.seed, name
            if key in done or name not in (arguments.methods or [name]):
                continue
            found = method(context)
            pairs.append(dict(zip(("task", "seed", "method"), key, strict=True)) | found._asdict())
            print(*key, *found, flush=True)
            if arguments.out is not None:
                document = {
                    "benchmark": "rivals",
                    "command": portable_command(arguments.data),
                    "machine": MACHINE,
                    "torch": torch.__version__,
                    "figures": summarize(pairs),
                    "pairs": pairs,
                }
                write_document(arguments.out, document)
    show(summarize(pairs))


if __name__ == "__main__":
    main()
