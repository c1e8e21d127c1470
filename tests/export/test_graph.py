"""Graphs with preprocessing and softmax inside."""

import numpy as np
import pytest
import torch
from PIL import Image

from glora_automl import export_model, predict
from glora_automl.errors import ExportError
from glora_automl.export._graph import check_pixels
from glora_automl.export._record import read_record
from glora_automl.pipeline import Workspace


@pytest.fixture(scope="module")
def graphs(runs):
    return {
        kind: export_model(
            "tiny", kind, runs / f"pixels-{kind}", preprocess=True, workspace=Workspace(runs=runs)
        )
        for kind in ("onnx", "pt2")
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures of one size, and their pixels ``(2, 3, height, width)``."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (2, 31, 22, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder, pixels.transpose(0, 3, 1, 2)


def test_graph_of_pixels_in_onnx_runtime_is_the_study_from_file_to_probability(
    graphs, exports, pictures
):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    folder, pixels = pictures
    expected = predict(exports["timm"].path, folder, top=3)
    session = runtime.InferenceSession(str(graphs["onnx"].path / "model.onnx"))
    (found,) = session.run(None, {"images": pixels})
    order = torch.from_numpy(found).sort(1, descending=True)
    assert torch.equal(order.indices, expected.classes)
    # Pillow resizes in fixed point, so pixels differ by at most one step of 255.
    torch.testing.assert_close(order.values, expected.probabilities, rtol=0, atol=0.02)
    (one,) = session.run(None, {"images": pixels[:1]})
    np.testing.assert_allclose(one, found[:1], atol=1e-6)


def test_graph_of_pixels_in_torch_is_that_of_onnx(graphs, pictures):
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    _, pixels = pictures
    program = torch.export.load(graphs["pt2"].path / "model.pt2").module()
    session = runtime.InferenceSession(str(graphs["onnx"].path / "model.onnx"))
    for images in (pixels, np.ascontiguousarray(pixels[:1, :, :9, :17])):
        (expected,) = session.run(None, {"images": images})
        found = program(torch.from_numpy(images))
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)


def test_predict_with_a_graph_of_pixels_is_that_of_the_model(graphs, exports, photos):
    found = predict(graphs["onnx"].path, photos, top=3)
    expected = predict(exports["timm"].path, photos, top=3)
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=1e-4, atol=1e-5)
    assert all(read_record(graph.path).input == "pixels" for graph in graphs.values())


def test_export_model_with_preprocess_for_another_format_raises(runs, tmp_path):
    with pytest.raises(
        ExportError, match="`preprocess` must come with `to` 'onnx' or 'pt2', got 'timm'"
    ):
        export_model(
            "tiny", "timm", tmp_path / "x", preprocess=True, workspace=Workspace(runs=runs)
        )


@pytest.mark.parametrize(
    "change", [{"crop_mode": "center"}, {"interpolation": "lanczos"}, {"value_range": (0, 4095)}]
)
def test_check_pixels_of_what_a_graph_cannot_do_raises(exports, change):
    preprocessing = exports["timm"].record.preprocessing
    check_pixels(preprocessing)
    with pytest.raises(ExportError, match="`preprocess` must be left out for"):
        check_pixels(preprocessing.model_copy(update=change))
