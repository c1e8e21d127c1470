"""Training by two processes, to which the environment says what torchrun would."""

import importlib.util
import json
import math
import os
import shutil
import socket
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from glora_automl.adapters import is_scaling
from glora_automl.errors import CheckpointError, Stopped, StorageError, TrainingError
from glora_automl.training import ProcessGroup, load_checkpoint, stage_rng, tensor_digest
from tests.processes import start
from tests.training.test_train import Run, StopAfter, data

needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None,
    reason='needs accelerate: pip install "glora-automl[distributed]"',
)
COUNTS = (20, 21, 17)
"""Images of which the last batch has 4, 5 and 1: shares of 2 and 2, 3 and 2, 1 and none."""
EPOCHS = 3
STEPS = 3


class Program(Run):
    """A training whose steps are written down.

    Args:
        kind: As of a run.
        exact: Train in float64, to compare closely.
        offset: Added to the initial weights, for ranks that begin unlike each other.
    """

    def __init__(self, kind, *, exact=False, offset=0.0):
        super().__init__(kind)
        self.exact = exact
        self.images, self.paths, self.seeds = [], [], []
        if exact:
            self.model.double()
        self.model.register_forward_pre_hook(self.note_images)
        if (activate := self.before_step) is not None:
            self.before_step = lambda rng: self.note_path(activate(rng))
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.add_(offset)

    def note_images(self, module, args):
        self.images.append(len(args[0]))
        self.seeds.append(torch.initial_seed())
        return (args[0].double(),) if self.exact else args

    def note_path(self, _):
        layers = [m for m in self.model.modules() if hasattr(m, "active_parameters")]
        shapes = [{k: list(p.shape) for k, p in m.active_parameters().items()} for m in layers]
        self.paths.append(shapes)

    def state(self):
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def attempt(work):
    """The class and message of what ``work`` raises."""
    try:
        work()
    except BaseException as error:
        return [type(error).__name__, str(error)]
    return None


def checks(process_group, folder):
    """All that two processes show when they get on well, as JSON."""
    mine = folder / f"rank{process_group.index}"  # machines share no folder
    found = {
        "index": process_group.index,
        "size": process_group.size,
        "main": process_group.is_main,
    }
    found["broadcast"] = process_group.broadcast({"from": process_group.index})
    found["from_main"] = process_group.from_main(lambda: os.environ["RANK"])
    found["any"] = [
        process_group.any(lambda wanted=rank: process_group.index == wanted) for rank in range(3)
    ]
    found["shares"] = [process_group.share(torch.arange(n)).tolist() for n in (5, 1)]
    process_group.barrier()

    for count in COUNTS:
        run = Program("paths", exact=True, offset=0.01 * process_group.index)
        path = mine / f"{count}.json"
        result = run.fit(path, epochs=EPOCHS, count=count, process_group=process_group)
        torch.save(run.state(), folder / f"{count}-rank{process_group.index}.pt")
        found[f"{count}"] = [result.losses, run.digest(), run.paths, run.images]

    for kind in ("drop-path", "conv"):
        run = Program(kind)
        result = run.fit(epochs=EPOCHS, count=21, process_group=process_group)
        found[kind] = [result.losses, run.digest()]
        found[f"seeds-{kind}"] = run.seeds
        path = mine / f"stopped-{kind}.json"
        for steps in (0, 1, 3, 2):
            # Rank 1 alone is told to stop; it has no file, and what it begins with is replaced.
            stop = StopAfter(steps) if process_group.index == 1 else None
            run, told = Program(kind, offset=float(process_group.index)), []
            options = {"process_group": process_group, "stop": stop, "on_checkpoint": told.append}
            error = attempt(partial(run.fit, path, epochs=EPOCHS, count=21, **options))
            found.setdefault(f"stopped-{kind}", []).append([*error, len(told) > 0])
        if process_group.is_main:
            shutil.copytree(mine, folder / f"copy-{kind}")
        run = Program(kind)
        result = run.fit(path, epochs=EPOCHS, count=21, process_group=process_group)
        found[f"resumed-{kind}"] = [result.losses, run.digest()]

    def raising_on(rank, error):
        def work(*_):
            if process_group.index == rank:
                raise error

        return work

    def altered():
        if process_group.is_main:
            (mine / "20.json").write_text("{")
        Run("paths").fit(mine / "20.json", epochs=EPOCHS, process_group=process_group)

    def late(rng):
        late.steps += 1
        if process_group.index == 1 and late.steps > 4:
            raise ValueError("no such path")

    late.steps = 0
    full, ended = raising_on(0, StorageError("disk full")), raising_on(1, Stopped("enough"))
    found["errors"] = [
        attempt(altered),
        attempt(
            partial(
                Run("paths").fit, mine / "a.json", process_group=process_group, on_checkpoint=full
            )
        ),
        attempt(
            partial(
                Run("paths").fit, process_group=process_group, on_epoch=raising_on(1, KeyError("x"))
            )
        ),
        attempt(partial(Run("paths").fit, process_group=process_group, before_step=late)),
        attempt(partial(Run("paths").fit, process_group=process_group, stop=ended)),
        attempt(
            partial(
                Run("paths").fit,
                process_group=process_group,
                identity={"data": str(process_group.index)},
            )
        ),
        attempt(partial(process_group.from_main, raising_on(0, KeyboardInterrupt()))),
    ]
    (folder / f"found-{process_group.index}.json").write_text(json.dumps(found))


def failure(process_group, folder):
    """Rank 0 finds a checkpoint that is none, and nobody catches the error."""
    path = folder / "x.json"
    if process_group.is_main:
        path.write_text("{")
    Run("paths").fit(path, process_group=process_group)


def main(what, folder):
    torch.set_num_threads(1)
    process_group = ProcessGroup.from_environment(torch.device("cpu"))
    {"checks": checks, "failure": failure}[what](process_group, Path(folder))
    process_group.close()


def run_ranks(what, folder):
    """Two processes with what torchrun tells them; returns them when they have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    process_group = [
        start(main, what, str(folder), folder=folder, **address, WORLD_SIZE="2",
              LOCAL_WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(2)
    ]  # fmt: skip
    for rank in process_group:
        rank.wait()
    return process_group


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process_group")
    for rank in run_ranks("checks", folder):
        assert rank.code == 0, rank.err
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """What each rank found."""
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


@needs_accelerate
def test_each_process_knows_its_rank_and_what_rank_0_knows(found):
    assert [(f["index"], f["size"], f["main"]) for f in found] == [(0, 2, True), (1, 2, False)]
    assert [f["broadcast"] for f in found] == [{"from": 0}] * 2
    assert [f["from_main"] for f in found] == ["0"] * 2
    assert [f["any"] for f in found] == [[True, True, False]] * 2
    assert [f["shares"] for f in found] == [[[0, 2, 4], [0]], [[1, 3], []]]


@needs_accelerate
@pytest.mark.parametrize("count", COUNTS)
def test_ranks_end_with_the_same_weights_from_shares_and_paths_of_their_own(found, count):
    (losses, digest, paths, images), (other_losses, other_digest, other_paths, other_images) = (
        f[str(count)] for f in found
    )
    assert losses == other_losses
    assert digest == other_digest
    assert len(paths) == len(other_paths) == EPOCHS * STEPS
    assert all(mine != other for mine, other in zip(paths, other_paths, strict=True))
    last = count - 16
    assert images == [4, 4, math.ceil(last / 2)] * EPOCHS
    assert other_images == [n for n in [4, 4, last // 2] * EPOCHS if n]
    single = Program("paths")
    single.fit(epochs=EPOCHS, count=count)
    assert paths == single.paths


def reference(count):
    """What two ranks must do, by one process: the mean loss of a batch on two paths."""
    run = Program("paths", exact=True)
    images, labels = data(count)
    groups = [
        {"params": [p for n, p in run.parameters.items() if is_scaling(n) == s], "ratio": ratio}
        for s, ratio in ((False, 1.0), (True, run.settings["scaling_lr_ratio"]))
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    losses = []
    run.model.train()
    for epoch in range(EPOCHS):
        order = torch.from_numpy(stage_rng(0, "supernet", epoch, 0).permutation(count))
        rngs = stage_rng(0, "supernet", epoch, 1), stage_rng(0, "supernet", epoch, 1, 1)
        total = 0.0
        for step, batch in enumerate(order.split(8)):
            optimizer.zero_grad()
            for share, rng in zip((batch[::2], batch[1::2]), rngs, strict=True):
                run.before_step(rng)
                if len(share):
                    logits = run.model(images[share])
                    loss = F.cross_entropy(logits, labels[share], reduction="sum")
                    torch.autograd.backward(loss / len(batch))
                    total += loss.item()
            nn.utils.clip_grad_norm_(run.parameters.values(), 1.0)
            update = epoch * STEPS + step
            rest = (EPOCHS - 1) * STEPS  # after an epoch of warm-up
            for group in optimizer.param_groups:
                group["lr"] = (
                    1e-2
                    * group["ratio"]
                    * (
                        (update + 1) / (STEPS + 1)
                        if epoch == 0
                        else 0.5 * (1 + math.cos(math.pi * (update - STEPS) / rest))
                    )
                )
            optimizer.step()
        losses.append(total / count)
    return losses, run.state()


@needs_accelerate
@pytest.mark.parametrize("count", COUNTS)
def test_two_ranks_are_one_process_with_the_mean_loss_on_both_paths(folder, found, count):
    losses, weights = reference(count)
    assert found[0][str(count)][0] == pytest.approx(losses, rel=1e-6)  # summed as float32
    for rank in range(2):
        got = torch.load(folder / f"{count}-rank{rank}.pt")
        assert got.keys() == weights.keys()
        for name, value in weights.items():
            torch.testing.assert_close(got[name], value, rtol=1e-8, atol=1e-8)
    start = Program("paths", exact=True).state()
    assert tensor_digest(weights) != tensor_digest(start)


@needs_accelerate
@pytest.mark.parametrize("kind", ["drop-path", "conv"])
def test_stopped_ranks_end_with_the_same_bits(folder, found, kind):
    done = [(0, 0), (0, 1), (1, 1), (2, 0)]
    for rank, f in enumerate(found):
        assert f[kind] == found[0][kind]
        assert f[f"resumed-{kind}"] == f[kind]
        for (name, message, told), (epochs, steps) in zip(f[f"stopped-{kind}"], done, strict=True):
            assert name == "Stopped"
            assert f"after {epochs} epochs and {steps} of 3 steps" in message
            assert told == (rank == 0)
    assert not list((folder / "rank1").glob("*"))


@needs_accelerate
def test_noise_is_each_ranks_own_and_rank_0s_that_of_one_process(found):
    mine, other = (f["seeds-drop-path"] for f in found)
    assert len({*mine, *other}) == 2 * EPOCHS * STEPS
    single = Program("drop-path")
    single.fit(epochs=EPOCHS, count=21)
    assert mine == single.seeds


@needs_accelerate
def test_one_process_goes_on_where_two_stopped(folder, tmp_path):
    path = tmp_path / "x" / "stopped-conv.json"
    shutil.copytree(folder / "copy-conv", path.parent)
    assert len(load_checkpoint(path)[1]["losses"]) == 2
    run = Run("conv")
    run.fit(path, epochs=EPOCHS, count=21)
    assert len(load_checkpoint(path)[1]["losses"]) == EPOCHS


@needs_accelerate
def test_an_error_on_one_rank_is_raised_on_all(found):
    mine, other = ([tuple(error) for error in f["errors"]] for f in found)
    assert [name for name, _ in mine] == [
        "CheckpointError", "StorageError", "TrainingError", "TrainingError", "Stopped",
        "TrainingError", "KeyboardInterrupt",
    ]  # fmt: skip
    assert [name for name, _ in other] == [
        "CheckpointError", "StorageError", "KeyError", "ValueError", "Stopped",
        "TrainingError", "TrainingError",
    ]  # fmt: skip
    assert all(mine[i] == other[i] for i in (0, 1, 4, 5))
    assert "cannot be read" in mine[0][1]
    assert "rank 1 failed with KeyError" in mine[2][1]
    assert "rank 1 failed with ValueError: no such path" in mine[3][1]
    assert "identity (data) differ between rank 0 and rank 1" in mine[5][1]
    assert "rank 0 failed with KeyboardInterrupt" in other[6][1]


@needs_accelerate
def test_an_error_on_rank_0_ends_both_processes(tmp_path):
    main_rank, other = run_ranks("failure", tmp_path)
    assert main_rank.code != 0
    assert other.code != 0
    assert "CheckpointError: The checkpoint" in main_rank.err


def standalone():
    """A training by one process."""
    process_group = ProcessGroup.from_environment(torch.device("cpu"))
    Run("paths").fit(epochs=1, process_group=process_group)
    process_group.barrier()
    process_group.close()
    assert not any(name.split(".")[0] == "accelerate" for name in sys.modules)
    assert not torch.distributed.is_initialized()


def test_one_process_imports_nothing_of_accelerate_and_connects_to_nothing(tmp_path):
    process = start(standalone, folder=tmp_path, WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    assert process.wait() == 0, process.err


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "2"}, {"LOCAL_RANK": "0"}], ids=str)
def test_what_torchrun_did_not_start_is_alone(monkeypatch, variables):
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    process_group = ProcessGroup.from_environment(torch.device("cpu"))
    assert (
        type(process_group),
        process_group.index,
        process_group.size,
        process_group.is_main,
    ) == (ProcessGroup, 0, 1, True)


def test_without_accelerate_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(TrainingError, match=r'pip install "glora-automl\[distributed\]"'):
        ProcessGroup.from_environment(torch.device("cpu"))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingError, match=r"local rank 1 finds 1 GPU.*--nproc-per-node"):
        ProcessGroup.from_environment(torch.device("cuda"))


def test_a_single_process_is_all_ranks():
    process_group = ProcessGroup(torch.device("cpu"))
    tensors = {"a": torch.ones(2)}
    assert process_group.broadcast_tensors(tensors) == tensors
    assert process_group.share(torch.arange(3)).tolist() == [0, 1, 2]
    assert [process_group.any(lambda: True), process_group.any(lambda: False)] == [True, False]
    with pytest.raises(CheckpointError, match="mine"), process_group.together():
        raise CheckpointError("mine")
