import pytest

from tests import models
from tests.supernet.cases import create_case


@pytest.fixture(params=models.MODELS)
def case(request):
    """Supernet, shapes of its layers, images and labels of each model."""
    return create_case(request.param)
