import errno
import hashlib
import json
import os
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.errors import CheckpointError, StorageError
from glora_automl.training import load_checkpoint, save_checkpoint, tensor_digest

STATE = {"seed": 3, "losses": [1.5, 0.1], "settings": {"lr": 1e-4, "name": "ä"}}


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(3, 4, generator=generator),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "step": torch.tensor(7.0),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "nothing": torch.zeros(0, 3),
    }


def same(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a
    )


def weights_of(path):
    return path.with_name(json.loads(path.read_text(encoding="utf-8"))["weights"])


@pytest.fixture
def path(tmp_path):
    """Path of an existing checkpoint."""
    path = tmp_path / "supernet.json"
    save_checkpoint(path, tensors(), STATE)
    return path


def error_of(path):
    """Return the error message of an invalid checkpoint: one line with its path and a hint."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(path)) in message
    assert "Delete the checkpoint to restart the training." in message
    return message


def test_load_checkpoint_returns_the_saved_tensors_and_state(path):
    loaded, state = load_checkpoint(path)
    assert same(loaded, tensors())
    assert state == STATE


def test_load_checkpoint_without_a_file_returns_none(tmp_path):
    assert load_checkpoint(tmp_path / "supernet.json") is None


def test_save_checkpoint_creates_folders_and_saves_views_of_one_tensor(tmp_path):
    path = tmp_path / "a" / "b" / "x.json"
    base = torch.arange(6.0).requires_grad_()
    views = {"all": base, "rows": base.view(2, 3), "some": base[2:4]}
    save_checkpoint(path, views, {})
    assert same(load_checkpoint(path)[0], {k: v.detach() for k, v in views.items()})


def test_save_checkpoint_returns_the_digest_of_the_weights_file(tmp_path):
    path = tmp_path / "x.json"
    digest = save_checkpoint(path, tensors(), {})
    assert digest == hashlib.sha256(weights_of(path).read_bytes()).hexdigest()


def test_save_checkpoint_deletes_only_its_earlier_weights(path):
    others = [path.with_name(n) for n in ("winner-0123456789abcdef.safetensors", "notes.txt")]
    for other in others:
        other.write_bytes(b"x")
    first = weights_of(path)
    save_checkpoint(path, tensors(1), {})
    assert not first.exists()
    assert set(path.parent.iterdir()) == {path, weights_of(path), *others}


def test_save_checkpoint_with_the_same_tensors_keeps_them(path):
    save_checkpoint(path, tensors(), {"epoch": 2})
    loaded, state = load_checkpoint(path)
    assert same(loaded, tensors())
    assert state == {"epoch": 2}


def test_load_checkpoint_with_an_altered_byte_raises(path):
    weights = weights_of(path)
    data = weights.read_bytes()
    rng = random.Random(0)
    for position in [0, len(data) - 1, *rng.sample(range(len(data)), 30)]:
        altered = bytearray(data)
        altered[position] ^= 1 << rng.randrange(8)
        weights.write_bytes(bytes(altered))
        assert "altered" in error_of(path)
    weights.write_bytes(data)
    assert load_checkpoint(path) is not None


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_load_checkpoint_with_truncated_weights_raises(path, keep):
    weights = weights_of(path)
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "cut short" in error_of(path)


def test_load_checkpoint_with_missing_weights_raises(path):
    weights = weights_of(path)
    weights.unlink()
    assert weights.name in error_of(path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"3",
        b'"text"',
        b"{}",
        b'{"weights": "a.safetensors", "sha256": "0"}',
        b'{"weights": 3, "sha256": "0", "state": {}}',
        b'{"weights": "", "sha256": "0", "state": {}}',
        b'{"weights": "a.safetensors", "sha256": "0", "state": 3}',
        b'{"weights": "a\\u0000b", "sha256": "0", "state": {}}',
        b"\xff\xfe\x00",
    ],
)
def test_load_checkpoint_with_invalid_json_raises(path, text):
    path.write_bytes(text)
    error_of(path)


def test_load_checkpoint_of_a_folder_raises(tmp_path):
    path = tmp_path / "supernet.json"
    path.mkdir()
    error_of(path)


@pytest.mark.parametrize("name", ["../stolen.safetensors", "{folder}/stolen.safetensors", ".."])
def test_load_checkpoint_with_weights_in_another_folder_raises(tmp_path, name):
    path = tmp_path / "run" / "supernet.json"
    save_checkpoint(path, tensors(), STATE)
    record = json.loads(path.read_text(encoding="utf-8"))
    # The digest matches; only the folder is wrong.
    weights_of(path).rename(tmp_path / "stolen.safetensors")
    path.write_text(json.dumps({**record, "weights": name.format(folder=tmp_path)}))
    error_of(path)


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing_at(call, real):
    """Return a function that calls ``real``, but whose ``call``-th call finds no disk space."""
    calls = 0

    def function(*args, **kwargs):
        nonlocal calls
        calls += 1
        return no_space() if calls == call else real(*args, **kwargs)

    return function


@pytest.mark.parametrize("call", [1, 2], ids=["weights", "json"])
@pytest.mark.parametrize(
    "broken", [(os, "fsync"), (Path, "replace")], ids=["while writing", "while renaming"]
)
def test_save_checkpoint_on_a_full_disk_keeps_the_previous_one(path, monkeypatch, broken, call):
    with monkeypatch.context() as patch:
        patch.setattr(*broken, failing_at(call, getattr(*broken)))
        with pytest.raises(StorageError, match="No space left on device"):
            save_checkpoint(path, tensors(1), {})
    loaded, state = load_checkpoint(path)
    assert same(loaded, tensors())
    assert state == STATE
    assert not [p for p in path.parent.iterdir() if p.suffix not in (".json", ".safetensors")]
    # The next save deletes incomplete files.
    save_checkpoint(path, tensors(2), {})
    assert set(path.parent.iterdir()) == {path, weights_of(path)}


def test_tensor_digest_does_not_depend_on_order_layout_or_grad():
    a = tensors()
    assert tensor_digest(dict(reversed(a.items()))) == tensor_digest(a)
    assert tensor_digest({**a, "w": torch.cat([a["w"], a["w"]], 1)[:, :4]}) == tensor_digest(a)
    assert tensor_digest({**a, "w": torch.nn.Parameter(a["w"])}) == tensor_digest(a)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("step"),
        lambda t: t.update(more=torch.zeros(1)),
        lambda t: t.update(v=t.pop("w")),
        lambda t: t.update(w=t["w"].double()),
        lambda t: t.update(w=t["w"].reshape(4, 3)),
        lambda t: t.update(nothing=torch.zeros(3, 0)),
        lambda t: t.update(w=torch.nextafter(t["w"], t["w"] + 1)),
        lambda t: t.update(step=-torch.zeros(()), count=torch.tensor(0)),
    ],
)
def test_tensor_digest_depends_on_names_types_shapes_and_bits(change):
    changed = tensors()
    change(changed)
    assert tensor_digest(changed) != tensor_digest(tensors())


def test_tensor_digest_of_swapped_tensors_or_negative_zero_differs():
    a, b = torch.zeros(2), torch.ones(2)
    assert tensor_digest({"a": a, "b": b}) != tensor_digest({"a": b, "b": a})
    assert tensor_digest({"a": a}) != tensor_digest({"a": -a})


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=5).filter(
            lambda name: name != "__metadata__"
        ),
        st.lists(st.floats(width=32, allow_nan=True), max_size=4),
        min_size=1,
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_tensor_digest_of_any_order_is_the_same(values, shuffler):
    a = {name: torch.tensor(v, dtype=torch.float32) for name, v in values.items()}
    names = list(a)
    shuffler.shuffle(names)
    assert tensor_digest({name: a[name].clone() for name in names}) == tensor_digest(a)


def test_save_checkpoint_keeps_checkpoints_with_a_similar_name(tmp_path):
    save_checkpoint(tmp_path / "a-b.json", {"x": torch.zeros(2)}, {})
    save_checkpoint(tmp_path / "a.json", {"x": torch.ones(2)}, {})
    checkpoint = load_checkpoint(tmp_path / "a-b.json")
    assert checkpoint is not None
    assert torch.equal(checkpoint[0]["x"], torch.zeros(2))


def test_save_checkpoint_with_other_strides_keeps_the_tensors(tmp_path):
    value = torch.arange(6.0).reshape(2, 3).T
    save_checkpoint(tmp_path / "a.json", {"x": value}, {})
    checkpoint = load_checkpoint(tmp_path / "a.json")
    assert checkpoint is not None
    assert torch.equal(checkpoint[0]["x"], value)


def test_load_checkpoint_with_weights_in_another_format_raises(tmp_path):
    save_checkpoint(tmp_path / "a.json", {"x": torch.zeros(2)}, {})
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(b"no tensors")
    record = json.loads((tmp_path / "a.json").read_text())
    record["sha256"] = hashlib.sha256(b"no tensors").hexdigest()
    (tmp_path / "a.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="must be safetensors"):
        load_checkpoint(tmp_path / "a.json")
