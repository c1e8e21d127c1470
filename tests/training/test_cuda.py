"""Training and evaluation on a GPU; skipped without one."""

import pytest
import timm
import torch

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.supernet import Supernet
from glora_automl.training import TrainingSettings, evaluate, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def supernet():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=4
    ).cuda()
    space = SearchSpace(load_search_space("default"), linear_shapes(model))
    return Supernet(model, space.layer_choices()), space


def test_train_on_cuda_lowers_the_loss_and_merged_scores_equal_unmerged(supernet):
    supernet, space = supernet
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(64, 3, 32, 32, device="cuda", generator=generator)
    y = torch.arange(64, device="cuda") % 4
    architecture = Architecture.uniform(space.shapes, A="scalar", B="lora-4", E="vector")
    supernet.activate(architecture)
    result = train(
        supernet.model,
        supernet.trainable(),
        x,
        y,
        TrainingSettings(epochs=20, lr=1e-2, batch_size=32),
        seed=0,
        stage="test",
    )
    assert result.losses[-1] < result.losses[0] / 2
    unmerged = evaluate(supernet.model, x, y)
    with supernet.merged(architecture) as model:
        merged = evaluate(model, x, y)
    assert merged.loss == pytest.approx(unmerged.loss, rel=1e-2)
    assert all(parameter.is_cuda for parameter in supernet.trainable().values())
