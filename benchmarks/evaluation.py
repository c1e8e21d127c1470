"""What it takes to score an architecture, beside the plain backbone's forward pass.

A round scores a random architecture of the search space `default` on the same images in each way:

- plain: the backbone alone, in the batches that pay;
- plain, one batch: the backbone alone, all images at once;
- merged: what the search does, the merge included (`Scorer`);
- merged, bfloat16 / compiled: the same with `search.precision` and `search.compile`;
- unmerged: the adapted layers themselves;
- reference: the paper's formula, which rebuilds every weight for every batch;
- PEFT GLoRA: all tensors of all layers, LoRA of rank 8 for A and B, unmerged
  (`pip install -e ".[peft]"`).

Told are images a second, and the time as a multiple of the plain backbone's in the same round,
as median and quartiles. On a CPU it is processor time on one thread.

    python benchmarks/evaluation.py --out benchmarks/results/evaluation-cpu.json
    python benchmarks/evaluation.py --device cuda --models vit-s vit-b vit-l swin-t convnext-t \\
        --images 200 --rounds 50 --bfloat16 --compile --out benchmarks/results/evaluation-cuda.json
    python benchmarks/evaluation.py --small
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from _reference import peft_of, reference_of
from _speed import (
    architectures,
    create,
    images_for,
    in_turn,
    parser_of,
    peak_memory,
    show,
    summarised,
    supernet_of,
    write,
)
from torch import Tensor, nn

from glora_automl.adapters import linear_shapes
from glora_automl.supernet import Scorer
from glora_automl.training import evaluate
from glora_automl.training._evaluation import paying_batch_size

MODELS = ["digits", "minivtab", "vit-s", "vit-b", "swin-t", "convnext-t"]
IMAGES = {"digits": 150, "minivtab": 200}
LARGE = 16
"""Images for the models at 224 pixels on a CPU, where 200 would take minutes a round."""


def ways_of(
    name: str, images: Tensor, labels: Tensor, *, bfloat16: bool, compiled: bool
) -> dict[str, Callable[[], object]]:
    """The ways to score an architecture of a model."""
    device = images.device
    plain = create(name, device)
    supernet, space = supernet_of(create(name, device), images)
    other, _ = supernet_of(create(name, device), images)
    reference = reference_of(other.model)
    size = paying_batch_size(plain, images[:1])

    def scored(scorer: Scorer) -> Callable[[], object]:
        drawn = architectures(space)
        return lambda: scorer.score(next(drawn))

    drawn, for_reference = architectures(space), architectures(space)

    def unmerged() -> object:
        supernet.activate(next(drawn))
        return evaluate(supernet.model, images, labels, size)

    def by_reference() -> object:
        other.activate(next(for_reference))
        return evaluate(reference, images, labels, size)

    def of(model: nn.Module, batch: int) -> Callable[[], object]:
        return lambda: evaluate(model, images, labels, batch)

    ways: dict[str, Callable[[], object]] = {
        "plain": of(plain, size),
        "plain, one batch": of(plain, len(images)),
        "merged": scored(Scorer(supernet, images, labels)),
    }
    if bfloat16:
        half = create(name, device).to(torch.bfloat16)
        small = images.to(torch.bfloat16)
        ways["plain, bfloat16"] = lambda: evaluate(half, small, labels, size)
        ways["merged, bfloat16"] = scored(Scorer(supernet, images, labels, dtype=torch.bfloat16))
    if compiled:
        dtype = torch.bfloat16 if bfloat16 else None
        ways["merged, compiled"] = scored(
            Scorer(supernet, images, labels, dtype=dtype, compiled=True)
        )
    ways |= {"unmerged": unmerged, "reference": by_reference}
    names = [n for n, m in create(name, device).named_modules() if isinstance(m, nn.Linear)]
    shapes = linear_shapes(plain, example=images[:1])
    adapted = peft_of(create(name, device), [n for n in names if n in shapes], "GLoRA", 8)
    if adapted is not None:
        ways["PEFT GLoRA"] = of(adapted, size)
    return ways


def main() -> None:
    parser = parser_of(__doc__, MODELS, rounds=15)
    parser.add_argument("--images", type=int, help="images that are scored")
    parser.add_argument("--bfloat16", action="store_true", help="also in bfloat16")
    parser.add_argument("--compile", action="store_true", help="also compiled")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.models, arguments.rounds, arguments.images = ["test"], 2, 6
        arguments.bfloat16 = True
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name in arguments.models:
        count = arguments.images or IMAGES.get(name, LARGE)
        images, labels = images_for(name, count, device)
        ways = ways_of(
            name, images, labels, bfloat16=arguments.bfloat16, compiled=arguments.compile
        )
        memory = {way: peak_memory(function, device) for way, function in ways.items()}
        seconds = in_turn(ways, arguments.rounds, device)
        figures[name] = summarised(seconds, "plain", count, memory)
        show("Scoring an architecture", "plain", {name: figures[name]})
        write(arguments.out, "evaluation", device, figures)


if __name__ == "__main__":
    main()
