"""The tasks of VTAB-1k."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["VTAB"]


class VtabTask(NamedTuple):
    """Task of the benchmark.

    Attributes:
        group: ``natural``, ``specialized`` or ``structured``; accuracies are averaged within groups
            first.
        n_classes: Number of classes.
    """

    group: Literal["natural", "specialized", "structured"]
    n_classes: int


VTAB = {
    "cifar": VtabTask("natural", 100),
    "caltech101": VtabTask("natural", 102),
    "dtd": VtabTask("natural", 47),
    "oxford_flowers102": VtabTask("natural", 102),
    "oxford_iiit_pet": VtabTask("natural", 37),
    "svhn": VtabTask("natural", 10),
    "sun397": VtabTask("natural", 397),
    "patch_camelyon": VtabTask("specialized", 2),
    "eurosat": VtabTask("specialized", 10),
    "resisc45": VtabTask("specialized", 45),
    "diabetic_retinopathy": VtabTask("specialized", 5),
    "clevr_count": VtabTask("structured", 8),
    "clevr_dist": VtabTask("structured", 6),
    "dmlab": VtabTask("structured", 6),
    "kitti": VtabTask("structured", 4),
    "dsprites_loc": VtabTask("structured", 16),
    "dsprites_ori": VtabTask("structured", 16),
    "smallnorb_azi": VtabTask("structured", 18),
    "smallnorb_ele": VtabTask("structured", 9),
}
"""The 19 tasks, named as in the folders of NOAH, FacT and SSF."""
