import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture, Choice
from glora_automl.errors import DivergenceError, TrainingError
from glora_automl.supernet import Supernet
from glora_automl.training import (
    PRETRAINING,
    TrainingSettings,
    evaluate,
    load_checkpoint,
    stage_rng,
    train,
)
from tests.training.runs import (
    KINDS,
    Conv,
    Interrupted,
    Run,
    StopAfter,
    data,
    interrupt_after,
    seeded,
    vit,
)


def test_train_changes_the_weights_and_uses_noise(uninterrupted):
    assert uninterrupted["conv"][1] != Run("conv").digest()
    assert uninterrupted["paths"][1] != Run("paths").digest()
    assert uninterrupted["paths"][0] != uninterrupted["drop-path"][0]


def test_train_with_a_stop_keeps_no_checkpoint_of_nan_weights(tmp_path):
    path = tmp_path / "supernet.json"
    broken = Run("conv")
    with pytest.raises(TrainingError, match="epoch 4"):
        broken.fit(path, before_step=poison_in_epoch(broken, 3, "head.bias"), stop=StopAfter(10))
    assert len(load_checkpoint(path)[1]["losses"]) == 2


def test_train_draws_paths_and_order_from_seed_stage_and_epoch():
    """Published figures depend on these numbers."""
    order, paths = [], []
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))
    model[0].register_forward_pre_hook(
        lambda _, args: order.extend(args[0].flatten().int().tolist())
    )
    train(model, dict(model.named_parameters()), torch.arange(20.0).view(20, 1, 1, 1),
          torch.zeros(20, dtype=torch.int64), TrainingSettings(epochs=2, batch_size=8), seed=3,
          stage="a", before_step=lambda rng: paths.append(rng.integers(2**32)))  # fmt: skip
    epochs = range(2)
    assert order == [i for e in epochs for i in stage_rng(3, "a", e, 0).permutation(20)]
    assert paths == [i for e in epochs for i in stage_rng(3, "a", e, 1).integers(2**32, size=3)]


@pytest.mark.parametrize("kind", KINDS)
def test_train_neither_reads_nor_changes_global_generators(uninterrupted, kind):
    with torch.random.fork_rng():
        torch.manual_seed(99)
        np.random.seed(99)  # noqa: NPY002
        random.seed(99)
        run = Run(kind)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        with pytest.raises(Interrupted):
            Run(kind).fit(on_epoch=interrupt_after(2))
        run.fit()
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
        assert random.getstate() == before[2]
    assert run.digest() == uninterrupted[kind][1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", [{"seed": 1}, {"stage": "fine-tuning"}], ids=str)
def test_train_with_another_seed_or_stage_gives_other_weights(uninterrupted, kind, other):
    run = Run(kind)
    run.fit(**other)
    assert run.digest() != uninterrupted[kind][1]


def poison_in_epoch(run, epoch, name):
    """Return a ``before_step`` that sets one weight to NaN in an epoch."""
    n_steps = 0

    def before_step(rng):
        nonlocal n_steps
        if run.before_step is not None:
            run.before_step(rng)
        if n_steps // 3 == epoch:
            with torch.no_grad():
                run.parameters[name].view(-1)[0] = math.nan
        n_steps += 1

    return before_step


def test_train_with_a_nan_loss_raises_and_keeps_the_checkpoint(tmp_path, uninterrupted):
    path = tmp_path / "supernet.json"
    broken = Run("conv")
    with pytest.raises(TrainingError, match=r"'supernet'.*finite.*nan.*epoch 4\. Lower") as caught:
        broken.fit(path, before_step=poison_in_epoch(broken, 3, "head.bias"))
    assert "\n" not in str(caught.value)
    assert len(load_checkpoint(path)[1]["losses"]) == 2
    run = Run("conv")
    run.fit(path)
    assert run.digest() == uninterrupted["conv"][1]


def test_train_with_infinite_weights_and_a_finite_loss_raises(tmp_path):
    model = seeded(Conv)
    unused = nn.Parameter(torch.tensor([math.inf]))
    parameters = {**dict(model.named_parameters()), "unused": unused}
    path = tmp_path / "x.json"
    with pytest.raises(TrainingError, match="and 1 non-finite tensors in epoch 1"):
        train(model, parameters, *data(), TrainingSettings(epochs=1), seed=0, stage="a",
              checkpoint=path)  # fmt: skip
    assert not path.exists()


def enlarge_in_epoch(run, epoch):
    """Return a ``before_step`` that makes the head's weights large in an epoch."""
    n_steps = 0

    def before_step(rng):
        nonlocal n_steps
        if n_steps // 3 == epoch:
            with torch.no_grad():
                run.parameters["head.weight"].mul_(-1000)
        n_steps += 1

    return before_step


def test_train_collapse_raises_with_its_cost():
    whole = Run("conv")
    whole.fit(before_step=enlarge_in_epoch(whole, 3))
    run = Run("conv")
    with pytest.raises(
        DivergenceError, match=r"'supernet' must not rise above.* epoch 4\."
    ) as found:
        run.fit(before_step=enlarge_in_epoch(run, 3), check_collapse=True)
    assert found.value.n_images == 4 * len(data()[1])
    assert found.value.seconds > 0


@pytest.mark.parametrize(
    ("stage", "key"), [("supernet", "training"), (PRETRAINING, "backbone.pretraining")]
)
def test_train_error_names_the_keys_of_its_settings(stage, key):
    model = Run("conv").model
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    with pytest.raises(DivergenceError) as found:
        train(model, dict(model.named_parameters()), *data(), TrainingSettings(epochs=1), seed=0,
              stage=stage)  # fmt: skip
    assert f"`{key}.lr`" in str(found.value)
    assert f"`{key}.warmup_epochs`" in str(found.value)


def test_train_slow_start_is_no_collapse():
    """The loss is above that of equal probabilities, but falls."""
    run = Run("conv")
    run.settings |= {"lr": 1e-6, "batch_size": 20}
    run.model.drop.p = 0.0
    with torch.no_grad():
        run.parameters["head.weight"].mul_(-100)
    losses = run.fit(check_collapse=True).losses
    assert min(losses) > 1.05 * math.log(int(data()[1].max()) + 1)


def test_train_noise_of_a_training_that_hardly_moves_is_no_collapse():
    run = Run("conv")
    run.settings |= {"lr": 1e-9, "warmup_epochs": 9, "mixup": 1.0}
    with torch.no_grad():
        run.parameters["head.weight"].mul_(-3)
    losses = run.fit(epochs=30, check_collapse=True).losses
    assert min(losses) > 1.05 * math.log(int(data()[1].max()) + 1)
    assert max(losses[10:]) > 1.05 * min(losses[:10])


@pytest.mark.parametrize("kind", KINDS)
def test_train_for_no_epochs_changes_nothing(tmp_path, kind):
    run = Run(kind)
    before = run.digest()
    reported = []
    for _ in range(2):
        result = run.fit(tmp_path / "x.json", epochs=0, on_epoch=lambda *a: reported.append(a))
        assert (result.losses, result.n_images) == ([], 0)
    assert run.digest() == before
    assert reported == []
    assert not run.model.training


def test_train_keeps_the_bits_of_frozen_parameters():
    run = Run("drop-path")
    frozen = {n: p.clone() for n, p in run.model.named_parameters() if not p.requires_grad}
    run.fit()
    parameters = dict(run.model.named_parameters())
    assert len(frozen) > 20
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())


def test_train_updates_and_decays_only_weights_on_a_path():
    model = vit()
    shapes = linear_shapes(model)
    choices = {
        name: {"B": [Choice.parse("lora-2"), Choice.parse("lora-4")], "A": [Choice.parse("lora-2")]}
        for name in shapes
    }
    supernet = Supernet(model, choices)
    architecture = Architecture.uniform(shapes, B="lora-2")
    before = supernet.state_dict()
    train(model, supernet.trainable(), *data(),
          TrainingSettings(epochs=3, lr=1e-2, weight_decay=0.5, batch_size=8),
          seed=0, stage="a", before_step=lambda rng: supernet.activate(architecture))  # fmt: skip
    after = supernet.state_dict()
    updated = {name for name in before if not torch.equal(before[name], after[name])}
    on_path = {n for n in before if ".B_" in n} | {"head.weight", "head.bias"}
    assert updated == on_path


def test_train_clips_the_gradient_unless_clip_grad_is_zero(steps):
    for clip in (0.01, 0.0):
        model = seeded(Conv)
        settings = TrainingSettings(epochs=2, lr=1e-3, clip_grad=clip)
        train(model, dict(model.named_parameters()), *data(), settings, seed=0, stage="a")
    clipped, unclipped = steps[:2], steps[2:]
    assert all(norm == pytest.approx(0.01, rel=1e-3) for _, norm in clipped)
    assert all(norm > 0.02 for _, norm in unclipped)


def test_train_reads_each_image_once_per_epoch_in_a_new_order():
    read = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))
    model[0].register_forward_pre_hook(lambda _, args: read.append(args[0].flatten().tolist()))
    images = torch.arange(20.0).view(20, 1, 1, 1)
    train(model, dict(model.named_parameters()), images, torch.zeros(20, dtype=torch.int64),
          TrainingSettings(epochs=3, batch_size=8), seed=0, stage="a")  # fmt: skip
    assert [len(batch) for batch in read] == [8, 8, 4] * 3
    epochs = [list(itertools.chain(*read[i : i + 3])) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_train_returns_the_mean_loss_over_the_images():
    model = vit()
    images, labels = data()
    before = evaluate(model, images, labels).loss
    settings = TrainingSettings(epochs=1, batch_size=8, lr=1e-12)
    result = train(
        model, dict(model.named_parameters()), images, labels, settings, seed=0, stage="a"
    )
    assert result.losses == [pytest.approx(before, rel=1e-4)]
    assert result.seconds > 0


def test_train_fits_the_images():
    model = vit()
    supernet = Supernet(model, {n: {"B": [Choice.parse("lora-4")]} for n in linear_shapes(model)})
    supernet.activate(Architecture.uniform(linear_shapes(vit()), B="lora-4"))
    settings = TrainingSettings(epochs=40, batch_size=8, lr=1e-2)
    result = train(model, supernet.trainable(), *data(), settings, seed=0, stage="a")
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert evaluate(model, *data()).accuracy > 0.8
