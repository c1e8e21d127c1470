"""An adapter as files, and onto its backbone again."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl import load_adapter, load_adapters, read_adapter, save_adapter
from glora_automl.adapters import adapted_layers, detach
from glora_automl.architecture import Architecture
from glora_automl.errors import ExportError, StorageError
from glora_automl.export import backbone_digest
from tests.export.adapters import adapter, shapes_of
from tests.models import MODELS, backbone, images, random_architecture


@torch.no_grad()
def logits(model):
    return model(images())


@pytest.fixture
def kept(tmp_path):
    """An adapter of a ViT in a folder, and its logits."""
    taken, supernet = adapter("vit", random_architecture(shapes_of("vit"), 0))
    return save_adapter(tmp_path / "kept", taken), logits(supernet.model)


@pytest.mark.parametrize("name", sorted(MODELS))
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 1000))
def test_any_adapter_comes_back_bit_for_bit(tmp_path_factory, name, seed):
    architecture = random_architecture(shapes_of(name), seed)
    taken, supernet = adapter(name, architecture, seed)
    path = save_adapter(tmp_path_factory.mktemp("adapter") / "a", taken)
    again = read_adapter(path)
    assert again.architecture == architecture
    assert again.classes == taken.classes
    assert again.record.n_params == architecture.count(shapes_of(name))
    loaded = load_adapter(backbone(name), path)
    assert torch.equal(logits(loaded), logits(supernet.model))
    merged = load_adapter(backbone(name), path, merge=True)
    assert not adapted_layers(merged)
    torch.testing.assert_close(logits(merged), logits(supernet.model), rtol=1e-4, atol=1e-4)


def test_it_holds_the_active_tensors_and_the_head_alone(kept):
    path, _ = kept
    assert sorted(file.name for file in path.iterdir()) == ["adapter.safetensors", "glora.json"]
    taken = read_adapter(path)
    head = sum(t.numel() for name, t in taken.tensors.items() if name.startswith("head."))
    assert sum(t.numel() for t in taken.tensors.values()) == taken.record.n_params + head


def test_a_head_of_another_size_is_replaced(kept):
    path, expected = kept
    model = backbone("vit")
    model.reset_classifier(7)
    assert torch.equal(logits(load_adapter(model, path)), expected)
    model = backbone("vit")
    model.reset_classifier(0)
    assert torch.equal(logits(load_adapter(model, path)), expected)


def test_adapter_and_head_can_be_trained_on_and_taken_off(kept):
    path, _ = kept
    model = load_adapter(backbone("vit"), path)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(read_adapter(path).tensors)
    before = backbone_digest(model)
    assert before == backbone_digest(backbone("vit")) == backbone_digest(detach(model))


def test_several_adapters_share_one_backbone(tmp_path):
    shapes = shapes_of("vit")
    paths, expected = {}, {}
    for seed, name in enumerate(("pets", "flowers")):
        taken, supernet = adapter("vit", random_architecture(shapes, seed), seed)
        paths[name] = save_adapter(tmp_path / name, taken)
        expected[name] = logits(supernet.model)
    model = backbone("vit")
    own = logits(model)
    for merge in (False, True):
        models = load_adapters(model, paths, merge=merge)
        for name in ("pets", "flowers", "pets"):
            torch.testing.assert_close(logits(models[name]), expected[name], rtol=1e-4, atol=1e-4)
        assert models["pets"].pos_embed is models["flowers"].pos_embed is model.pos_embed
    assert torch.equal(logits(model), own)
    assert not adapted_layers(model)


def test_another_backbone_is_refused_with_its_digest(kept):
    path, _ = kept
    expected = read_adapter(path).record.backbone.digest
    for other in (backbone("vit").double(), backbone("swin"), backbone("vit-no-qkv-bias")):
        with pytest.raises(
            ExportError, match=rf"digest {expected[:16]}.*, this model has [0-9a-f]"
        ):
            load_adapter(other, path)
        assert not adapted_layers(other)
    model = load_adapter(backbone("vit"), path)
    with pytest.raises(ExportError, match="must not be adapted"):
        load_adapter(model, path)


def test_altered_files_are_refused(kept):
    path, _ = kept
    weights = path / "adapter.safetensors"
    whole = weights.read_bytes()
    for data in (whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"\x80\x04K\x01."):
        weights.write_bytes(data)
        with pytest.raises(ExportError, match=r"must have sha256 .* altered or cut short"):
            load_adapter(backbone("vit"), path)
    weights.unlink()
    with pytest.raises(ExportError, match="No such file"):
        read_adapter(path)


def test_a_pickle_is_never_loaded(kept, tmp_path):
    from glora_automl.export._record import file_digest

    path, _ = kept
    torch.save({"head.weight": torch.zeros(3, 32)}, path / "adapter.safetensors")
    record = json.loads((path / "glora.json").read_text(encoding="utf-8"))
    record["files"]["adapter.safetensors"] = file_digest(path / "adapter.safetensors")
    (path / "glora.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExportError, match="must be safetensors"):
        read_adapter(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "has format 2, this version reads up to 1"),
        ({"kind": "onnx"}, "must be of kind adapter, got 'onnx'"),
        ({"files": {}}, "must name its 'adapter.safetensors'"),
        ({"files": {"../a": "0" * 64}}, "must name files beside it"),
        ({"classes": []}, "classes"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"architecture": "blocks.0.attn.qkv: B=lora-2"}, "does not fit its own record"),
    ],
)
def test_a_record_that_is_none_is_refused(kept, change, words):
    path, _ = kept
    table = json.loads((path / "glora.json").read_text(encoding="utf-8"))
    (path / "glora.json").write_text(json.dumps({**table, **change}), encoding="utf-8")
    with pytest.raises(ExportError, match=words) as fault:
        load_adapter(backbone("vit"), path)
    assert "\n" not in str(fault.value)


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"must be a folder with 'glora\.json'"):
        read_adapter(tmp_path)
    (tmp_path / "glora.json").write_text("{", encoding="utf-8")
    with pytest.raises(ExportError, match="must be JSON"):
        read_adapter(tmp_path)


def test_what_is_there_is_kept_unless_it_is_an_export_to_be_replaced(kept, tmp_path):
    path, _ = kept
    other, _ = adapter("vit", Architecture.uniform(shapes_of("vit"), E="vector"))
    with pytest.raises(ExportError, match="must not be there yet"):
        save_adapter(path, other)
    save_adapter(path, other, force=True)
    assert read_adapter(path).architecture == other.architecture
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(ExportError, match="all that --force replaces"):
        save_adapter(tmp_path / "mine", other, force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept", "mine"]


def test_nothing_is_left_of_what_goes_wrong(kept, tmp_path, monkeypatch):
    path, expected = kept
    other, _ = adapter("vit", Architecture.uniform(shapes_of("vit"), E="vector"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glora_automl.export._adapter.write_record", full)
    with pytest.raises(StorageError, match="No space left on device; make room"):
        save_adapter(path, other, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert torch.equal(logits(load_adapter(backbone("vit"), path)), expected)
