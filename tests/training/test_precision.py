from contextlib import nullcontext

import pytest
import torch
from torch import nn

from glora_automl.errors import CheckpointError
from glora_automl.training import TrainingSettings, load_checkpoint, resolve_precision, train
from tests.training.runs import Interrupted, Run, data, interrupt_after


class Precise(Run):
    """A training of the supernet in a precision."""

    def __init__(self, precision):
        super().__init__("paths")
        self.settings |= {"precision": precision}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_train_in_16_bits_learns_almost_as_in_float32(precision):
    exact, half = Precise("fp32"), Precise(precision)
    losses, rounded = exact.fit(epochs=8).losses, half.fit(epochs=8).losses
    assert rounded != losses
    assert rounded == pytest.approx(losses, rel=0.05)
    assert all(p.dtype is torch.float32 for p in half.parameters.values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_resumed_training_in_16_bits_ends_as_an_uninterrupted_one(tmp_path, precision):
    whole = Precise(precision)
    losses = whole.fit().losses
    path = tmp_path / "training.json"
    with pytest.raises(Interrupted):
        Precise(precision).fit(path, on_epoch=interrupt_after(3))
    resumed = Precise(precision)
    assert resumed.fit(path).losses == losses
    assert resumed.digest() == whole.digest()


class Steep(nn.Module):
    """A classifier whose first gradients overflow float16 at the initial scale of the loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        return self.linear(x.flatten(1) * 64)


def fit_steep(path, **options):
    model = Steep()
    settings = TrainingSettings(
        epochs=4, batch_size=8, lr=1e-3, precision="fp16", checkpoint_every=1
    )
    train(
        model, dict(model.named_parameters()), *data(), settings,
        seed=0, stage="s", checkpoint=path, **options,
    )  # fmt: skip
    return model.linear.weight.detach()


def test_training_in_float16_keeps_the_scale_of_its_loss_over_a_resume(tmp_path):
    whole = fit_steep(tmp_path / "whole.json")
    assert load_checkpoint(tmp_path / "whole.json")[0]["scaler.scale"] < 65536
    path = tmp_path / "resumed.json"
    with pytest.raises(Interrupted):
        fit_steep(path, on_epoch=interrupt_after(1))
    assert torch.equal(fit_steep(path), whole)
    assert torch.isfinite(whole).all()


def test_training_with_another_precision_is_another_training(tmp_path):

    Precise("fp32").fit(tmp_path / "x.json", epochs=1)
    with pytest.raises(CheckpointError, match=r"other settings \(precision\)"):
        Precise("bf16").fit(tmp_path / "x.json", epochs=1)


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_resolve_precision_auto_on_cuda_follows_the_gpu(monkeypatch, native, expected):
    asked = []

    def supported(including_emulation):
        asked.append(including_emulation)
        return native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    assert resolve_precision("auto", torch.device("cuda", 0)) == expected
    assert asked == [False]
    assert resolve_precision("fp32", torch.device("cuda")) == "fp32"


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", "fp32"), ("mps", "fp32"), ("xpu", "bf16")]
)
def test_resolve_precision_auto_of_other_devices(device, expected):
    assert resolve_precision("auto", torch.device(device)) == expected
