import json

import pytest
from huggingface_hub import constants


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_doctor_prints_a_line_per_part(folder, glora):
    code, out, err = glora("doctor", "--timeout", 60)
    assert (code, err) == (0, "")
    for words in ("glora_automl", "torch", "cores", "GB free", "sqlite:///runs/studies.db"):
        assert words in out
    assert all(line.startswith(("ok ", "warn ", "   ")) for line in out.splitlines())


def test_doctor_failure_has_a_hint_with_flags_and_exit_code_1(folder, glora):
    code, out, _ = glora("doctor", "--storage", "sqlite:///nowhere/a.db", "--timeout", 60)
    assert code == 1
    assert "Choose another --storage." in out
    assert "Traceback" not in out


def test_doctor_json_is_one_document(folder, glora):
    code, out, _ = glora("doctor", "--artifacts", "nowhere", "--json", "--timeout", 60)
    document = json.loads(out)
    assert (code, document["healthy"]) == (1, False)
    states = {check["name"]: check["state"] for check in document["checks"]}
    assert states["artifacts"] == "fail"
    assert states["storage"] == "ok"
