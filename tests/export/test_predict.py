"""Predictions of exports on image files."""

import json
import os
import shutil

import pytest
import safetensors.torch
import torch
from PIL import Image

from glora_automl import predict
from glora_automl.errors import ExportError, TaskError
from glora_automl.export._record import read_record, write_record

KINDS = ("timm", "adapter", "peft", "onnx")


def backbone_of(exports, kind):
    return {"backbone": str(exports["backbone"].path)} if kind in ("adapter", "peft") else {}


@pytest.mark.parametrize("kind", KINDS)
def test_predict_of_any_kind_returns_equal_probabilities(exports, photos, kind):
    found = predict(exports[kind].path, photos, top=3, **backbone_of(exports, kind))
    expected = predict(exports["timm"].path, photos, top=3)
    assert found.files == expected.files == tuple(sorted(map(str, photos.iterdir())))
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.classes, expected.classes)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(len(found.files)))


def test_predict_with_a_program_is_refused_before_its_file_is_read(exports, photos, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda path: pytest.fail("it was loaded"))
    with pytest.raises(ExportError, match="runs no code of its file, got the program"):
        predict(exports["pt2"].path, photos)


def test_predict_with_an_impossible_backbone_in_the_record_is_one_line(exports, photos, tmp_path):
    shutil.copytree(exports["adapter"].path, tmp_path / "copy")
    record = json.loads((tmp_path / "copy/glora.json").read_text())
    record["backbone"] |= {"model": "transformers:google/vit", "kwargs": {"img_size": 32}}
    (tmp_path / "copy/glora.json").write_text(json.dumps(record))
    shutil.rmtree(tmp_path / "copy/backbone", ignore_errors=True)
    with pytest.raises(ExportError, match="backbone") as caught:
        predict(tmp_path / "copy", photos)
    assert "\n" not in str(caught.value)


def test_predict_matches_the_transform_of_timm(exports, photos, timm_logits):
    found = predict(exports["timm"].path, photos, top=3)
    order = found.classes.argsort(1)
    probabilities = found.probabilities.gather(1, order)
    torch.testing.assert_close(probabilities, timm_logits.softmax(1), rtol=1e-4, atol=1e-5)


@pytest.fixture
def timm_logits(exports, photos):
    """Logits of the photos with the transform of timm."""
    import timm

    model = timm.create_model(f"local-dir:{exports['timm'].path}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config)
    files = sorted(photos.iterdir())
    with torch.no_grad():
        return model(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))


def test_predict_is_independent_of_batches_and_order(exports, photos):
    files = sorted(photos.iterdir(), reverse=True)
    batched = predict(exports["timm"].path, files, batch_size=5, num_workers=2)
    assert batched.files == tuple(map(str, files))
    whole = dict(predict(exports["timm"].path, photos).best())
    for file, ((name, p),) in batched.best():
        assert whole[file][0][0] == name
        assert whole[file][0][1] == pytest.approx(p, abs=1e-5)


def test_predict_with_unreadable_images_lists_them(exports, photos, tmp_path):
    image = Image.open(sorted(photos.iterdir())[0])
    image.resize((30, 50)).convert("RGBA").save(tmp_path / "large.png")
    image.convert("CMYK").save(tmp_path / "deep.tiff")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    found = predict(exports["timm"].path, tmp_path)
    assert [file.rpartition("/")[2] for file in found.files] == ["deep.tiff", "large.png"]
    assert {file.rpartition("/")[2] for file in found.unreadable} == {"broken.jpg", "empty.png"}
    document = found.to_json()
    assert document["unreadable"][str(tmp_path / "empty.png")] == "it is empty"
    assert document["images_per_second"] > 0
    assert set(document["images"][0]["classes"][0]) == {"class", "probability"}


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "`images` must be at least one file or folder, got none"),
        ("nowhere", "must be existing files or folders, got 'nowhere'"),
        ("empty", "must contain images"),
        ("bad.png", "got 1 unreadable: .*bad.png"),
    ],
)
def test_predict_without_images_raises(exports, tmp_path, monkeypatch, images, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ExportError, match=words):
        predict(exports["timm"].path, images)


def test_predict_of_an_adapter_finds_the_backbone_in_its_folder(exports, photos):
    for kind in ("adapter", "peft"):
        found, expected = (
            predict(exports[kind].path, photos, **more) for more in ({}, backbone_of(exports, kind))
        )
        assert torch.equal(found.probabilities, expected.probabilities)


def test_predict_with_wrong_backbone_raises(exports, photos, tmp_path):
    digest = exports["adapter"].record.backbone.digest[:16]
    for kind in ("adapter", "peft"):
        alone = tmp_path / kind
        shutil.copytree(exports[kind].path, alone, ignore=shutil.ignore_patterns("backbone"))
        with pytest.raises(ExportError, match=f"{digest}.* Set `backbone`"):
            predict(alone, photos)
        with pytest.raises(
            ExportError,
            match=f"must have the digest {digest}.*, img_size=8, .*load the study's weights",
        ):
            predict(
                exports[kind].path, photos, backbone=str(exports["timm"].path / "model.safetensors")
            )
    with pytest.raises(ExportError, match=r"must be a folder with 'glora\.json'"):
        predict(exports["adapter"].path, photos, backbone=str(tmp_path))
    (tmp_path / "weights.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(TaskError, match="it is a pickle"):
        predict(exports["peft"].path, photos, backbone=str(tmp_path / "weights.safetensors"))
    with pytest.raises(ExportError, match="which holds all weights"):
        predict(exports["onnx"].path, photos, backbone=str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_predict_with_altered_file_raises(exports, photos, tmp_path, kind):
    for name in exports[kind].record.files:
        folder = tmp_path / name
        shutil.copytree(exports[kind].path, folder)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ExportError, match="altered or cut short"):
            predict(folder, photos, **backbone_of(exports, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_predict_with_file_missing_in_record_raises(exports, photos, tmp_path, kind):
    folder = tmp_path / kind
    shutil.copytree(exports[kind].path, folder)
    table = json.loads((folder / "glora.json").read_text(encoding="utf-8"))
    (folder / "glora.json").write_text(json.dumps({**table, "files": {}}), encoding="utf-8")
    with pytest.raises(ExportError, match=r"must hold the sha256 of .*, got none"):
        predict(folder, photos, **backbone_of(exports, kind))


@pytest.mark.parametrize(
    ("kind", "words"), [("timm", "timm .* cannot"), ("peft", "PEFT .* cannot")]
)
@pytest.mark.parametrize("pickled", [True, False])
def test_predict_with_other_weights_raises_one_line(
    exports, photos, tmp_path, kind, words, pickled
):
    folder = tmp_path / kind
    shutil.copytree(exports[kind].path, folder)
    record = read_record(folder)
    weights = next(folder / name for name in record.files if name.endswith(".safetensors"))
    if pickled:
        torch.save({"a": torch.zeros(1)}, weights)
    else:  # of other shapes
        tensors = safetensors.torch.load_file(weights)
        safetensors.torch.save_file({n: torch.zeros(1) for n in tensors}, weights)
    write_record(folder, record, record.files)
    with pytest.raises(ExportError, match=words) as fault:
        predict(folder, photos, **backbone_of(exports, kind))
    assert "\n" not in str(fault.value)


def test_predict_with_invalid_argument_raises(exports, photos):
    with pytest.raises(ExportError, match="`top` must be from 1 to 1,000,000, got 0"):
        predict(exports["timm"].path, photos, top=0)
    with pytest.raises(ExportError, match=r"must be of kind timm or .*, got 'backbone'"):
        predict(exports["backbone"].path, photos)


def test_predict_folders_and_pipes_are_searched_as_in_a_study(exports, photos, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(photos, folder)
    (folder / "._a.png").write_bytes(b"no image")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    found = predict(exports["timm"].path, folder)
    assert len(found.files) == len(list(photos.iterdir()))
    assert found.unreadable == {}
    found = predict(exports["timm"].path, [folder / "pipe.png", found.files[0]])
    assert found.unreadable == {str(folder / "pipe.png"): "it is no regular file"}
