"""Backbones from local checkpoints."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from glora_automl.backbones import BackboneSettings, create_backbone
from glora_automl.backbones._backbone import create_model
from glora_automl.errors import TaskError
from glora_automl.tasks import DigitsSettings, load_digits

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def task():
    chosen = DigitsSettings(
        source="digits",
        classes=(1, 2, 3),
        pretraining_classes=(),
        train_per_class=2,
        validation_per_class=2,
    )
    return load_digits(chosen, seed=0)


@pytest.fixture
def trained():
    """The weights of a model of seven classes, none of them an initial value."""
    model = create_model(settings(), 7, seed=1)
    generator = torch.Generator().manual_seed(2)
    return {
        name: t + torch.randn(t.shape, generator=generator)
        for name, t in model.state_dict().items()
    }


def settings(**changes):
    return BackboneSettings(**{"model": "vit_tiny_patch16_224", "kwargs": VIT, **changes})


def create(task, path, seed=0, **changes):
    chosen = settings(checkpoint=str(path), **changes)
    return create_backbone(
        chosen, task, seed=seed, device=torch.device("cpu"), cache=Path(path).parent
    )


def write(path, state):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


def original(state, heads):
    """A ViT's weights as the original JAX code wrote them."""
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    width = state["norm.weight"].shape[0]
    depth = sum(name.endswith(".norm1.weight") for name in state)
    for i in range(depth):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for k, name in enumerate(("query", "key", "value")):
            weight = state[f"{ours}.attn.qkv.weight"].chunk(3)[k].T
            bias = state[f"{ours}.attn.qkv.bias"].chunk(3)[k]
            arrays[f"{attention}/{name}/kernel"] = weight.reshape(width, heads, -1)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(heads, -1)
        out = state[f"{ours}.attn.proj.weight"].T
        arrays[f"{attention}/out/kernel"] = out.reshape(heads, -1, width)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}/{name}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/{name}/bias"] = state[f"{ours}.{norm}.bias"]
        for r in range(2):
            dense = f"{theirs}/MlpBlock_3/Dense_{r}"
            arrays[f"{dense}/kernel"] = state[f"{ours}.mlp.fc{r + 1}.weight"].T
            arrays[f"{dense}/bias"] = state[f"{ours}.mlp.fc{r + 1}.bias"]
    return {name: np.ascontiguousarray(t.numpy()) for name, t in arrays.items()}


def assert_body(model, state):
    body = {n: t for n, t in model.state_dict().items() if not n.startswith("head.")}
    assert len(body) == len(state) - 2
    assert all(torch.equal(t, state[n]) for n, t in body.items())


WRAPPED = {
    "plain.safetensors": lambda state: state,
    "plain.pth": lambda state: state,
    "plain.pt": lambda state: state,
    "timm.pth.tar": lambda state: {"state_dict": state, "epoch": 3, "arch": "vit"},
    "ema.pth": lambda state: {
        "state_dict_ema": state,
        "state_dict": {n: t + 1 for n, t in state.items()},
    },
    "distributed.bin": lambda state: {"model": {f"module.{n}": t for n, t in state.items()}},
    "headless.safetensors": lambda state: {
        n: t for n, t in state.items() if not n.startswith("head.")
    },
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_body_is_the_checkpoints_and_the_head_is_fresh(task, tmp_path, trained, name):
    model = create(task, write(tmp_path / name, WRAPPED[name](trained)))
    assert_body(model, trained)
    fresh = create_model(settings(), 3, seed=0)
    assert torch.equal(model.head.weight, fresh.head.weight)
    assert set(model.pretrained_cfg) == set(fresh.pretrained_cfg)  # which carries no weights


def test_an_original_npz_goes_through_timms_loader(task, tmp_path, trained):
    path = tmp_path / "original.npz"
    np.savez(path, **original(trained, heads=2))
    model = create(task, path)
    assert_body(model, trained)
    assert torch.equal(model.head.weight, create_model(settings(), 3, seed=0).head.weight)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_the_head_is_fresh_even_where_the_numbers_of_classes_agree(task, tmp_path, suffix):
    state = create_model(settings(), 3, seed=5).state_dict()
    path = tmp_path / f"three{suffix}"
    np.savez(path, **original(state, heads=2)) if suffix == ".npz" else write(path, state)
    model = create(task, path)
    assert_body(model, state)
    assert torch.equal(model.head.weight, create_model(settings(), 3, seed=0).head.weight)
    assert not torch.equal(model.head.weight, create(task, path, seed=1).head.weight)


def test_a_distilled_model_gets_two_fresh_heads(task, tmp_path):
    chosen = {"model": "deit_tiny_distilled_patch16_224"}
    state = create_model(settings(**chosen), 7, seed=5).state_dict()
    model = create(task, write(tmp_path / "d.safetensors", state), **chosen)
    assert model.head.weight.shape == model.head_dist.weight.shape == (3, 16)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])


def test_position_embeddings_are_resized_as_timm_does(task, tmp_path, trained):
    path = write(tmp_path / "small.safetensors", trained)
    model = create(task, path, kwargs={**VIT, "img_size": 16})
    assert model.pos_embed.shape == (1, 17, 16)
    assert torch.equal(model.pos_embed[:, 0], trained["pos_embed"][:, 0])
    assert torch.equal(model.norm.weight, trained["norm.weight"])


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({**VIT, "depth": 3}, r'Missing key.*"blocks\.2\.norm1\.weight"'),
        ({**VIT, "depth": 1}, r'Unexpected key.*"blocks\.1\.'),
        ({**VIT, "embed_dim": 32}, r"size mismatch for cls_token.* \[?.*more"),
    ],
)
def test_tensors_that_are_not_the_models_are_named_in_one_line(
    task, tmp_path, trained, kwargs, told
):
    path = write(tmp_path / "other.safetensors", trained)
    with pytest.raises(TaskError, match=told) as caught:
        create(task, path, kwargs=kwargs)
    assert "\n" not in str(caught.value)
    assert "other.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        ({**VIT, "depth": 3}, "it has 2 blocks, the model 3"),
        ({**VIT, "depth": 1}, "it has 2 blocks, the model 1"),
        ({**VIT, "embed_dim": 32}, "size"),
    ],
)
def test_an_npz_of_another_model_is_refused(task, tmp_path, trained, kwargs, told):
    np.savez(tmp_path / "original.npz", **original(trained, heads=2))
    with pytest.raises(TaskError, match=f"original .npz of this VisionTransformer.*{told}"):
        create(task, tmp_path / "original.npz", kwargs=kwargs)


class Evil:
    """Says so if somebody unpickles it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def _cut(path, state):
    data = write(path, state).read_bytes()
    path.write_bytes(data[: len(data) // 2])


BROKEN = {
    "cut.safetensors": (_cut, "altered or cut short"),
    "cut.pth": (_cut, "altered or cut short"),
    "text.npz": (lambda path, _: path.write_text("weights"), "altered or cut short"),
    "others.npz": (lambda path, _: np.savez(path, a=np.zeros(2)), "original .npz"),
    "torch.safetensors": (lambda path, state: torch.save(state, path), "end in .pth"),
    "pickle.safetensors": (lambda path, _: path.write_bytes(pickle.dumps(Evil())), "is a pickle"),
    "evil.pth": (lambda path, _: torch.save({"a": Evil()}, path), "asks to run code"),
    "old.pth": (
        lambda path, _: torch.save({"a": Evil()}, path, _use_new_zipfile_serialization=False),
        "asks to run code",
    ),
    "list.pth": (lambda path, _: torch.save([1, 2], path), "tensors alone"),
    "numbers.pth": (lambda path, _: torch.save({"a": 1}, path), "other things"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_are_no_checkpoint_are_refused_and_run_nothing(task, tmp_path, trained, name):
    make, told = BROKEN[name]
    make(tmp_path / name, trained)
    with pytest.raises(TaskError, match=told) as caught:
        create(task, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert repr(str(tmp_path / name)) in str(caught.value)


def test_an_npz_for_a_model_without_loader_is_refused(task, tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    with pytest.raises(TaskError, match=r"ConvNeXt has not; convert"):
        create(task, tmp_path / "a.npz", model="test_convnext", kwargs={})


def test_the_digest_tells_another_file_and_names_a_missing_one(task, tmp_path, trained):
    path = write(tmp_path / "a.safetensors", trained)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    chosen = settings(checkpoint=str(path)).pinned()
    assert chosen.sha256 == digest
    assert chosen.pinned() is chosen
    create(task, path, sha256=digest)
    write(path, {name: t + 1 for name, t in trained.items()})
    with pytest.raises(TaskError, match=f"sha256 {digest}, .*it is another one"):
        create(task, path, sha256=digest)
    path.unlink()
    with pytest.raises(TaskError, match=f"'{path}' with sha256 {digest} is wanted and not here"):
        create(task, path, sha256=digest)
    with pytest.raises(TaskError, match="No such file"):
        settings(checkpoint=str(path)).pinned()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"checkpoint": "a.safetensors", "pretrained": True}, "exclude each other"),
        ({"checkpoint": "a.onnx"}, r"end in one of .*\.safetensors"),
        ({"sha256": "0" * 64}, "checkpoint, which is missing"),
        ({"checkpoint": "a.pth", "sha256": "abc"}, "pattern"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        settings(**wrong)
