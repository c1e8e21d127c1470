import sys

import pytest

from glora_automl._extras import require
from glora_automl.errors import TrainingError


def test_require_returns_the_module():
    assert require("json.decoder", "x", TrainingError) is sys.modules["json.decoder"]


def test_require_of_a_missing_package_names_purpose_and_extra():
    with pytest.raises(TrainingError) as raised:
        require("missing_plot.figure", "png", TrainingError, "pictures")
    assert str(raised.value) == (
        "missing_plot must be installed for pictures, got: No module named 'missing_plot'. Run pip "
        'install "glora-automl[png]".'
    )


def test_require_of_a_package_that_fails_without_a_message_names_the_error(monkeypatch, tmp_path):
    (tmp_path / "broken_extra.py").write_text("raise ImportError", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TrainingError, match=r"broken_extra must be installed, got: ImportError\."):
        require("broken_extra", "png", TrainingError)
