"""Time to score an architecture, compared with the plain backbone's forward pass.

Each round scores a random architecture of the search space `default` on the same images with each
method:

- plain: the backbone alone, in batches of the efficient size;
- plain, one batch: the backbone alone, with all images in one batch;
- merged: the scorer of a search, with the merge (`Scorer`);
- merged, bfloat16 / compiled: the same with `search.precision` and `search.compile`;
- unmerged: the adapted layers themselves;
- reference: the paper's formula, which rebuilds all weights for each batch;
- PEFT GLoRA: all tensors of all layers, LoRA of rank 8 for A and B, unmerged
  (`pip install -e ".[peft]"`).

The tables show images per second, and the time relative to the plain backbone in the same round
as median and quartiles. On a CPU the time is processor time of one thread.

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
    summarize,
    supernet_of,
    write,
)
from torch import Tensor, nn

from glora_automl.adapters import linear_shapes
from glora_automl.supernet import Scorer
from glora_automl.training import efficient_batch_size, evaluate

MODELS = ["digits", "minivtab", "vit-s", "vit-b", "swin-t", "convnext-t"]
IMAGES = {"digits": 150, "minivtab": 200}
LARGE = 16
"""Images for models at 224 pixels on a CPU, where 200 would take minutes per round."""


def create_methods(
    name: str, images: Tensor, labels: Tensor, *, bfloat16: bool, compiled: bool
) -> dict[str, Callable[[], object]]:
    """Create the scoring function of each method on a model."""
    device = images.device
    plain = create(name, device)
    supernet, space = supernet_of(create(name, device), images)
    other, _ = supernet_of(create(name, device), images)
    reference = reference_of(other.model)
    size = efficient_batch_size(plain, images[:1])

    def score_next(scorer: Scorer) -> Callable[[], object]:
        drawn = architectures(space)
        return lambda: scorer.score(next(drawn))

    drawn, reference_drawn = architectures(space), architectures(space)

    def unmerged() -> object:
        supernet.activate(next(drawn))
        return evaluate(supernet.model, images, labels, size)

    def with_reference() -> object:
        other.activate(next(reference_drawn))
        return evaluate(reference, images, labels, size)

    def evaluate_plain(model: nn.Module, batch: int) -> Callable[[], object]:
        return lambda: evaluate(model, images, labels, batch)

    methods: dict[str, Callable[[], object]] = {
        "plain": evaluate_plain(plain, size),
        "plain, one batch": evaluate_plain(plain, len(images)),
        "merged": score_next(Scorer(supernet, images, labels)),
    }
    if bfloat16:
        half_model = create(name, device).to(torch.bfloat16)
        half_images = images.to(torch.bfloat16)
        methods["plain, bfloat16"] = lambda: evaluate(half_model, half_images, labels, size)
        methods["merged, bfloat16"] = score_next(
            Scorer(supernet, images, labels, dtype=torch.bfloat16)
        )
    if compiled:
        dtype = torch.bfloat16 if bfloat16 else None
        methods["merged, compiled"] = score_next(
            Scorer(supernet, images, labels, dtype=dtype, compiled=True)
        )
    methods |= {"unmerged": unmerged, "reference": with_reference}
    names = [n for n, m in create(name, device).named_modules() if isinstance(m, nn.Linear)]
    shapes = linear_shapes(plain, example=images[:1])
    adapted = peft_of(create(name, device), [n for n in names if n in shapes], "GLoRA", 8)
    if adapted is not None:
        methods["PEFT GLoRA"] = evaluate_plain(adapted, size)
    return methods


def main() -> None:
    parser = parser_of(__doc__, MODELS, rounds=15)
    parser.add_argument("--images", type=int, help="number of images")
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
        methods = create_methods(
            name, images, labels, bfloat16=arguments.bfloat16, compiled=arguments.compile
        )
        memory = {method: peak_memory(f, device) for method, f in methods.items()}
        seconds = in_turn(methods, arguments.rounds, device)
        figures[name] = summarize(seconds, "plain", count, memory)
        show("Scoring an architecture", "plain", {name: figures[name]})
        write(arguments.out, "evaluation", device, figures)


if __name__ == "__main__":
    main()
