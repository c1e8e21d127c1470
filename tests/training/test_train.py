import copy
import itertools
import math
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from glora_automl.adapters import linear_shapes
from glora_automl.architecture import Architecture, Choice
from glora_automl.budget import FeasibleRegion
from glora_automl.errors import CheckpointError, Stopped, TrainingError
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.supernet import Supernet
from glora_automl.training import (
    TrainingSettings,
    evaluate,
    load_checkpoint,
    save_checkpoint,
    stage_rng,
    tensor_digest,
    train,
)
from tests import models
from tests.processes import start


def data(count=20):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 3, (count,), generator=generator)


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def vit(drop_path_rate=0.0, proj_drop_rate=0.0):
    # Two blocks: timm lets no path of the first one drop.
    return seeded(
        lambda: timm.create_model(
            "vit_tiny_patch16_224",
            num_classes=3,
            img_size=8,
            patch_size=4,
            embed_dim=16,
            depth=2,
            num_heads=2,
            in_chans=1,
            drop_path_rate=drop_path_rate,
            proj_drop_rate=proj_drop_rate,
        )
    )


class Conv(nn.Module):
    """A small network with batch norms."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(4, 3)

    def get_classifier(self):
        return self.head

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


class Run:
    """One training of one kind, built anew: what a process that is started again does."""

    def __init__(self, kind):
        self.before_step = None
        self.settings = {"shift": 0.2, "hflip": True} if kind == "drop-path" else {}
        if kind == "conv":
            self.model = seeded(Conv)
            self.parameters = dict(self.model.named_parameters())
            return
        self.model = vit(drop_path_rate=0.4 if kind == "drop-path" else 0.0)
        space = SearchSpace(load_search_space("default"), linear_shapes(self.model))
        supernet = Supernet(self.model, space.layer_choices())
        self.parameters = supernet.trainable()
        if kind == "paths":
            self.settings["scaling_lr_ratio"] = 3.0
        region = FeasibleRegion(space, space.maximum // 3)
        self.before_step = lambda rng: supernet.activate(space.architecture(region.draw(rng)))

    def fit(
        self, checkpoint=None, *, epochs=5, every=2, seed=0, stage="supernet", count=20, **options
    ):
        options.setdefault("before_step", self.before_step)
        settings = TrainingSettings(
            epochs=epochs,
            batch_size=8,
            lr=1e-2,
            warmup_epochs=1,
            checkpoint_every=every,
            **self.settings,
        )
        return train(
            self.model,
            self.parameters,
            *data(count),
            settings,
            seed=seed,
            stage=stage,
            checkpoint=checkpoint,
            **options,
        )

    def digest(self):
        """All of the model: frozen weights and statistics, too."""
        return tensor_digest(self.model.state_dict())


class Interrupted(Exception):
    """Stands for a kill."""


def interrupt_after(epochs):
    def on_epoch(done, loss):
        if done == epochs:
            raise Interrupted

    return on_epoch


KINDS = ("paths", "drop-path", "conv")


@pytest.fixture(scope="module")
def uninterrupted():
    """Digest and losses of five epochs of each kind that nothing disturbed."""
    found = {}
    for kind in KINDS:
        run = Run(kind)
        found[kind] = run.fit().losses, run.digest()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", [[3], [1], [3, 4], [5]], ids=str)
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, uninterrupted, kind, stops):
    path = tmp_path / "run" / "supernet.json"
    for stop in stops:
        with pytest.raises(Interrupted):
            Run(kind).fit(path, on_epoch=interrupt_after(stop))
    last = max(stops) // 2 * 2 if max(stops) < 5 else 5
    reported = []
    run = Run(kind)
    result = run.fit(path, on_epoch=lambda done, loss: reported.append((done, loss)))
    losses, digest = uninterrupted[kind]
    assert result.losses == losses
    assert run.digest() == digest
    assert result.n_images == 5 * 20
    # First what was done before, then each epoch that is left.
    assert reported == [(i + 1, losses[i]) for i in range(max(last - 1, 0), 5)]


def test_the_weights_are_not_the_initial_ones_and_noise_plays_a_part(uninterrupted):
    assert uninterrupted["conv"][1] != Run("conv").digest()
    assert uninterrupted["paths"][1] != Run("paths").digest()
    assert uninterrupted["paths"][0] != uninterrupted["drop-path"][0]


def test_factors_of_frozen_weights_have_a_learning_rate_of_their_own():
    moved = {}
    choices = {"A": "vector", "B": "lora-2", "D": "scalar", "E": "vector"}
    for ratio in (1.0, 3.0):
        model = vit()
        architecture = Architecture.uniform(linear_shapes(model), **choices)
        only = {n: {t: [c] for t, c in c._asdict().items()} for n, c in architecture.items()}
        supernet = Supernet(model, only)
        supernet.activate(architecture)
        before = supernet.state_dict()
        settings = TrainingSettings(
            epochs=1, batch_size=20, lr=1e-3, weight_decay=0, scaling_lr_ratio=ratio
        )
        train(model, supernet.trainable(), *data(), settings, seed=0, stage="standalone")
        moved[ratio] = {n: value - before[n] for n, value in supernet.state_dict().items()}
    for name, step in moved[1.0].items():
        scaling = name.endswith(("A_vector", "D_scalar"))
        torch.testing.assert_close(moved[3.0][name], (3 if scaling else 1) * step)
    kinds = {name.rpartition(".")[2]: step.abs().max() for name, step in moved[1.0].items()}
    assert set(kinds) == {"A_vector", "B_left", "B_right", "D_scalar", "E_vector", "weight", "bias"}
    # AdamW's first step; B_right has no gradient yet, as B_left is zero.
    assert kinds["A_vector"] == pytest.approx(1e-3, rel=1e-3)


class StopAfter:
    """A stop that comes after some steps of a process; it is asked once before the first."""

    def __init__(self, steps):
        self.steps = steps
        self.asked = 0

    def __call__(self):
        self.asked += 1
        return self.asked > self.steps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "stops",
    [[0], [1], [2], [3], [4, 1, 0, 2], [6, 3, 5], [14], [15], [1] * 15],
    ids=str,
)
def test_a_stopped_training_ends_with_the_same_bits(tmp_path, uninterrupted, kind, stops):
    losses, digest = uninterrupted[kind]
    path = tmp_path / "run" / "supernet.json"
    written, reported, done = [], [], 0
    for steps in stops:
        stop, before = StopAfter(steps), len(written)
        done += steps
        with pytest.raises(Stopped, match=f"'supernet' stopped after {done // 3} epochs and "
                           f"{done % 3} of 3 steps; start it again"):  # fmt: skip
            Run(kind).fit(path, stop=stop, on_checkpoint=written.append,
                          on_epoch=lambda *epoch: reported.append(epoch))  # fmt: skip
        assert stop.asked == steps + 1
        assert written[before:] == [path] * len(written[before:])
        assert len(written) > before
        state = load_checkpoint(path)[1]
        assert state["losses"] == losses[: done // 3]
        assert state.get("step", 0) == done % 3
    run = Run(kind)
    result = run.fit(path, on_epoch=lambda *epoch: reported.append(epoch))
    assert (result.losses, result.n_images) == (losses, 5 * 20)
    assert run.digest() == digest
    # Each epoch once as it ends; again only as what was done before a start.
    assert sorted(set(reported)) == [(i + 1, losses[i]) for i in range(5)]
    assert len(reported) <= 5 + len(stops)


def test_a_stop_needs_no_checkpoint():
    with pytest.raises(Stopped, match="after 1 epochs and 1 of 3 steps"):
        Run("paths").fit(stop=StopAfter(4))


def test_a_finished_training_has_nothing_to_stop(tmp_path, uninterrupted):
    path = tmp_path / "supernet.json"
    Run("paths").fit(path)
    assert Run("paths").fit(path, stop=lambda: True).losses == uninterrupted["paths"][0]
    assert Run("paths").fit(epochs=0, stop=lambda: True).losses == []


def test_checkpoints_are_told_of_as_they_are_written(tmp_path):
    path = tmp_path / "supernet.json"
    told = []
    Run("paths").fit(
        path, on_checkpoint=lambda p: told.append(len(load_checkpoint(p)[1]["losses"]))
    )
    assert told == [2, 4, 5]


def test_between_epochs_a_checkpoint_is_as_it_was_before_trainings_could_stop_within(tmp_path):
    path = tmp_path / "supernet.json"
    with pytest.raises(Stopped):
        Run("paths").fit(path, stop=StopAfter(3))
    keys = {"seed", "stage", "settings", "identity", "losses", "seconds"}
    assert set(load_checkpoint(path)[1]) == keys
    with pytest.raises(Stopped):
        Run("paths").fit(path, stop=StopAfter(1))
    assert set(load_checkpoint(path)[1]) == keys | {"step", "loss_sum"}


@pytest.mark.parametrize(
    "wrong",
    [{"step": 3}, {"step": -1}, {"step": "1"}, {"step": True}, {"loss_sum": None},
     {"loss_sum": math.nan}, {"losses": None}, {"seconds": None}],
    ids=str,
)  # fmt: skip
def test_a_position_that_cannot_be_is_refused(tmp_path, wrong):
    path = tmp_path / "supernet.json"
    with pytest.raises(Stopped):
        Run("paths").fit(path, stop=StopAfter(4))
    tensors, state = load_checkpoint(path)
    save_checkpoint(path, tensors, {**state, **wrong})
    with pytest.raises(CheckpointError, match=r"position differ; delete it to train anew"):
        Run("paths").fit(path)


def test_a_stop_does_not_keep_weights_that_are_no_numbers(tmp_path):
    path = tmp_path / "supernet.json"
    broken = Run("conv")
    with pytest.raises(TrainingError, match="epoch 4"):
        broken.fit(path, before_step=poison_in_epoch(broken, 3, "head.bias"), stop=StopAfter(10))
    assert len(load_checkpoint(path)[1]["losses"]) == 2


def test_what_stop_raises_comes_through():
    with pytest.raises(ZeroDivisionError):
        Run("paths").fit(stop=lambda: 1 / 0)


def test_paths_and_images_come_from_seed_stage_and_epoch():
    """Published figures depend on these numbers."""
    seen, drawn = [], []
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))
    model[0].register_forward_pre_hook(
        lambda _, args: seen.extend(args[0].flatten().int().tolist())
    )
    train(model, dict(model.named_parameters()), torch.arange(20.0).view(20, 1, 1, 1),
          torch.zeros(20, dtype=torch.int64), TrainingSettings(epochs=2, batch_size=8), seed=3,
          stage="a", before_step=lambda rng: drawn.append(rng.integers(2**32)))  # fmt: skip
    epochs = range(2)
    assert seen == [i for e in epochs for i in stage_rng(3, "a", e, 0).permutation(20)]
    assert drawn == [i for e in epochs for i in stage_rng(3, "a", e, 1).integers(2**32, size=3)]


def train_slowly(path):
    """What the process that is killed runs; it tells each epoch that is done."""

    def on_epoch(done, loss):
        print(done, flush=True)
        time.sleep(0.02)

    torch.set_num_threads(1)
    Run("drop-path").fit(Path(path), epochs=15, every=1, on_epoch=on_epoch)


def test_a_killed_process_loses_nothing(tmp_path):
    path = tmp_path / "supernet.json"
    process = start(train_slowly, str(path), folder=tmp_path)
    process.wait_until(lambda: "3\n" in process.out)
    process.kill()
    assert process.code == -signal.SIGKILL
    done = len(load_checkpoint(path)[1]["losses"])
    assert 3 <= done < 15
    epochs = []
    again, whole = Run("drop-path"), Run("drop-path")
    result = again.fit(path, epochs=15, every=1, on_epoch=lambda done, _: epochs.append(done))
    assert epochs == list(range(done, 16))
    assert result.losses == whole.fit(epochs=15).losses
    assert again.digest() == whole.digest()


def test_a_finished_training_is_not_trained_again(tmp_path, uninterrupted, monkeypatch):
    path = tmp_path / "supernet.json"
    Run("paths").fit(path)
    monkeypatch.setattr(torch.optim.AdamW, "step", None)
    run = Run("paths")
    assert run.fit(path).losses == uninterrupted["paths"][0]
    assert run.digest() == uninterrupted["paths"][1]


def test_checkpoints_may_come_at_another_pace_after_a_resume(tmp_path, uninterrupted):
    path = tmp_path / "supernet.json"
    with pytest.raises(Interrupted):
        Run("paths").fit(path, every=1, on_epoch=interrupt_after(3))
    run = Run("paths")
    run.fit(path, every=10)
    assert run.digest() == uninterrupted["paths"][1]
    assert len(load_checkpoint(path)[1]["losses"]) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_global_randomness_is_neither_used_nor_touched(uninterrupted, kind):
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
def test_another_seed_or_stage_gives_other_weights(uninterrupted, kind, other):
    run = Run(kind)
    run.fit(**other)
    assert run.digest() != uninterrupted[kind][1]


def test_randomness_is_addressed_by_seed_stage_and_position():
    def draw(*address):
        return tuple(stage_rng(*address).integers(2**32, size=4))

    assert draw(0, "a", 1, 2) == draw(0, "a", 1, 2)
    addresses = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 1, 2), (0, "a", 2, 1)]
    assert len({draw(*address) for address in addresses}) == len(addresses)


def poison_in_epoch(run, epoch, name):
    """A ``before_step`` that makes one weight NaN in an epoch."""
    steps = 0

    def before_step(rng):
        nonlocal steps
        if run.before_step is not None:
            run.before_step(rng)
        if steps // 3 == epoch:
            with torch.no_grad():
                run.parameters[name].view(-1)[0] = math.nan
        steps += 1

    return before_step


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_checkpoint(
    tmp_path, uninterrupted
):
    path = tmp_path / "supernet.json"
    broken = Run("conv")
    with pytest.raises(TrainingError, match=r"epoch 4 of 'supernet'.*nan.*lower lr") as caught:
        broken.fit(path, before_step=poison_in_epoch(broken, 3, "head.bias"))
    assert "\n" not in str(caught.value)
    assert len(load_checkpoint(path)[1]["losses"]) == 2
    run = Run("conv")
    run.fit(path)
    assert run.digest() == uninterrupted["conv"][1]


def test_weights_that_are_no_numbers_end_the_training_though_the_loss_is_finite(tmp_path):
    model = seeded(Conv)
    unused = nn.Parameter(torch.tensor([math.inf]))
    parameters = {**dict(model.named_parameters()), "unused": unused}
    path = tmp_path / "x.json"
    with pytest.raises(TrainingError, match="weights became NaN or infinite"):
        train(model, parameters, *data(), TrainingSettings(epochs=1), seed=0, stage="a",
              checkpoint=path)  # fmt: skip
    assert not path.exists()


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"stage": "fine-tuning"}, {"epochs": 6}],
    ids=str,
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, other):
    path = tmp_path / "supernet.json"
    Run("paths").fit(path)
    run = Run("paths")
    before = run.digest()
    with pytest.raises(CheckpointError, match=r"supernet\.json.*delete it to train anew"):
        run.fit(path, **other)
    assert run.digest() == before


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "supernet.json"
    Run("conv").fit(path)
    run = Run("paths")
    before = run.digest()
    with pytest.raises(CheckpointError, match="of this training"):
        run.fit(path)
    assert run.digest() == before


def test_a_checkpoint_that_is_no_training_is_refused(tmp_path):
    path = tmp_path / "supernet.json"
    run = Run("paths")
    save_checkpoint(path, {f"model.{n}": p for n, p in run.parameters.items()}, {"seed": 0})
    with pytest.raises(CheckpointError, match="of this training"):
        run.fit(path)


@pytest.mark.parametrize("kind", KINDS)
def test_no_epochs_change_nothing(tmp_path, kind):
    run = Run(kind)
    before = run.digest()
    reported = []
    for _ in range(2):
        result = run.fit(tmp_path / "x.json", epochs=0, on_epoch=lambda *a: reported.append(a))
        assert (result.losses, result.n_images) == ([], 0)
    assert run.digest() == before
    assert reported == []
    assert not run.model.training


def test_the_model_is_left_in_evaluation_mode():
    run = Run("conv")
    run.model.train()
    run.fit(epochs=1)
    assert not any(module.training for module in run.model.modules())


def test_frozen_batch_norms_keep_their_statistics():
    model = seeded(Conv)
    before = copy.deepcopy(model.norm.state_dict())
    train(model, dict(model.head.named_parameters()), *data(), TrainingSettings(epochs=2, lr=0.1),
          seed=0, stage="probe")  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.norm.state_dict().items())
    assert not torch.equal(model.head.bias, seeded(Conv).head.bias)


def test_trained_batch_norms_move_their_statistics():
    run = Run("conv")
    run.fit(epochs=2)
    assert run.model.norm.num_batches_tracked == 2 * 3
    assert not torch.equal(run.model.norm.running_mean, torch.zeros(4))


def test_what_is_frozen_keeps_its_bits():
    run = Run("drop-path")
    frozen = {n: p.clone() for n, p in run.model.named_parameters() if not p.requires_grad}
    run.fit()
    now = dict(run.model.named_parameters())
    assert len(frozen) > 20
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def test_weights_on_no_path_get_no_update_not_even_decay():
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
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    on_path = {n for n in before if ".B_" in n} | {"head.weight", "head.bias"}
    assert moved == on_path


@pytest.fixture
def steps():
    """Learning rate and gradient norm of every optimizer step."""
    found = []

    def record(optimizer, args, kwargs):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        found.append((optimizer.param_groups[0]["lr"], norm.item()))

    handle = register_optimizer_step_pre_hook(record)
    yield found
    handle.remove()


@pytest.mark.parametrize("warmup", [0, 2, 9])
def test_the_learning_rate_warms_up_and_follows_a_cosine(steps, warmup):
    model = seeded(Conv)
    settings = TrainingSettings(epochs=6, batch_size=8, lr=0.03, warmup_epochs=warmup)
    train(model, dict(model.named_parameters()), *data(), settings, seed=0, stage="a")
    total, warm = 6 * 3, warmup * 3
    rest = max(total - warm, 1)
    expected = [
        0.03 * (step + 1) / (warm + 1)
        if step < warm
        else 0.015 * (1 + math.cos(math.pi * (step - warm) / rest))
        for step in range(total)
    ]
    assert max(expected) == 0.03 or warmup > 6
    assert [lr for lr, _ in steps] == pytest.approx(expected)


def test_the_learning_rate_goes_on_where_it_was(steps, tmp_path):
    Run("conv").fit()
    whole = [lr for lr, _ in steps]
    steps.clear()
    with pytest.raises(Interrupted):
        Run("conv").fit(tmp_path / "x.json", on_epoch=interrupt_after(3))
    Run("conv").fit(tmp_path / "x.json")
    assert [lr for lr, _ in steps] == whole[:9] + whole[6:]


def test_the_norm_of_the_gradient_is_clipped_unless_turned_off(steps):
    for clip in (0.01, 0.0):
        model = seeded(Conv)
        settings = TrainingSettings(epochs=2, lr=1e-3, clip_grad=clip)
        train(model, dict(model.named_parameters()), *data(), settings, seed=0, stage="a")
    clipped, free = steps[:2], steps[2:]
    assert all(norm == pytest.approx(0.01, rel=1e-3) for _, norm in clipped)
    assert all(norm > 0.02 for _, norm in free)


def test_each_epoch_sees_each_image_once_in_an_order_of_its_own():
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 3))
    model[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten().tolist()))
    images = torch.arange(20.0).view(20, 1, 1, 1)
    train(model, dict(model.named_parameters()), images, torch.zeros(20, dtype=torch.int64),
          TrainingSettings(epochs=3, batch_size=8), seed=0, stage="a")  # fmt: skip
    assert [len(batch) for batch in seen] == [8, 8, 4] * 3
    epochs = [list(itertools.chain(*seen[i : i + 3])) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_loss_of_an_epoch_is_the_mean_over_its_images():
    model = vit()
    images, labels = data()
    before = evaluate(model, images, labels).loss
    settings = TrainingSettings(epochs=1, batch_size=8, lr=1e-12)
    result = train(
        model, dict(model.named_parameters()), images, labels, settings, seed=0, stage="a"
    )
    assert result.losses == [pytest.approx(before, rel=1e-4)]
    assert result.seconds > 0


def test_training_fits_the_images():
    model = vit()
    supernet = Supernet(model, {n: {"B": [Choice.parse("lora-4")]} for n in linear_shapes(model)})
    supernet.activate(Architecture.uniform(linear_shapes(vit()), B="lora-4"))
    settings = TrainingSettings(epochs=40, batch_size=8, lr=1e-2)
    result = train(model, supernet.trainable(), *data(), settings, seed=0, stage="a")
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert evaluate(model, *data()).accuracy > 0.8


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": math.inf},
        {"lr": math.nan},
        {"weight_decay": -1.0},
        {"clip_grad": math.nan},
        {"checkpoint_every": 0},
        {"epoch": 3},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingSettings.model_validate({"epochs": 1, **wrong})


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_recomputed_activations_train_the_same(name):
    results = []
    for grad_checkpointing in (False, True):
        model = models.backbone(name)
        for module in model.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.3
        shapes = linear_shapes(model)
        supernet = Supernet(model, models.choices_of(shapes))
        rng_paths = []

        def draw(rng, supernet=supernet, shapes=shapes, drawn=rng_paths):
            drawn.append(int(rng.integers(100)))
            supernet.activate(models.random_architecture(shapes, drawn[-1]))

        settings = TrainingSettings(
            epochs=2, batch_size=4, lr=0.01, grad_checkpointing=grad_checkpointing
        )
        images, labels = models.images(count=10), torch.arange(10) % 3
        trainable = supernet.trainable()
        train(model, trainable, images, labels, settings, seed=0, stage="s", before_step=draw)
        results.append((supernet.state_dict(), rng_paths))
    (kept, paths), (again, same_paths) = results
    assert paths == same_paths
    assert all(torch.equal(kept[key], again[key]) for key in kept)
    assert not getattr(model, "grad_checkpointing", False)


def test_a_backbone_that_cannot_recompute_is_told():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    settings = TrainingSettings(epochs=1, grad_checkpointing=True)
    images, labels = torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    with pytest.raises(TrainingError, match=r"training.recompute needs .* Sequential"):
        train(model, dict(model.named_parameters()), images, labels, settings, seed=0, stage="s")
