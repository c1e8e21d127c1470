"""Training in two processes with torchrun's environment variables."""

import importlib.util
import json
import math
import shutil
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from glora_automl.adapters import is_scaling
from glora_automl.errors import CheckpointError, TrainingError
from glora_automl.training import ProcessGroup, load_checkpoint, stage_rng, tensor_digest
from tests.processes import start
from tests.training.runs import Run, data
from tests.training.two_processes import COUNTS, EPOCHS, STEPS, RecordedRun, run_processes

needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None,
    reason='needs accelerate: pip install "glora-automl[distributed]"',
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process_group")
    for process in run_processes("run_checks", folder):
        assert process.code == 0, process.err
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """Results of each process."""
    return [json.loads((folder / f"results-{index}.json").read_text()) for index in range(2)]


@needs_accelerate
def test_process_group_of_two_gives_each_process_its_index_and_values(results):
    assert [(r["index"], r["size"], r["main"]) for r in results] == [(0, 2, True), (1, 2, False)]
    assert [r["broadcast"] for r in results] == [{"from": 0}] * 2
    assert [r["from_main"] for r in results] == ["0"] * 2
    assert [r["any"] for r in results] == [[True, True, False]] * 2
    assert [r["shards"] for r in results] == [[[0, 2, 4], [0]], [[1, 3], []]]


@needs_accelerate
@pytest.mark.parametrize("count", COUNTS)
def test_train_in_two_processes_draws_own_paths_and_gives_equal_weights(results, count):
    (losses, digest, paths, images), (other_losses, other_digest, other_paths, other_images) = (
        r[str(count)] for r in results
    )
    assert losses == other_losses
    assert digest == other_digest
    assert len(paths) == len(other_paths) == EPOCHS * STEPS
    assert all(a != b for a, b in zip(paths, other_paths, strict=True))
    last = count - 16
    assert images == [4, 4, math.ceil(last / 2)] * EPOCHS
    assert other_images == [n for n in [4, 4, last // 2] * EPOCHS if n]
    single = RecordedRun("paths")
    single.fit(epochs=EPOCHS, count=count)
    assert paths == single.paths


def reference(count):
    """Train in one process on the mean loss of two shards with two paths."""
    run = RecordedRun("paths", exact=True)
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
            for shard, rng in zip((batch[::2], batch[1::2]), rngs, strict=True):
                run.before_step(rng)
                if len(shard):
                    logits = run.model(images[shard])
                    loss = F.cross_entropy(logits, labels[shard], reduction="sum")
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
def test_train_in_two_processes_equals_the_mean_loss_of_both_paths(folder, results, count):
    losses, weights = reference(count)
    assert results[0][str(count)][0] == pytest.approx(losses, rel=1e-6)  # summed as float32
    for index in range(2):
        state = torch.load(folder / f"{count}-process{index}.pt")
        assert state.keys() == weights.keys()
        for name, value in weights.items():
            torch.testing.assert_close(state[name], value, rtol=1e-8, atol=1e-8)
    initial = RecordedRun("paths", exact=True).state()
    assert tensor_digest(weights) != tensor_digest(initial)


@needs_accelerate
@pytest.mark.parametrize("kind", ["drop-path", "conv"])
def test_train_in_two_processes_after_stops_gives_the_same_bits(folder, results, kind):
    positions = [(0, 0), (0, 1), (1, 1), (2, 0)]
    for index, r in enumerate(results):
        assert r[kind] == results[0][kind]
        assert r[f"resumed-{kind}"] == r[kind]
        for stopped, (epochs, steps) in zip(r[f"stopped-{kind}"], positions, strict=True):
            name, message, written = stopped
            assert name == "Stopped"
            assert f"after {epochs} epochs and {steps} of 3 steps" in message
            assert written == (index == 0)
    assert not list((folder / "process1").glob("*"))


@needs_accelerate
def test_train_in_two_processes_draws_own_noise(results):
    seeds, other_seeds = (r["seeds-drop-path"] for r in results)
    assert len({*seeds, *other_seeds}) == 2 * EPOCHS * STEPS
    single = RecordedRun("drop-path")
    single.fit(epochs=EPOCHS, count=21)
    assert seeds == single.seeds


@needs_accelerate
def test_train_in_one_process_resumes_a_checkpoint_of_two(folder, tmp_path):
    path = tmp_path / "x" / "stopped-conv.json"
    shutil.copytree(folder / "copy-conv", path.parent)
    assert len(load_checkpoint(path)[1]["losses"]) == 2
    run = Run("conv")
    run.fit(path, epochs=EPOCHS, count=21)
    assert len(load_checkpoint(path)[1]["losses"]) == EPOCHS


@needs_accelerate
def test_process_group_with_an_error_in_one_process_raises_in_all(results):
    first, second = ([tuple(error) for error in r["errors"]] for r in results)
    assert [name for name, _ in first] == [
        "CheckpointError", "StorageError", "TrainingError", "TrainingError", "Stopped",
        "TrainingError", "KeyboardInterrupt",
    ]  # fmt: skip
    assert [name for name, _ in second] == [
        "CheckpointError", "StorageError", "KeyError", "ValueError", "Stopped",
        "TrainingError", "TrainingError",
    ]  # fmt: skip
    assert all(first[i] == second[i] for i in (0, 1, 4, 5))
    assert "must be readable" in first[0][1]
    assert "got KeyError in process 1" in first[2][1]
    assert "got ValueError in process 1: no such path" in first[3][1]
    assert "got other identity (data) in process 1 than in process 0" in first[5][1]
    assert "got KeyboardInterrupt in process 0" in second[6][1]


@needs_accelerate
def test_process_group_with_an_uncaught_error_ends_both_processes(tmp_path):
    main_process, other = run_processes("fail", tmp_path)
    assert main_process.code != 0
    assert other.code != 0
    assert "CheckpointError: The checkpoint" in main_process.err


def train_alone():
    """Train in one process without accelerate."""
    process_group = ProcessGroup.from_environment(torch.device("cpu"))
    Run("paths").fit(epochs=1, process_group=process_group)
    process_group.close()
    assert not any(name.split(".")[0] == "accelerate" for name in sys.modules)
    assert not torch.distributed.is_initialized()


def test_process_group_of_one_imports_no_accelerate_and_opens_no_connection(tmp_path):
    process = start(train_alone, folder=tmp_path, WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    assert process.wait() == 0, process.err


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "2"}, {"LOCAL_RANK": "0"}], ids=str)
def test_process_group_without_torchrun_has_one_process(monkeypatch, variables):
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


def test_process_group_without_accelerate_raises(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(TrainingError, match=r'pip install "glora-automl\[distributed\]"'):
        ProcessGroup.from_environment(torch.device("cpu"))


def test_process_group_with_more_processes_than_gpus_raises(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(TrainingError, match=r"LOCAL_RANK=1 on a machine with 1 GPU.*`device`"):
        ProcessGroup.from_environment(torch.device("cuda"))


def test_process_group_of_one_returns_its_own_values():
    process_group = ProcessGroup(torch.device("cpu"))
    tensors = {"a": torch.ones(2)}
    assert process_group.broadcast_tensors(tensors) == tensors
    assert process_group.shard(torch.arange(3)).tolist() == [0, 1, 2]
    assert [process_group.any(lambda: True), process_group.any(lambda: False)] == [True, False]
    with pytest.raises(CheckpointError, match="own"), process_group.propagate_errors():
        raise CheckpointError("own")
