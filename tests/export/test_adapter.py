"""Adapters as files and on their backbones."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glora_automl import load_adapter, load_adapters, read_adapter, save_adapter
from glora_automl._files import file_digest
from glora_automl.adapters import adapted_layers, detach
from glora_automl.architecture import Architecture
from glora_automl.errors import ExportError, StorageError
from glora_automl.export import backbone_digest
from tests.export.adapters import adapter, shapes_of
from tests.models import MODELS, backbone, images, random_architecture
from tests.refusals import altered, damaged, refusal


@torch.no_grad()
def logits(model):
    return model(images())


@pytest.fixture
def saved(tmp_path):
    """Folder and logits of a ViT adapter."""
    original, supernet = adapter("vit", random_architecture(shapes_of("vit"), 0))
    return save_adapter(tmp_path / "saved", original), logits(supernet.model)


@pytest.mark.parametrize("name", sorted(MODELS))
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 1000))
def test_read_adapter_of_any_model_returns_equal_tensors(tmp_path_factory, name, seed):
    architecture = random_architecture(shapes_of(name), seed)
    original, supernet = adapter(name, architecture, seed)
    path = save_adapter(tmp_path_factory.mktemp("adapter") / "a", original)
    found = read_adapter(path)
    assert found.architecture == architecture
    assert found.classes == original.classes
    assert found.record.n_params == architecture.count(shapes_of(name))
    loaded = load_adapter(backbone(name), path)
    assert torch.equal(logits(loaded), logits(supernet.model))
    merged = load_adapter(backbone(name), path, merge=True)
    assert not adapted_layers(merged)
    torch.testing.assert_close(logits(merged), logits(supernet.model), rtol=1e-4, atol=1e-4)


def test_save_adapter_writes_active_tensors_and_head_only(saved):
    path, _ = saved
    assert sorted(file.name for file in path.iterdir()) == ["adapter.safetensors", "glora.json"]
    found = read_adapter(path)
    head = sum(t.numel() for name, t in found.tensors.items() if name.startswith("head."))
    assert sum(t.numel() for t in found.tensors.values()) == found.record.n_params + head


def test_load_adapter_with_other_head_replaces_it(saved):
    path, expected = saved
    model = backbone("vit")
    model.reset_classifier(7)
    assert torch.equal(logits(load_adapter(model, path)), expected)
    model = backbone("vit")
    model.reset_classifier(0)
    assert torch.equal(logits(load_adapter(model, path)), expected)


def test_load_adapter_unmerged_is_trainable_and_detachable(saved):
    path, _ = saved
    model = load_adapter(backbone("vit"), path)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(read_adapter(path).tensors)
    before = backbone_digest(model)
    assert before == backbone_digest(backbone("vit")) == backbone_digest(detach(model))


def test_load_adapters_share_the_backbone(tmp_path):
    shapes = shapes_of("vit")
    paths, expected = {}, {}
    for seed, name in enumerate(("pets", "flowers")):
        original, supernet = adapter("vit", random_architecture(shapes, seed), seed)
        paths[name] = save_adapter(tmp_path / name, original)
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


def test_load_adapter_on_another_backbone_raises(saved):
    path, _ = saved
    expected = read_adapter(path).record.backbone.digest
    for other in (backbone("vit").double(), backbone("swin"), backbone("vit-no-qkv-bias")):
        with pytest.raises(ExportError, match=rf"digest {expected[:16]}.*, got [0-9a-f]"):
            load_adapter(other, path)
        assert not adapted_layers(other)
    model = load_adapter(backbone("vit"), path)
    with pytest.raises(ExportError, match="must be without an adapter"):
        load_adapter(model, path)


def test_load_adapter_with_altered_file_raises(saved):
    path, _ = saved
    weights = path / "adapter.safetensors"
    whole = weights.read_bytes()
    for data in (whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"\x80\x04K\x01."):
        weights.write_bytes(data)
        with pytest.raises(ExportError, match=r"must have sha256 .* altered or cut short"):
            load_adapter(backbone("vit"), path)
    weights.unlink()
    with pytest.raises(ExportError, match="must be readable, got: No such file"):
        read_adapter(path)


def test_read_adapter_with_pickle_raises(saved, tmp_path):
    path, _ = saved
    torch.save({"head.weight": torch.zeros(3, 32)}, path / "adapter.safetensors")
    record = json.loads((path / "glora.json").read_text(encoding="utf-8"))
    record["files"]["adapter.safetensors"] = file_digest(path / "adapter.safetensors")
    (path / "glora.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ExportError, match="must be safetensors"):
        read_adapter(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "must be at most 1, got 2"),
        ({"kind": "onnx"}, "must be of kind adapter, got 'onnx'"),
        ({"files": {}}, "must hold the sha256 of 'adapter.safetensors', got none"),
        ({"files": {"../a": "0" * 64}}, "must name files of its own folder"),
        ({"classes": []}, "classes"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"architecture": "blocks.0.attn.qkv: B=lora-2"}, "must match its record"),
    ],
)
def test_load_adapter_with_invalid_record_raises(saved, change, words):
    path, _ = saved
    table = json.loads((path / "glora.json").read_text(encoding="utf-8"))
    (path / "glora.json").write_text(json.dumps({**table, **change}), encoding="utf-8")
    with pytest.raises(ExportError, match=words) as fault:
        load_adapter(backbone("vit"), path)
    assert "\n" not in str(fault.value)


def test_read_adapter_of_other_folder_raises(tmp_path):
    with pytest.raises(ExportError, match=r"must be a folder with 'glora\.json'"):
        read_adapter(tmp_path)
    (tmp_path / "glora.json").write_text("{", encoding="utf-8")
    with pytest.raises(ExportError, match="must be JSON"):
        read_adapter(tmp_path)


def test_save_adapter_with_force_replaces_exports_only(saved, tmp_path):
    path, _ = saved
    other, _ = adapter("vit", Architecture.uniform(shapes_of("vit"), E="vector"))
    with pytest.raises(ExportError, match="`path` must be a new folder"):
        save_adapter(path, other)
    save_adapter(path, other, force=True)
    assert read_adapter(path).architecture == other.architecture
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/main.tex").touch()
    with pytest.raises(ExportError, match="or an export with `force`, got"):
        save_adapter(tmp_path / "thesis", other, force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["saved", "thesis"]


def test_save_adapter_that_fails_leaves_no_files(saved, tmp_path, monkeypatch):
    path, expected = saved
    other, _ = adapter("vit", Architecture.uniform(shapes_of("vit"), E="vector"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glora_automl.export._adapter.write_record", full)
    with pytest.raises(StorageError, match=r"No space left on device\. Free disk space"):
        save_adapter(path, other, force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["saved"]
    assert torch.equal(logits(load_adapter(backbone("vit"), path)), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["ant", "bee"]}, "one output for each of its 2 classes, got 3"),
        ({"classes": ["ant", "bee", "cicada", "dog"]}, "one output for each of its 4 classes"),
        ({"n_params": 1}, "its record has 1 parameters, not"),
        ({"architecture": "blocks.0: B"}, "architecture"),
        ({"backbone": {"kwargs": {"checkpoint_path": "a.pth"}}}, "only arguments that shape"),
        ({"preprocessing": {"size": [3, 10**6, 8]}}, "preprocessing"),
        ({"preprocessing": {"std": [0.0]}}, "preprocessing"),
        ({"preprocessing": {"mean": [float("nan")]}}, "preprocessing"),
    ],
    ids=str,
)
def test_load_adapter_record_of_another_model_raises_one_line(saved, change, words):
    folder, _ = saved
    path = folder / "glora.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for key, value in change.items():
        record[key] = {**record[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(record), encoding="utf-8")
    model = backbone("vit")
    before = model.state_dict().keys()
    with pytest.raises(ExportError, match=words) as caught:
        load_adapter(model, folder)
    assert len(str(caught.value)) <= 300
    assert model.state_dict().keys() == before


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_load_adapter_any_altered_record_is_read_or_refused_in_one_line(saved, data):
    path, _ = saved
    text = (path / "glora.json").read_text(encoding="utf-8")
    document = altered(json.loads(text)).map(json.dumps)
    changed = data.draw(document | damaged(text))
    (path / "glora.json").write_text(changed, encoding="utf-8", errors="surrogatepass")
    try:
        refusal(load_adapter, backbone("vit"), path)
    finally:
        (path / "glora.json").write_text(text, encoding="utf-8")
