import math
import signal
import time
from pathlib import Path

import pytest
import torch

from glora_automl.errors import CheckpointError, Stopped
from glora_automl.training import load_checkpoint, save_checkpoint
from tests.processes import start
from tests.training.runs import KINDS, Interrupted, Run, StopAfter, interrupt_after


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", [[3], [1], [3, 4], [5]], ids=str)
def test_train_after_interrupts_gives_the_same_bits(tmp_path, uninterrupted, kind, stops):
    path = tmp_path / "run" / "supernet.json"
    for stop in stops:
        with pytest.raises(Interrupted):
            Run(kind).fit(path, on_epoch=interrupt_after(stop))
    last = max(stops) // 2 * 2 if max(stops) < 5 else 5
    reported = []
    run = Run(kind)
    result = run.fit(path, on_epoch=lambda *epoch: reported.append(epoch))
    losses, digest = uninterrupted[kind]
    assert result.losses == losses
    assert run.digest() == digest
    assert result.n_images == 5 * 20
    # First the last epoch of the checkpoint, then each remaining epoch.
    assert reported == [(i + 1, losses[i]) for i in range(max(last - 1, 0), 5)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "stops",
    [[0], [1], [2], [3], [4, 1, 0, 2], [6, 3, 5], [14], [15], [1] * 15],
    ids=str,
)
def test_train_after_stops_gives_the_same_bits(tmp_path, uninterrupted, kind, stops):
    losses, digest = uninterrupted[kind]
    path = tmp_path / "run" / "supernet.json"
    written, reported, n_steps = [], [], 0
    for steps in stops:
        stop, before = StopAfter(steps), len(written)
        n_steps += steps
        with pytest.raises(Stopped, match=f"'supernet' stopped after {n_steps // 3} epochs and "
                           rf"{n_steps % 3} of 3 steps\. Start it again"):  # fmt: skip
            Run(kind).fit(path, stop=stop, on_checkpoint=written.append,
                          on_epoch=lambda *epoch: reported.append(epoch))  # fmt: skip
        assert stop.calls == steps + 1
        assert written[before:] == [path] * len(written[before:])
        assert len(written) > before
        state = load_checkpoint(path)[1]
        assert state["losses"] == losses[: n_steps // 3]
        assert state.get("step", 0) == n_steps % 3
    run = Run(kind)
    result = run.fit(path, on_epoch=lambda *epoch: reported.append(epoch))
    assert (result.losses, result.n_images) == (losses, 5 * 20)
    assert run.digest() == digest
    # Each epoch once at its end, and again only after a resume.
    assert sorted(set(reported)) == [(i + 1, losses[i]) for i in range(5)]
    assert len(reported) <= 5 + len(stops)


def test_train_with_a_stop_and_no_checkpoint_raises_stopped():
    with pytest.raises(Stopped, match="after 1 epochs and 1 of 3 steps"):
        Run("paths").fit(stop=StopAfter(4))


def test_train_when_finished_ignores_stop(tmp_path, uninterrupted):
    path = tmp_path / "supernet.json"
    Run("paths").fit(path)
    assert Run("paths").fit(path, stop=lambda: True).losses == uninterrupted["paths"][0]
    assert Run("paths").fit(epochs=0, stop=lambda: True).losses == []


def test_train_calls_on_checkpoint_after_each_write(tmp_path):
    path = tmp_path / "supernet.json"
    n_epochs = []
    Run("paths").fit(
        path, on_checkpoint=lambda p: n_epochs.append(len(load_checkpoint(p)[1]["losses"]))
    )
    assert n_epochs == [2, 4, 5]


def test_train_between_epochs_writes_no_step(tmp_path):
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
def test_train_with_an_invalid_position_raises(tmp_path, wrong):
    path = tmp_path / "supernet.json"
    with pytest.raises(Stopped):
        Run("paths").fit(path, stop=StopAfter(4))
    tensors, state = load_checkpoint(path)
    save_checkpoint(path, tensors, {**state, **wrong})
    with pytest.raises(CheckpointError, match=r"got other position\. Delete it to restart"):
        Run("paths").fit(path)


def test_train_with_an_error_in_stop_raises_it():
    with pytest.raises(ZeroDivisionError):
        Run("paths").fit(stop=lambda: 1 / 0)


def train_slowly(path):
    """Train in the process that is killed, and print the number of each epoch."""

    def on_epoch(n_epochs, loss):
        print(n_epochs, flush=True)
        time.sleep(0.02)

    torch.set_num_threads(1)
    Run("drop-path").fit(Path(path), epochs=15, every=1, on_epoch=on_epoch)


def test_train_after_a_kill_gives_the_same_bits(tmp_path):
    path = tmp_path / "supernet.json"
    process = start(train_slowly, str(path), folder=tmp_path)
    process.wait_until(lambda: "3\n" in process.out)
    process.kill()
    assert process.code == -signal.SIGKILL
    n_epochs = len(load_checkpoint(path)[1]["losses"])
    assert 3 <= n_epochs < 15
    epochs = []
    resumed, uninterrupted = Run("drop-path"), Run("drop-path")
    result = resumed.fit(path, epochs=15, every=1, on_epoch=lambda n, _: epochs.append(n))
    assert epochs == list(range(n_epochs, 16))
    assert result.losses == uninterrupted.fit(epochs=15).losses
    assert resumed.digest() == uninterrupted.digest()


def test_train_when_finished_takes_no_step(tmp_path, uninterrupted, monkeypatch):
    path = tmp_path / "supernet.json"
    Run("paths").fit(path)
    monkeypatch.setattr(torch.optim.AdamW, "step", None)
    run = Run("paths")
    assert run.fit(path).losses == uninterrupted["paths"][0]
    assert run.digest() == uninterrupted["paths"][1]


def test_train_after_a_resume_may_change_checkpoint_every(tmp_path, uninterrupted):
    path = tmp_path / "supernet.json"
    with pytest.raises(Interrupted):
        Run("paths").fit(path, every=1, on_epoch=interrupt_after(3))
    run = Run("paths")
    run.fit(path, every=10)
    assert run.digest() == uninterrupted["paths"][1]
    assert len(load_checkpoint(path)[1]["losses"]) == 5


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"stage": "fine-tuning"}, {"epochs": 6}],
    ids=str,
)
def test_train_with_a_checkpoint_of_another_training_raises(tmp_path, other):
    path = tmp_path / "supernet.json"
    Run("paths").fit(path)
    run = Run("paths")
    before = run.digest()
    with pytest.raises(
        CheckpointError, match=r"supernet\.json.*this training.*Delete it to restart"
    ):
        run.fit(path, **other)
    assert run.digest() == before


def test_train_with_a_checkpoint_of_another_model_raises(tmp_path):
    path = tmp_path / "supernet.json"
    Run("conv").fit(path)
    run = Run("paths")
    before = run.digest()
    with pytest.raises(CheckpointError, match="of this training"):
        run.fit(path)
    assert run.digest() == before


def test_train_with_a_checkpoint_of_no_training_raises(tmp_path):
    path = tmp_path / "supernet.json"
    run = Run("paths")
    save_checkpoint(path, {f"model.{n}": p for n, p in run.parameters.items()}, {"seed": 0})
    with pytest.raises(CheckpointError, match="of this training"):
        run.fit(path)
