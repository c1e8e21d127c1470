"""Export as timm model and ONNX graph."""

import json

import pytest
import safetensors
import timm
import torch
from transformers import AutoModelForImageClassification

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.errors import ExportError
from glora_automl.export import Adapter, Backbone, Preprocessing
from glora_automl.export._onnx import load_onnx, write_onnx
from glora_automl.export._record import write_record
from glora_automl.export._timm import check_timm, load_timm, write_timm
from tests.export.adapters import CLASSES, adapter, format_of, settings, shapes_of
from tests.models import MODELS, backbone, images, random_architecture


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"vit-no-qkv-bias"}))
def test_load_timm_of_any_model_returns_equal_logits(tmp_path, name):
    shapes = shapes_of(name)
    expressible = {n: s._replace(takes_bias=s.takes_bias and s.bias) for n, s in shapes.items()}
    architecture = random_architecture(expressible, 1)
    original, supernet = adapter(name, architecture)
    check_timm(backbone(name), architecture)
    with torch.no_grad():
        expected = supernet.model(images())
        with merge(supernet.model) as model:
            write_record(tmp_path, original.record, write_timm(tmp_path, model, original.record))
        found = load_timm(tmp_path, original.record)
        torch.testing.assert_close(found(images()), expected, rtol=1e-4, atol=1e-4)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == timm.models.split_model_name_tag(MODELS[name][0])[0]
    assert config["label_names"] == list(CLASSES)
    assert config["id2label"] == {str(i): name for i, name in enumerate(CLASSES)}
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    wrapped = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert wrapped.config.label2id == {name: i for i, name in enumerate(CLASSES)}
    with torch.no_grad():
        torch.testing.assert_close(wrapped(images()).logits, expected, rtol=1e-4, atol=1e-4)
    # timm's configuration describes other weights.
    assert not {"license", "tag", "hf_hub_id", "url"} & config["pretrained_cfg"].keys()


@pytest.mark.parametrize("choices", [{"C": "vector"}, {"E": "scalar"}])
def test_check_timm_with_added_bias_raises(choices):
    architecture = Architecture.uniform(shapes_of("vit-no-qkv-bias"), **choices)
    with pytest.raises(ExportError, match=r"got one for 'blocks\.0\.attn\.qkv' and 1 more"):
        check_timm(backbone("vit-no-qkv-bias"), architecture)


@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
def test_write_timm_keeps_the_preprocessing(tmp_path, crop_mode):
    _, supernet = adapter("vit", Architecture.uniform(shapes_of("vit"), E="vector"))
    target = format_of("vit")._replace(
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear", crop_pct=0.8
    )
    original = Adapter.of(
        supernet,
        Backbone.of(settings("vit"), supernet.model),
        CLASSES,
        Preprocessing.of(target, crop_mode),
    )
    with merge(supernet.model) as model:
        write_timm(tmp_path, model, original.record)
    config = timm.data.resolve_model_data_config(load_timm(tmp_path, original.record))
    assert config["crop_mode"] == crop_mode
    assert config["crop_pct"] == (0.8 if crop_mode == "center" else 1.0)
    assert tuple(config["mean"]) == target.mean


def test_write_onnx_accepts_any_batch_size(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    # C and E add a bias to qkv, which a graph supports.
    original, supernet = adapter(
        "vit-no-qkv-bias", random_architecture(shapes_of("vit-no-qkv-bias"), 2)
    )
    with merge(supernet.model) as model, torch.no_grad():
        write_onnx(tmp_path, model, original.record)
        logits = load_onnx(tmp_path, original.record)
        for count in (1, 2, 7):
            x = torch.randn(count, 3, 32, 32)
            torch.testing.assert_close(logits(x), model(x), rtol=1e-4, atol=1e-4)


def test_write_onnx_that_fails_raises_one_line(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    original, supernet = adapter("vit", Architecture.uniform(shapes_of("vit"), E="vector"))

    def fail(*_, **__):
        raise RuntimeError("no translation for aten::thing\nand 90 lines more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"cannot export .* \(no translation") as fault:
        write_onnx(tmp_path, supernet.model, original.record)
    assert "\n" not in str(fault.value)


def test_load_onnx_of_other_file_raises(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    original, _ = adapter("vit", Architecture.uniform(shapes_of("vit"), E="vector"))
    with pytest.raises(ExportError, match="ONNX Runtime cannot load"):
        load_onnx(tmp_path, original.record)
