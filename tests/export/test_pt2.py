"""Exports for torch.export."""

import io
import pickle
import warnings
import zipfile

import pytest
import torch
from torch._export.serde import schema

from glora_automl.errors import ExportError
from glora_automl.export._pt2 import load_pt2


def test_write_pt2_holds_no_pickle_and_takes_any_batch(exports):
    path = exports["pt2"].path / "model.pt2"
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            assert not archive.read(info).startswith((b"PK", b"\x80"))
    program = torch.export.load(path).module()
    for count in (1, 5):
        assert program(torch.zeros(count, 3, 8, 8)).shape == (count, 3)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_load_pt2_of_the_old_layout_raises_before_its_pickle_is_read(exports, tmp_path):
    with zipfile.ZipFile(exports["pt2"].path / "model.pt2") as archive:
        graph = archive.read("model/models/model.json")
    weights = io.BytesIO()
    torch.save({"x": Payload(tmp_path / "executed")}, weights)
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("version", ".".join(map(str, schema.SCHEMA_VERSION)))
        archive.writestr("serialized_exported_program.json", graph)
        archive.writestr("serialized_constants.pt", b"")
        archive.writestr("serialized_example_inputs.pt", b"")
        archive.writestr("serialized_state_dict.pt", weights.getvalue())
    with pytest.raises(ExportError, match="'version' is no member"):
        load_pt2(tmp_path, exports["pt2"].record)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name",
    [
        "model/data/sample_inputs/model.pt",
        "m/custom_obj_0",
        "model/data/constants/custom_obj_0",
        "model/data/aotinductor/model/model.so",
        "other/models/model.json",
        "version",
        "serialized_state_dict.pt",
    ],
)
def test_load_pt2_with_a_pickle_raises_before_it_is_read(exports, tmp_path, name):
    path = tmp_path / "model.pt2"
    path.write_bytes((exports["pt2"].path / "model.pt2").read_bytes())
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")  # of two files with one name
        archive.writestr(name, pickle.dumps([1]))
    with pytest.raises(ExportError, match="without pickles, got"):
        load_pt2(tmp_path, exports["pt2"].record)


def test_load_pt2_of_other_file_raises(exports, tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"no archive")
    with pytest.raises(ExportError, match=r"must be an archive of torch\.export"):
        load_pt2(tmp_path, exports["pt2"].record)
