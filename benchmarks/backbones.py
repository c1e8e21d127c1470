"""Adaptable layers of timm's models: one model per family, checked and counted.

Each model becomes a supernet of the search space ``default``, with random architectures under a
budget of 5% of its parameters. The benchmark checks that

- the active parameters equal the architecture's count and are within the budget,
- the merged model computes the same logits as the unmerged one,
- without the adapters, weights and logits are bit for bit those before.

The table has the number of adaptable layers, their percentage of the parameters (without the
classifier), and the other layers.

    python benchmarks/backbones.py --docs docs/reference/layers.md \
        --out benchmarks/results/backbones.json
    python benchmarks/backbones.py --small
"""

from __future__ import annotations

import argparse
import collections
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _document import command_line, write_document
from rich.console import Console
from rich.table import Table
from torch import nn

from glora_automl._files import write_atomic
from glora_automl.adapters import (
    adapted_layers,
    classifiers,
    detach,
    linear_shapes,
    merge,
    unadaptable,
)
from glora_automl.budget import FeasibleRegion
from glora_automl.errors import LayerError
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.supernet import Supernet
from glora_automl.training import seeded

CLASSES = 3
BUDGET = 0.05
MARKS = ("<!-- table -->", "<!-- end of table -->")


@dataclass(frozen=True)
class Family:
    """Family of models.

    Attributes:
        name: Name of the family.
        model: Small timm model of the family.
        cut: Keyword arguments that make the model smaller, for tests.
        size: Height and width of the images for the smaller model; None is the model's own.
        quick: Whether the small mode includes the family, at full size.
    """

    name: str
    model: str
    cut: dict[str, Any] = field(default_factory=dict)
    size: int | None = 64
    quick: bool = False

    def __str__(self) -> str:
        return self.name


def _vit(**kwargs: Any) -> dict[str, Any]:
    return {"img_size": 64, "depth": 2, **kwargs}


def _swin(**kwargs: Any) -> dict[str, Any]:
    return {"embed_dim": 24, "depths": (1, 1, 1, 1), **kwargs}


def _coat() -> dict[str, Any]:
    return {"img_size": 64, "serial_depths": (1, 1, 1, 1), "parallel_depth": 1}


FAMILIES = (
    Family("ViT", "vit_tiny_patch16_224", _vit(), quick=True),
    Family("ViT, relative positions", "vit_relpos_small_patch16_224", _vit()),
    Family("DeiT, distilled", "deit_tiny_distilled_patch16_224", _vit()),
    Family("DeiT III", "deit3_small_patch16_224", _vit()),
    Family("BEiT", "beit_base_patch16_224", _vit(embed_dim=192)),
    Family("EVA", "eva02_tiny_patch14_224", {"img_size": 56, "depth": 2}, 56, quick=True),
    Family("EVA, separate q, k, v", "eva02_base_patch16_clip_224", _vit(embed_dim=192)),
    Family("CaiT", "cait_xxs24_224", {"img_size": 64, "depth": 2}),
    Family("XCiT", "xcit_nano_12_p16_224", {"depth": 2}),
    Family("ConViT", "convit_tiny", _vit(local_up_to_layer=1)),
    Family("CrossViT", "crossvit_tiny_240", {"depth": ((1, 2, 0),) * 3}, None),
    Family("PiT", "pit_ti_224", {}, None),
    Family("TNT", "tnt_s_patch16_224", _vit()),
    Family("VOLO", "volo_d1_224", {"img_size": 64}),
    Family("Hiera", "hiera_tiny_224", {"img_size": 64, "stages": (1, 1, 1, 1)}),
    Family("Swin", "swin_tiny_patch4_window7_224", _swin(img_size=56), 56),
    Family("Swin v2", "swinv2_tiny_window8_256", _swin(img_size=64, window_size=4)),
    Family("Swin v2 CR", "swinv2_cr_tiny_ns_224", _swin(img_size=64, window_size=4)),
    Family("PVT v2", "pvt_v2_b0", quick=True),
    Family("Twins PCPVT", "twins_pcpvt_small", {"depths": (1, 1, 1, 1)}),
    Family("Twins SVT", "twins_svt_small", {"depths": (1, 1, 1, 2)}),
    Family("MViT v2", "mvitv2_tiny", {"img_size": 64}),
    Family("GC ViT", "gcvit_xxtiny", {"img_size": 64}),
    Family("NesT", "nest_tiny", {"img_size": 64}),
    Family("DaViT", "davit_tiny", {"depths": (1, 1, 1, 1), "embed_dims": (24, 48, 96, 192)}),
    Family("FocalNet", "focalnet_tiny_srf"),
    Family("CoaT", "coat_tiny", _coat()),
    Family("MLP-Mixer", "mixer_s32_224", {"img_size": 64}),
    Family("ResMLP", "resmlp_12_224", {"img_size": 64}),
    Family("gMLP", "gmlp_s16_224", {"img_size": 64}),
    Family("Sequencer", "sequencer2d_s", {"layers": (1, 1, 1, 1)}, None),
    Family("ConvNeXt", "convnext_tiny", {"depths": (1, 1, 1, 1)}),
    Family("ConvNeXt, conv_mlp", "convnext_atto", {"depths": (1, 1, 1, 1)}, quick=True),
    Family("ConvNeXt v2", "convnextv2_atto", {"depths": (1, 1, 1, 1)}),
    Family("InceptionNeXt", "inception_next_tiny", {"depths": (1, 1, 1, 1)}),
    Family("MambaOut", "mambaout_femto", {"depths": (1, 1, 1, 1)}),
    Family("EdgeNeXt", "edgenext_xx_small", {}),
    Family("PoolFormer", "poolformer_s12"),
    Family("CAFormer", "caformer_s18"),
    Family("CoAtNet", "coatnet_pico_rw_224", {"img_size": 64, "depths": (1, 1, 1, 1)}),
    Family("MaxViT", "maxvit_rmlp_pico_rw_256", {"img_size": 64, "depths": (1, 1, 1, 1)}),
    Family("ViTamin", "vitamin_small_224", {"img_size": 64}),
    Family("LeViT", "levit_128s", {}, None, quick=True),
    Family("LeViT, convolutions", "levit_conv_128s", {}, None),
    Family("EfficientFormer", "efficientformer_l1", {"depths": (1, 1, 1, 2)}, None),
    Family("EfficientFormer v2", "efficientformerv2_s0", {}, None),
    Family("EfficientViT, MIT", "efficientvit_b0", quick=True),
    Family("EfficientViT, MSRA", "efficientvit_m0", {}, None),
    Family("NextViT", "nextvit_small"),
    Family("TinyViT", "tiny_vit_5m_224", {"depths": (1, 1, 1, 1)}, None),
    Family("Visformer", "visformer_tiny", {"depth": (1, 1, 1)}, None),
    Family("MobileViT", "mobilevit_xxs"),
    Family("MobileViT v2", "mobilevitv2_050"),
    Family("FastViT", "fastvit_t8"),
    Family("RepViT", "repvit_m0_9"),
    Family("MobileNet v3", "mobilenetv3_small_050", quick=True),
    Family("MobileNet v4", "mobilenetv4_conv_small"),
    Family("EfficientNet", "efficientnet_b0"),
    Family("GhostNet", "ghostnet_050"),
    Family("RegNet", "regnety_002", quick=True),
    Family("ResNet, basic blocks", "resnet18"),
    Family("ResNet, bottlenecks", "resnet50", {"layers": (1, 1, 1, 1)}),
    Family("ResNet v2 (BiT)", "resnetv2_50x1_bit"),
    Family("NFNet", "nfnet_l0"),
    Family("DenseNet", "densenet121", {"block_config": (2, 2, 2, 2)}),
)


@dataclass(frozen=True)
class Row:
    """Result for a family.

    Attributes:
        family: Name of the family.
        model: Checked model.
        n_params: Parameters without the classifier.
        n_linear: Adaptable ``nn.Linear`` layers.
        n_pointwise: Adaptable 1 x 1 convolutions.
        n_weight_only: Adaptable layers with only A and B.
        fraction: Parameters of the adaptable layers as a fraction of all.
        others: Number of other layers per reason.
        error: Largest difference between merged and unmerged logits, relative to the largest logit.
    """

    family: str
    model: str
    n_params: int
    n_linear: int
    n_pointwise: int
    n_weight_only: int
    fraction: float
    others: dict[str, int]
    error: float


def check_family(family: Family, *, cut: bool = False, n_architectures: int = 2) -> Row:
    """Check and count a model of the family.

    Args:
        family: The family.
        cut: Whether to make the model smaller.
        n_architectures: Number of random architectures.

    Raises:
        AssertionError: If a check fails.
    """
    with seeded(0):
        model = timm.create_model(
            family.model, num_classes=CLASSES, **(family.cut if cut else {})
        ).eval()
        _fill_zeros(model)
        size = family.size if cut and family.size else model.pretrained_cfg["input_size"][1]
        images = torch.randn(1, 3, size, size)
    head = {id(p) for module in classifiers(model) for p in module.parameters()}
    n_params = sum(p.numel() for p in model.parameters() if id(p) not in head)
    reasons = {n: r for n, r in unadaptable(model, images).items() if "classifier" not in r}
    others = dict(collections.Counter(_kind(reason) for reason in reasons.values()).most_common())
    try:
        shapes = linear_shapes(model, example=images)
    except LayerError:
        return Row(family.name, family.model, n_params, 0, 0, 0, 0.0, others, 0.0)
    modules = dict(model.named_modules())
    n_pointwise = sum(isinstance(modules[name], nn.Conv2d) for name in shapes)
    covered = {id(p): p.numel() for name in shapes for p in modules[name].parameters()}
    return Row(
        family.name,
        family.model,
        n_params,
        len(shapes) - n_pointwise,
        n_pointwise,
        sum(not shape.takes_bias for shape in shapes.values()),
        sum(covered.values()) / n_params,
        others,
        _check(model, images, SearchSpace(load_search_space("default"), shapes), n_architectures),
    )


@torch.no_grad()
def _fill_zeros(model: nn.Module) -> None:
    """Add noise to zero parameters, which would hide whole blocks from the checks."""
    for parameter in model.parameters():
        if float(parameter.abs().max()) < 1e-3:
            parameter.add_(0.1 * torch.randn_like(parameter))


def _kind(reason: str) -> str:
    """Return a reason in the words of the table."""
    reason = re.sub(r"a convolution over (\d+) x (\d+) pixels", r"\1×\2 convolution", reason)
    reason = reason.removeprefix("a ").replace("1 x 1", "1×1").partition(",")[0]
    return reason.replace("of class ", "").replace(" by the model", "")


@torch.no_grad()
def _check(
    model: nn.Module, images: torch.Tensor, space: SearchSpace, n_architectures: int
) -> float:
    # As in a supernet: torch uses other kernels with gradients.
    model.requires_grad_(False)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    plain = model(images)
    budget = int(BUDGET * sum(p.numel() for p in model.parameters()))
    region = FeasibleRegion(space, budget)
    supernet = Supernet(model, space.layer_choices())
    for layer in supernet.layers.values():
        for parameter in layer.parameters(recurse=False):
            parameter.add_(0.02 * torch.randn_like(parameter))
    rng, error = np.random.default_rng(0), 0.0
    for _ in range(n_architectures):
        architecture = space.architecture(region.draw(rng))
        supernet.activate(architecture)
        active = [
            p for layer in supernet.layers.values() for p in layer.active_parameters().values()
        ]
        count = sum(p.numel() for p in active)
        assert count == architecture.count(space.shapes) <= budget, (
            "the parameters differ from the count"
        )
        unmerged = model(images)
        assert bool(torch.isfinite(unmerged).all()), "the logits are not finite"
        with merge(model):
            assert not adapted_layers(model), "a layer is not merged"
            difference = (model(images) - unmerged).abs().max() / unmerged.abs().max()
        error = max(error, float(difference))
        assert error < 1e-4, f"merged logits differ by {error}"
        assert not torch.equal(unmerged, plain), "the adapters do nothing"
    detach(model)
    after = model.state_dict()
    assert list(after) == list(before), "detaching changed the names"
    assert all(torch.equal(after[name], t) for name, t in before.items()), (
        "detaching changed the weights"
    )
    assert torch.equal(model(images), plain), "detaching changed the logits"
    return error


def cells(row: Row) -> list[str]:
    """Return a row of the table, for the terminal and the documentation."""
    layers = [f"{row.n_linear} linear"] if row.n_linear else []
    layers += [f"{row.n_pointwise} 1×1"] if row.n_pointwise else []
    weight_only = f"; only A, B in {row.n_weight_only}" if row.n_weight_only else ""
    return [
        row.family,
        row.model,
        f"{row.n_params / 1e6:.1f}",
        (", ".join(layers) or "none") + weight_only,
        f"{100 * row.fraction:.0f}",
        ", ".join(_counted(kind, count) for kind, count in row.others.items()) or "–",
    ]


def _counted(kind: str, count: int) -> str:
    return f"{count} {kind if count == 1 else kind.replace('convolution', 'convolutions')}"


HEADER = ["family", "model", "M parameters", "adapted", "% of parameters", "not adapted"]


def markdown(rows: list[Row]) -> str:
    """Return the table of the documentation."""
    lines = [HEADER, ["---", "---", "---:", "---", "---:", "---"], *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_docs(path: Path, rows: list[Row]) -> None:
    """Replace the table between its marks."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    text = f"{before}{MARKS[0]}\n{markdown(rows)}\n{MARKS[1]}{after}"
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    parser.add_argument("--docs", type=Path, help="Markdown file whose table is replaced")
    parser.add_argument(
        "--small", action="store_true", help="run in seconds, with the smallest models"
    )
    arguments = parser.parse_args()
    if arguments.small and arguments.docs:
        parser.error("--docs needs all families; leave out --small.")
    rows = []
    for family in FAMILIES:
        if family.quick or not arguments.small:
            begin = time.monotonic()
            rows.append(check_family(family))
            seconds = time.monotonic() - begin
            print(f"{family.name}: {seconds:.1f} s", file=sys.stderr, flush=True)
    table = Table(*HEADER, title="Adaptable layers; all checks passed")
    for row in rows:
        table.add_row(*cells(row))
    Console(width=150).print(table)
    if arguments.docs is not None:
        write_docs(arguments.docs, rows)
    if arguments.out is not None:
        document = {
            "benchmark": "backbones",
            "command": command_line(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "rows": [asdict(row) for row in rows],
        }
        write_document(arguments.out, document)


if __name__ == "__main__":
    main()
