import pytest
import torch
from torch import nn

from glora_automl.supernet._stem import split_stem
from tests import models


def stem_of(supernet):
    merged = supernet.merged_model()
    merged.write()
    return split_stem(merged.model, models.images()[:1], merged.changing)


def test_split_stem_gives_a_stem_that_no_adapter_changes(case):
    supernet, shapes, images, _ = case
    split = stem_of(supernet)
    assert split is not None
    stem_parameters = {id(p) for p in split.stem.parameters()}
    assert stem_parameters
    assert not stem_parameters & supernet.merged_model().changing
    supernet.activate(models.random_architecture(shapes, 1))
    plain = supernet.merged_model().write()
    with torch.no_grad():
        assert torch.equal(split.rest(split.stem(images)), plain(images))


class ReadsImagesTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x).mean((2, 3)) + x.mean((1, 2, 3))[:, None])


class TwoStems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.first(x) + self.second(x)).mean((2, 3))


@pytest.mark.parametrize("kind", [ReadsImagesTwice, TwoStems])
def test_split_stem_without_a_single_first_module_returns_none(kind):
    assert split_stem(kind(), torch.randn(1, 3, 4, 4)) is None


def test_split_stem_with_an_adapted_stem_returns_none():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    changing = {id(p) for p in model[0].parameters()}
    assert split_stem(model, torch.randn(1, 3, 2, 2), changing) is None
    assert split_stem(model, torch.randn(1, 3, 2, 2)) is not None
