import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from glora_automl.errors import RecipeError
from glora_automl.training import efficient_batch_size, evaluate, temperature_scaled_loss
from glora_automl.training._evaluation import CACHE_ELEMENTS, MIN_CPU_BATCH


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(37, 1, 4, 4, generator=generator)
    return images, torch.randint(0, 3, (37,), generator=generator)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Dropout and batch norm give another score in training mode.
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


def reference(model, images, labels):
    """Return accuracy and loss by definition, one image at a time in float64."""
    model.eval()
    n_correct, loss = 0, 0.0
    with torch.no_grad():
        for image, label in zip(images, labels, strict=True):
            logits = model(image[None])[0].double()
            n_correct += int(logits.argmax() == label)
            loss -= math.log(torch.softmax(logits, 0)[label])
    return n_correct / len(labels), loss / len(labels)


def test_evaluate_equals_the_definition(model, data):
    accuracy, loss = reference(model, *data)
    assert 0 < accuracy < 1
    score = evaluate(model, *data)
    assert score.accuracy == accuracy
    assert score.loss == pytest.approx(loss, rel=1e-6)
    assert score.n_images == 37
    assert [type(value) for value in score[:3]] == [float, float, int]
    assert score.scaled_loss is None


def test_evaluate_with_temperature_scaling_gives_the_loss_at_the_best_temperature(model, data):
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
def test_temperature_scaled_loss_of_scaled_logits_is_the_same(seed, count, classes, factor):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (count,), generator=generator)
    loss = temperature_scaled_loss(logits, labels)
    # Logits without information have an infinite temperature.
    assert 0 <= loss <= min(F.cross_entropy(logits, labels).item(), math.log(classes) + 0.01)
    wrong = (logits.argmax(1) != labels).any()
    if wrong and loss < 0.99 * math.log(classes):  # otherwise the temperature is at its bound
        assert temperature_scaled_loss(factor * logits, labels) == pytest.approx(loss, abs=1e-3)


@pytest.mark.parametrize("batch_size", [1, 5, 36, 37, 1000])
def test_evaluate_with_any_batch_size_gives_the_same_score(model, data, batch_size):
    expected, score = evaluate(model, *data), evaluate(model, *data, batch_size=batch_size)
    assert score.accuracy == expected.accuracy
    assert score.loss == pytest.approx(expected.loss, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_restores_the_training_mode(model, data, training):
    model.train(training)
    evaluate(model, *data)
    assert [module.training for module in model.modules()] == [training] * 5


def test_evaluate_changes_neither_model_nor_random_state(model, data):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model.train(), *data)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluate_with_all_right_or_all_wrong_gives_accuracy_one_or_zero():
    labels = torch.tensor([0, 1, 2])
    images = torch.eye(3)[:, :, None, None] * 50
    assert evaluate(nn.Flatten(), images, labels).accuracy == 1.0
    assert evaluate(nn.Flatten(), images, (labels + 1) % 3)[:3] == (0.0, pytest.approx(50.0), 3)


def test_evaluate_after_a_failure_restores_the_mode_of_each_module():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    model.train()
    model[1].eval()
    evaluate(model, torch.zeros(3, 4, 1, 1), torch.tensor([0, 1, 0]))
    assert [module.training for module in model] == [True, False, True]
    with pytest.raises(RuntimeError):
        evaluate(model, torch.zeros(3, 5, 1, 1), torch.tensor([0, 1, 0]))
    assert [module.training for module in model] == [True, False, True]


def test_evaluate_among_some_classes_ignores_the_other_logits():
    logits = torch.tensor([[5.0, 1.0, 2.0], [5.0, 2.0, 1.0]])[:, :, None, None]
    labels = torch.tensor([2, 1])
    assert evaluate(nn.Flatten(), logits, labels).accuracy == 0
    score = evaluate(nn.Flatten(), logits, labels, among=torch.tensor([1, 2]))
    assert score.accuracy == 1
    expected = nn.functional.cross_entropy(torch.tensor([[2.0, 1.0]]), torch.tensor([0]))
    assert score.loss == pytest.approx(expected.item())


def test_efficient_batch_size_on_a_cpu_keeps_activations_in_the_cache():
    image = torch.zeros(1, 3, 8, 8)
    narrow, wide = nn.Conv2d(3, 64, 1), nn.Conv2d(3, 20000, 1)
    assert efficient_batch_size(narrow, image) == CACHE_ELEMENTS // (64 * 64)
    assert efficient_batch_size(wide, image) == MIN_CPU_BATCH


def test_evaluate_gives_the_logits_of_each_batch_in_order(model, data):
    found = []
    score = evaluate(model, *data, batch_size=5, on_batch=found.append)
    assert [len(logits) for logits in found] == [5] * 7 + [2]
    correct = torch.cat(found).argmax(1) == data[1]
    assert correct.double().mean().item() == pytest.approx(score.accuracy)


@pytest.mark.parametrize("value", [0.5, 1, True, torch.tensor(0.5), torch.tensor([2.0])])
def test_evaluate_custom_is_the_number_of_the_score_function(value):
    images, labels = torch.eye(3)[:, :, None, None], torch.tensor([0, 1, 0])
    score = evaluate(nn.Flatten(), images, labels, score_function=lambda *_: value)
    assert score.custom == float(value)
    assert type(score.custom) is float


@pytest.mark.parametrize("value", [None, (1, 2), "high", torch.ones(2), 1j])
def test_evaluate_with_a_score_function_without_a_number_raises_one_line(value):
    images, labels = torch.eye(3)[:, :, None, None], torch.tensor([0, 1, 0])
    with pytest.raises(RecipeError, match="score must return one number, got") as caught:
        evaluate(nn.Flatten(), images, labels, score_function=lambda *_: value)
    assert "\n" not in str(caught.value)
