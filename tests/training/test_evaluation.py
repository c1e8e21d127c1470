import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from glora_automl.training import evaluate, temperature_scaled_loss


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(37, 1, 4, 4, generator=generator)
    return images, torch.randint(0, 3, (37,), generator=generator)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Dropout and batch norm: the score is another one in training mode.
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


def plainly(model, images, labels):
    """The definition, an image at a time in float64."""
    model.eval()
    right, loss = 0, 0.0
    with torch.no_grad():
        for image, label in zip(images, labels, strict=True):
            logits = model(image[None])[0].double()
            right += int(logits.argmax() == label)
            loss -= math.log(torch.softmax(logits, 0)[label])
    return right / len(labels), loss / len(labels)


def test_score_is_what_the_definition_gives(model, data):
    accuracy, loss = plainly(model, *data)
    assert 0 < accuracy < 1
    score = evaluate(model, *data)
    assert score.accuracy == accuracy
    assert score.loss == pytest.approx(loss, rel=1e-6)
    assert score.n_images == 37
    assert [type(value) for value in score[:3]] == [float, float, int]
    assert score.scaled_loss is None


def test_a_calibrated_loss_is_that_at_the_best_temperature(model, data):
    score = evaluate(model, *data, batch_size=5, scale_temperature=True)
    with torch.no_grad():
        logits = model.eval()(data[0]).double()
    temperatures = torch.logspace(-2, 2, 4001, dtype=torch.float64)
    losses = [F.cross_entropy(logits / t, data[1]).item() for t in temperatures]
    assert score.scaled_loss == pytest.approx(min(losses), abs=1e-5)
    assert score.scaled_loss < score.loss
    assert score._replace(scaled_loss=None) == evaluate(model, *data, batch_size=5)


@given(
    seed=st.integers(0, 99),
    count=st.integers(1, 20),
    classes=st.integers(2, 5),
    factor=st.floats(0.2, 20),
)
def test_confidence_does_not_matter_to_a_calibrated_loss(seed, count, classes, factor):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (count,), generator=generator)
    loss = temperature_scaled_loss(logits, labels)
    # Whoever knows nothing has a temperature without end.
    assert 0 <= loss <= min(F.cross_entropy(logits, labels).item(), math.log(classes) + 0.01)
    wrong = (logits.argmax(1) != labels).any()
    if wrong and loss < 0.99 * math.log(classes):  # elsewhere temperatures are at their bounds
        assert temperature_scaled_loss(factor * logits, labels) == pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 5, 36, 37, 1000])
def test_the_batch_size_does_not_matter(model, data, batch_size):
    whole, cut = evaluate(model, *data), evaluate(model, *data, batch_size=batch_size)
    assert cut.accuracy == whole.accuracy
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_restored(model, data, training):
    model.train(training)
    evaluate(model, *data)
    assert [module.training for module in model.modules()] == [training] * 5


def test_the_model_is_looked_at_and_not_changed(model, data):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model.train(), *data)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_perfect_and_hopeless_models_score_one_and_zero():
    labels = torch.tensor([0, 1, 2])
    images = torch.eye(3)[:, :, None, None] * 50
    assert evaluate(nn.Flatten(), images, labels).accuracy == 1.0
    assert evaluate(nn.Flatten(), images, (labels + 1) % 3)[:3] == (0.0, pytest.approx(50.0), 3)


def test_each_module_has_its_own_mode_back_even_after_a_failure():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    model.train()
    model[1].eval()
    evaluate(model, torch.zeros(3, 4, 1, 1), torch.tensor([0, 1, 0]))
    assert [module.training for module in model] == [True, False, True]
    with pytest.raises(RuntimeError):
        evaluate(model, torch.zeros(3, 5, 1, 1), torch.tensor([0, 1, 0]))
    assert [module.training for module in model] == [True, False, True]
