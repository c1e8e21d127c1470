import math

import pytest
import torch

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture
from glora_automl.supernet import Supernet
from glora_automl.training import TrainingSettings, train
from tests.training.runs import Conv, Interrupted, Run, data, interrupt_after, seeded, vit


def test_train_with_scaling_lr_ratio_scales_the_updates_of_scaling_parameters():
    updates = {}
    choices = {"A": "vector", "B": "lora-2", "D": "scalar", "E": "vector"}
    for ratio in (1.0, 3.0):
        model = vit()
        architecture = Architecture.uniform(linear_shapes(model), **choices)
        choices_of = {n: {t: [c] for t, c in c._asdict().items()} for n, c in architecture.items()}
        supernet = Supernet(model, choices_of)
        supernet.activate(architecture)
        before = supernet.state_dict()
        settings = TrainingSettings(
            epochs=1, batch_size=20, lr=1e-3, weight_decay=0, scaling_lr_ratio=ratio
        )
        train(model, supernet.trainable(), *data(), settings, seed=0, stage="standalone")
        updates[ratio] = {n: value - before[n] for n, value in supernet.state_dict().items()}
    for name, update in updates[1.0].items():
        scaling = name.endswith(("A_vector", "D_scalar"))
        torch.testing.assert_close(updates[3.0][name], (3 if scaling else 1) * update)
    kinds = {name.rpartition(".")[2]: update.abs().max() for name, update in updates[1.0].items()}
    assert set(kinds) == {"A_vector", "B_left", "B_right", "D_scalar", "E_vector", "weight", "bias"}
    # AdamW's first step; B_right has no gradient yet, as B_left is zero.
    assert kinds["A_vector"] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("warmup", [0, 2, 6])
def test_train_warms_up_and_follows_a_cosine(steps, warmup):
    model = seeded(Conv)
    settings = TrainingSettings(epochs=6, batch_size=8, lr=0.03, warmup_epochs=warmup)
    train(model, dict(model.named_parameters()), *data(), settings, seed=0, stage="a")
    n_steps, n_warmup = 6 * 3, warmup * 3
    n_cosine = max(n_steps - n_warmup, 1)
    expected = [
        0.03 * (step + 1) / (n_warmup + 1)
        if step < n_warmup
        else 0.015 * (1 + math.cos(math.pi * (step - n_warmup) / n_cosine))
        for step in range(n_steps)
    ]
    assert max(expected) == 0.03 or warmup == 6
    assert [lr for lr, _ in steps] == pytest.approx(expected)


def test_train_of_one_step_has_the_peak_without_a_warning(steps, caplog):
    model = seeded(Conv)
    settings = TrainingSettings(epochs=1, batch_size=1000, lr=0.03)
    train(model, dict(model.named_parameters()), *data(), settings, seed=0, stage="a")
    assert [lr for lr, _ in steps] == [0.03]
    assert not caplog.records


def test_train_after_a_resume_continues_the_learning_rate(steps, tmp_path):
    Run("conv").fit()
    uninterrupted = [lr for lr, _ in steps]
    steps.clear()
    with pytest.raises(Interrupted):
        Run("conv").fit(tmp_path / "x.json", on_epoch=interrupt_after(3))
    Run("conv").fit(tmp_path / "x.json")
    assert [lr for lr, _ in steps] == uninterrupted[:9] + uninterrupted[6:]
