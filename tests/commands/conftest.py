import pytest

from glora_automl.pipeline import Workspace


@pytest.fixture
def workspace(tmp_path):
    """An empty workspace."""
    return Workspace(runs=tmp_path)
