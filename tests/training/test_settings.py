import math

import pytest

from glora_automl.training import TrainingSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": math.inf},
        {"lr": math.nan},
        {"weight_decay": -1.0},
        {"clip_grad": math.nan},
        {"checkpoint_every": 0},
        {"class_weight": "even"},
        {"class_weight": [1.0]},
        {"class_weight": [0.0, 0.0]},
        {"class_weight": [1.0, -1.0]},
        {"epoch": 3},
    ],
    ids=str,
)
def test_training_settings_out_of_range_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingSettings.model_validate({"epochs": 1, **wrong})
