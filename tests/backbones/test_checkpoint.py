import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from glora_automl.backbones import BackboneSettings, create_backbone, create_model
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
    """Weights of a model of seven classes, all different from initial values."""
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
    """Return a ViT's weights in the format of the original JAX code."""
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
        block, original_block = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        attention = f"{original_block}/MultiHeadDotProductAttention_1"
        for k, name in enumerate(("query", "key", "value")):
            weight = state[f"{block}.attn.qkv.weight"].chunk(3)[k].T
            bias = state[f"{block}.attn.qkv.bias"].chunk(3)[k]
            arrays[f"{attention}/{name}/kernel"] = weight.reshape(width, heads, -1)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(heads, -1)
        out = state[f"{block}.attn.proj.weight"].T
        arrays[f"{attention}/out/kernel"] = out.reshape(heads, -1, width)
        arrays[f"{attention}/out/bias"] = state[f"{block}.attn.proj.bias"]
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{original_block}/{name}/scale"] = state[f"{block}.{norm}.weight"]
            arrays[f"{original_block}/{name}/bias"] = state[f"{block}.{norm}.bias"]
        for r in range(2):
            dense = f"{original_block}/MlpBlock_3/Dense_{r}"
            arrays[f"{dense}/kernel"] = state[f"{block}.mlp.fc{r + 1}.weight"].T
            arrays[f"{dense}/bias"] = state[f"{block}.mlp.fc{r + 1}.bias"]
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
def test_create_backbone_checkpoint_gives_the_weights_except_the_head(
    task, tmp_path, trained, name
):
    model = create(task, write(tmp_path / name, WRAPPED[name](trained)))
    assert_body(model, trained)
    fresh = create_model(settings(), 3, seed=0)
    assert torch.equal(model.head.weight, fresh.head.weight)
    assert set(model.pretrained_cfg) == set(fresh.pretrained_cfg)  # without weights


def test_create_backbone_original_npz_gives_the_weights_except_the_head(task, tmp_path, trained):
    path = tmp_path / "original.npz"
    np.savez(path, **original(trained, heads=2))
    model = create(task, path)
    assert_body(model, trained)
    assert torch.equal(model.head.weight, create_model(settings(), 3, seed=0).head.weight)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_create_backbone_equal_number_of_classes_resets_the_head(task, tmp_path, suffix):
    state = create_model(settings(), 3, seed=5).state_dict()
    path = tmp_path / f"three{suffix}"
    np.savez(path, **original(state, heads=2)) if suffix == ".npz" else write(path, state)
    model = create(task, path)
    assert_body(model, state)
    assert torch.equal(model.head.weight, create_model(settings(), 3, seed=0).head.weight)
    assert not torch.equal(model.head.weight, create(task, path, seed=1).head.weight)


def test_create_backbone_distilled_model_resets_both_heads(task, tmp_path):
    chosen = {"model": "deit_tiny_distilled_patch16_224"}
    state = create_model(settings(**chosen), 7, seed=5).state_dict()
    model = create(task, write(tmp_path / "d.safetensors", state), **chosen)
    assert model.head.weight.shape == model.head_dist.weight.shape == (3, 16)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])


def test_create_backbone_other_img_size_resizes_position_embeddings(task, tmp_path, trained):
    path = write(tmp_path / "small.safetensors", trained)
    model = create(task, path, kwargs={**VIT, "img_size": 16})
    assert model.pos_embed.shape == (1, 17, 16)
    assert torch.equal(model.pos_embed[:, 0], trained["pos_embed"][:, 0])
    assert torch.equal(model.norm.weight, trained["norm.weight"])


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({**VIT, "depth": 3}, r'Missing key.*"blocks\.2\.norm1\.weight"'),
        ({**VIT, "depth": 1}, r'Unexpected key.*"blocks\.1\.'),
        ({**VIT, "embed_dim": 32}, r"size mismatch for cls_token.* \[?.*more"),
    ],
)
def test_create_backbone_checkpoint_of_another_model_raises_one_line(
    task, tmp_path, trained, kwargs, reason
):
    path = write(tmp_path / "other.safetensors", trained)
    with pytest.raises(TaskError, match=reason) as caught:
        create(task, path, kwargs=kwargs)
    assert "\n" not in str(caught.value)
    assert "other.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        ({**VIT, "depth": 3}, "it has 2 blocks, the model 3"),
        ({**VIT, "depth": 1}, "it has 2 blocks, the model 1"),
        ({**VIT, "embed_dim": 32}, "size"),
    ],
)
def test_create_backbone_npz_of_another_model_raises(task, tmp_path, trained, kwargs, reason):
    np.savez(tmp_path / "original.npz", **original(trained, heads=2))
    with pytest.raises(TaskError, match=f"original .npz of VisionTransformer.*{reason}"):
        create(task, tmp_path / "original.npz", kwargs=kwargs)


class Malicious:
    """Object that raises an error when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def _cut(path, state):
    data = write(path, state).read_bytes()
    path.write_bytes(data[: len(data) // 2])


BAD_FILES = {
    "cut.safetensors": (_cut, "altered or truncated"),
    "cut.pth": (_cut, "altered or truncated"),
    "text.npz": (lambda path, _: path.write_text("weights"), "altered or truncated"),
    "others.npz": (lambda path, _: np.savez(path, a=np.zeros(2)), "original .npz"),
    "torch.safetensors": (lambda path, state: torch.save(state, path), "end in .pth"),
    "pickle.safetensors": (
        lambda path, _: path.write_bytes(pickle.dumps(Malicious())),
        "is a pickle",
    ),
    "evil.pth": (lambda path, _: torch.save({"a": Malicious()}, path), "executes code"),
    "old.pth": (
        lambda path, _: torch.save({"a": Malicious()}, path, _use_new_zipfile_serialization=False),
        "executes code",
    ),
    "list.pth": (lambda path, _: torch.save([1, 2], path), "only tensors"),
    "numbers.pth": (lambda path, _: torch.save({"a": 1}, path), "other objects"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_create_backbone_broken_or_unsafe_file_raises_and_executes_nothing(
    task, tmp_path, trained, name
):
    make, reason = BAD_FILES[name]
    make(tmp_path / name, trained)
    with pytest.raises(TaskError, match=reason) as caught:
        create(task, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert f"{name}'" in str(caught.value)


def test_create_backbone_npz_for_a_model_without_load_pretrained_raises(task, tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(2))
    with pytest.raises(TaskError, match=r"without load_pretrained, got .* for ConvNeXt\. Convert"):
        create(task, tmp_path / "a.npz", model="test_convnext", kwargs={})


def test_create_backbone_other_or_missing_file_raises_the_digest(task, tmp_path, trained):
    path = write(tmp_path / "a.safetensors", trained)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    chosen = settings(checkpoint=str(path)).pinned()
    assert chosen.sha256 == digest
    assert chosen.pinned() is chosen
    create(task, path, sha256=digest)
    write(path, {name: t + 1 for name, t in trained.items()})
    with pytest.raises(TaskError, match=f"sha256 {digest}, got .* with [0-9a-f]{{64}}\\. Restore"):
        create(task, path, sha256=digest)
    path.unlink()
    with pytest.raises(TaskError, match=f"sha256 {digest}, got no file at '{path}'"):
        create(task, path, sha256=digest)
    with pytest.raises(TaskError, match="No such file"):
        settings(checkpoint=str(path)).pinned()
