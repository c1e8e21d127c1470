"""The merged formats: what they carry, and what they refuse."""

import json

import pytest
import timm
import torch

from glora_automl.adapters import merge
from glora_automl.architecture import Architecture
from glora_automl.errors import ExportError
from glora_automl.export import Adapter, Backbone, Preprocessing
from glora_automl.export._onnx import load_onnx, write_onnx
from glora_automl.export._record import write_record
from glora_automl.export._timm import check_timm, load_timm, write_timm
from tests.export.adapters import CLASSES, adapter, seen, settings, shapes_of
from tests.models import MODELS, backbone, images, random_architecture


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"vit-no-qkv-bias"}))
def test_timm_loads_any_model(tmp_path, name):
    shapes = shapes_of(name)
    given_none = {n: s._replace(takes_bias=s.takes_bias and s.bias) for n, s in shapes.items()}
    architecture = random_architecture(given_none, 1)
    taken, supernet = adapter(name, architecture)
    check_timm(backbone(name), architecture)
    with torch.no_grad():
        expected = supernet.model(images())
        with merge(supernet.model) as model:
            write_record(tmp_path, taken.record, write_timm(tmp_path, model, taken.record))
        found = load_timm(tmp_path, taken.record)
        torch.testing.assert_close(found(images()), expected, rtol=1e-4, atol=1e-4)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == timm.models.split_model_name_tag(MODELS[name][0])[0]
    assert config["label_names"] == list(CLASSES)
    # The weights are not those that timm's configuration is of.
    assert not {"license", "tag", "hf_hub_id", "url"} & config["pretrained_cfg"].keys()


@pytest.mark.parametrize("choices", [{"C": "vector"}, {"E": "scalar"}])
def test_a_bias_that_the_model_has_not_is_refused(choices):
    architecture = Architecture.uniform(shapes_of("vit-no-qkv-bias"), **choices)
    with pytest.raises(ExportError, match=r"gives one to 'blocks\.0\.attn\.qkv' and 1 more"):
        check_timm(backbone("vit-no-qkv-bias"), architecture)


@pytest.mark.parametrize("resize", ["squash", "center", "border"])
def test_timm_prepares_images_as_the_study_did(tmp_path, resize):
    _, supernet = adapter("vit", Architecture.uniform(shapes_of("vit"), E="vector"))
    target = seen("vit")._replace(
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bilinear", crop_pct=0.8
    )
    taken = Adapter.of(
        supernet,
        Backbone.of(settings("vit"), supernet.model),
        CLASSES,
        Preprocessing.of(target, resize),
    )
    with merge(supernet.model) as model:
        write_timm(tmp_path, model, taken.record)
    config = timm.data.resolve_model_data_config(load_timm(tmp_path, taken.record))
    assert config["crop_mode"] == resize
    assert config["crop_pct"] == (0.8 if resize == "center" else 1.0)
    assert tuple(config["mean"]) == target.mean


def test_an_onnx_graph_takes_any_number_of_images(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    # C and E give qkv a bias, which a graph can carry.
    taken, supernet = adapter(
        "vit-no-qkv-bias", random_architecture(shapes_of("vit-no-qkv-bias"), 2)
    )
    with merge(supernet.model) as model, torch.no_grad():
        write_onnx(tmp_path, model, taken.record)
        logits = load_onnx(tmp_path)
        for count in (1, 2, 7):
            x = torch.randn(count, 3, 32, 32)
            torch.testing.assert_close(logits(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_model_that_torch_cannot_export_is_told_in_one_line(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    taken, supernet = adapter("vit", Architecture.uniform(shapes_of("vit"), E="vector"))

    def fail(*_, **__):
        raise RuntimeError("no translation for aten::thing\nand 90 lines more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match=r"cannot export .* \(no translation") as fault:
        write_onnx(tmp_path, supernet.model, taken.record)
    assert "\n" not in str(fault.value)


def test_what_is_no_graph_is_told(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match="ONNX Runtime cannot load"):
        load_onnx(tmp_path)
