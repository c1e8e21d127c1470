import subprocess
import sys

import pytest

from glora_automl import training
from glora_automl._lazy import lazy_names


def test_lazy_names_are_those_of_the_type_checking_block():
    get, names = lazy_names("glora_automl.training")
    assert get("METRICS") is training.METRICS
    assert {"METRICS", "Score", "train"} <= set(names())


def test_lazy_names_unknown_name_raises_like_a_module():
    get, _ = lazy_names("glora_automl.training")
    with pytest.raises(AttributeError, match=r"module 'glora_automl\.training' has no .*'nothing'"):
        get("nothing")


def test_lazy_names_import_a_module_at_its_first_use():
    code = (
        "import sys; from glora_automl import training; training.Score\n"
        "assert 'glora_automl.training._train' not in sys.modules\n"
        "training.train\n"
        "assert 'glora_automl.training._train' in sys.modules\n"
        "assert 'train' in vars(training)  # found at once from now on\n"
        "import glora_automl; assert glora_automl.errors.GLoRAError"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
