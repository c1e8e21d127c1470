"""Time of a supernet's training step, compared with LoRA and with the frozen backbone.

Each round runs one step of AdamW on the same images with each method:

- limit: forward and backward pass of the frozen backbone to its first activations, and the head;
  adapters in all layers cannot take less;
- supernet: the wide supernet of the search space `lean`, as a search trains it;
- supernet, random paths: a new path of the search space `default`, as with
  `supernet.paths = "uniform"`;
- supernet, LoRA r=8: the path with LoRA in all layers;
- supernet, grad_checkpointing: the wide supernet with `training.grad_checkpointing`;
- reference: the random paths with the paper's formula, which autograd differentiates through
  all dense weights;
- LoRA r=8, PEFT LoRA r=8, PEFT GLoRA: fixed adapters in all layers (`pip install -e ".[peft]"`);
- limit, compiled and supernet, compiled: with `--compile`, the same steps under `torch.compile`.

The tables show images per second, and the time relative to the limit in the same round as median
and quartiles. On a CPU the time is processor time of one thread. `--half` runs all methods under
autocast in bfloat16. On CUDA the tables show peak memory, too. A line below a table has the seconds
of the first compiled step, with its compilation.

    python benchmarks/training.py --out benchmarks/results/training-cpu.json
    python benchmarks/training.py --models digits minivtab --compile \\
        --out benchmarks/results/training-compiled-cpu.json
    python benchmarks/training.py --device cuda --models vit-s vit-b vit-l swin-t convnext-t \\
        --batch 64 --rounds 50 --half --out benchmarks/results/training-cuda.json
    python benchmarks/training.py --small
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _reference import lora_of, peft_of, reference_of
from _speed import (
    architectures,
    create,
    images_for,
    in_turn,
    parser_of,
    peak_memory,
    show,
    summarize,
    supernet_of,
    write,
)
from torch import Tensor, nn
from torch.nn import functional as F

from glora_automl.adapters import classifiers, linear_shapes
from glora_automl.architecture import Architecture
from glora_automl.supernet import Supernet, widest_architecture

MODELS = ["digits", "minivtab", "vit-s", "vit-b", "swin-t", "convnext-t"]
BATCHES = {"digits": 32, "minivtab": 64}
RANK = 8


def create_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    before_step: Callable[[], object] | None = None,
    *,
    input_gradient: bool = False,
    half: torch.dtype | None = None,
) -> Callable[[], object]:
    """Return a function that runs one training step of a model."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    x = images.clone().requires_grad_(input_gradient)
    device = images.device.type
    model.train()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        if before_step is not None:
            before_step()
        with torch.autocast(device, half, enabled=half is not None):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()

    return step


def with_head(model: nn.Module) -> nn.Module:
    """Make the head of a model trainable, and return the model."""
    for head in classifiers(getattr(model, "base_model", model)) or classifiers(model):
        head.requires_grad_(True)
    return model


def create_methods(
    name: str,
    images: Tensor,
    labels: Tensor,
    half: torch.dtype | None = None,
    *,
    compiled: bool = False,
) -> dict[str, Callable[[], object]]:
    """Create the training step of each method on a model, in float32 or under autocast."""
    device = images.device
    step_of = partial(create_step, half=half)

    def frozen_model() -> nn.Module:
        return with_head(create(name, device).requires_grad_(False))

    def wide_model() -> nn.Module:
        supernet, lean = supernet_of(create(name, device), images, "lean")
        supernet.activate(widest_architecture(lean))
        return supernet.model

    frozen, recomputing = frozen_model(), wide_model()
    supernet, space = supernet_of(create(name, device), images)
    fixed, _ = supernet_of(create(name, device), images)
    other, _ = supernet_of(create(name, device), images)
    reference = reference_of(other.model)
    shapes = linear_shapes(create(name, device), example=images[:1])
    lora = Architecture.uniform(
        shapes, B=f"lora-{min(RANK, *(min(s[:2]) for s in shapes.values()))}"
    )
    fixed.activate(lora)
    linear = [n for n, m in frozen.named_modules() if isinstance(m, nn.Linear) and n in shapes]

    def path_of(supernet: Supernet) -> Callable[[], object]:
        drawn = architectures(space)
        return lambda: supernet.activate(next(drawn))

    methods = {
        "limit": step_of(frozen, images, labels, input_gradient=True),
        "supernet": step_of(wide_model(), images, labels),
        "supernet, random paths": step_of(supernet.model, images, labels, path_of(supernet)),
        f"supernet, LoRA r={RANK}": step_of(fixed.model, images, labels),
    }
    if hasattr(recomputing, "set_grad_checkpointing"):
        recomputing.set_grad_checkpointing(True)
        methods["supernet, grad_checkpointing"] = step_of(recomputing, images, labels)
    methods["reference"] = step_of(reference, images, labels, path_of(other))
    bare = lora_of(frozen_model(), linear, RANK).to(device)
    methods[f"LoRA r={RANK}"] = step_of(bare, images, labels)
    for kind in ("LoRA", "GLoRA"):
        adapted = peft_of(create(name, device), linear, kind, RANK)
        if adapted is not None:
            methods[f"PEFT {kind} r={RANK}"] = step_of(with_head(adapted), images, labels)
    if compiled:
        # Models of their own: a compiled one shares its parameters, and their gradients.
        limit = torch.compile(frozen_model())
        methods["limit, compiled"] = step_of(limit, images, labels, input_gradient=True)
        methods["supernet, compiled"] = step_of(torch.compile(wide_model()), images, labels)
    return methods


def first_seconds(methods: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Run a step of each compiled method, and return its seconds."""
    seconds = {}
    for name in [n for n in methods if n.endswith("compiled")]:
        begin = time.perf_counter()
        methods[name]()
        seconds[name] = round(time.perf_counter() - begin, 1)
    return seconds


def main() -> None:
    parser = parser_of(__doc__, MODELS, rounds=15)
    parser.add_argument("--batch", type=int, help="images per step; 8 for models at 224 pixels")
    parser.add_argument("--half", action="store_true", help="under autocast in bfloat16")
    parser.add_argument("--compile", action="store_true", help="also compiled steps")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.models, arguments.rounds, arguments.batch = ["test"], 2, 4
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name in arguments.models:
        count = arguments.batch or BATCHES.get(name, 8)
        half = torch.bfloat16 if arguments.half else None
        images, labels = images_for(name, count, device)
        methods = create_methods(name, images, labels, half, compiled=arguments.compile)
        first = first_seconds(methods)
        memory = {method: peak_memory(partial(f), device) for method, f in methods.items()}
        seconds = in_turn(methods, arguments.rounds, device)
        figures[name] = summarize(seconds, "limit", count, memory)
        show("A training step", "limit", {name: figures[name]})
        for method, number in first.items():
            figures[name][method]["first_seconds"] = number
            print(f"{name}, {method}: {number:,.1f} s for the first step, with its compilation")
        write(arguments.out, "training", device, figures)


if __name__ == "__main__":
    main()
