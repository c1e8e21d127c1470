from dataclasses import replace

import numpy as np
import pytest
import torch

from glora_automl.architecture import Architecture
from glora_automl.errors import DivergenceError, Stopped
from glora_automl.pipeline import (
    TrainingJob,
    Workspace,
    _training,
    new_supernet,
    prepare,
    standalone,
)
from glora_automl.pipeline import subnet_of as inherit
from glora_automl.pipeline._training import train_paths
from glora_automl.progress import Progress
from glora_automl.supernet import widest_architecture
from tests import models


@pytest.fixture
def context_of(tiny, tmp_path):
    def with_changes(**changes):
        recipe = tiny.replace(**changes)
        context = prepare(recipe, Workspace(runs=tmp_path, device="cpu"), "tiny")
        return context.with_backbone(context.bare_backbone())

    return with_changes


@pytest.fixture
def context(context_of):
    return context_of()


def some(context, **choices):
    return Architecture.uniform(context.space.shapes, **choices)


def test_standalone_has_only_the_parameters_of_its_architecture(context):
    architecture = some(context, A="vector", B="lora-2")
    subnet = standalone(context, architecture)
    head = sum(p.numel() for p in subnet.model.get_classifier().parameters())
    count = sum(p.numel() for p in subnet.trainable().values())
    assert count - head == architecture.count(context.space.shapes)
    images, _ = context.validation
    with torch.no_grad():
        before = context.initial_model().eval()(images[:])
        torch.testing.assert_close(subnet.model.eval()(images[:]), before)


def test_subnet_of_computes_as_the_supernets_path_and_shares_no_tensor(context):
    supernet = new_supernet(context)
    models.randomise(supernet.model)
    architecture = some(context, A="vector", B="lora-2", C="vector", E="vector")
    subnet = inherit(context, supernet, architecture)
    images, _ = context.validation
    with torch.no_grad():
        supernet.activate(architecture)
        expected = supernet.model.eval()(images[:])
        torch.testing.assert_close(subnet.model.eval()(images[:]), expected)
        for parameter in subnet.trainable().values():
            parameter.zero_()
        torch.testing.assert_close(supernet.model(images[:]), expected)


@pytest.mark.parametrize(
    ("ratio", "images", "epochs", "warmup"),
    [
        (1.0, "train", 12, 4),
        (0.5, "train", 6, 2),
        (2.0, "train", 24, 8),
        (0.01, "train", 1, 0),
        (0.0, "train", 0, 0),
        # 24 of 84 images: as many steps, but longer epochs.
        (1.0, "labelled", 3, 1),
        (0.01, "labelled", 1, 0),
        (0.0, "labelled", 0, 0),
    ],
)
def test_job_length_is_a_multiple_of_the_recipes(context_of, ratio, images, epochs, warmup):
    context = context_of(training={"epochs": 12, "warmup_epochs": 4})
    job = TrainingJob(context, "some", "Some", getattr(context, images), ratio)
    assert (job.settings.epochs, job.settings.warmup_epochs) == (epochs, warmup)
    assert job.settings.lr == context.recipe.training.lr


def test_job_spends_its_images_and_trains_the_active_path(context):
    supernet = standalone(context, some(context, E="vector"))
    before = supernet.state_dict()
    spent = TrainingJob(context, "some", "Some", context.train, 0.25).run(supernet)
    assert spent.n_trained == 3 * 24
    assert spent.n_evaluated == 0
    assert spent.seconds > 0
    after = supernet.state_dict()
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_job_of_no_epochs_keeps_the_weights(context):
    supernet = standalone(context, some(context, E="vector"))
    before = supernet.state_dict()
    assert TrainingJob(context, "some", "Some", context.train, 0).run(supernet).n_trained == 0
    assert all(torch.equal(supernet.state_dict()[name], before[name]) for name in before)


def test_job_of_another_stage_draws_other_random_numbers(context):
    def trained(stage):
        supernet = standalone(context, some(context, E="vector"))
        TrainingJob(context, stage, "Some", context.train, 0.25).run(supernet)
        return supernet.state_dict()["head.weight"]

    assert torch.equal(trained("one"), trained("one"))
    assert not torch.equal(trained("one"), trained("other"))


def test_job_resumes_from_its_checkpoint(context_of, tmp_path):
    context = context_of(training={"epochs": 6, "checkpoint_every": 1})
    path = tmp_path / "some.json"
    calls = []

    def stop():
        calls.append(1)
        return len(calls) > 5

    stopping = prepare(context.recipe, Workspace(runs=tmp_path, device="cpu", stop=stop), "tiny")
    stopping = stopping.with_backbone(context.backbone())

    def train(of):
        supernet = standalone(of, some(of, E="vector"))
        TrainingJob(of, "some", "Some", of.train, checkpoint=path).run(supernet)
        return supernet.state_dict()

    with pytest.raises(Stopped):
        train(stopping)
    assert path.exists()
    resumed = train(context)
    path.unlink()
    whole = train(context)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


class Logged(Progress):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


def collapse(monkeypatch, attempts):
    """Let the first attempts collapse after one epoch; return the learning rates of all."""
    rates, original = [], _training.train

    def train(model, parameters, images, labels, settings, **keywords):
        rates.append(settings.lr)
        if len(rates) <= attempts:
            for parameter in parameters.values():
                parameter.data.fill_(9.0)
            raise DivergenceError("loss must be finite, got nan.", n_images=24, seconds=5.0)
        return original(model, parameters, images, labels, settings, **keywords)

    monkeypatch.setattr(_training, "train", train)
    return rates


def test_job_that_collapses_restarts_at_a_third_of_the_rate(context, monkeypatch):
    third = context.recipe.replace(training={"lr": context.recipe.training.lr / 3})
    plain = standalone(context, some(context, E="vector"))
    TrainingJob(replace(context, recipe=third), "some", "Some", context.train, 0.25).run(plain)
    rates = collapse(monkeypatch, 1)
    logged = replace(context, progress=Logged())
    supernet = standalone(logged, some(context, E="vector"))
    spent = TrainingJob(logged, "some", "Some", context.train, 0.25).run(supernet)
    lr = context.recipe.training.lr
    assert rates == [lr, lr / 3]
    assert (spent.n_trained, spent.n_restarts) == (24 + 3 * 24, 1)
    assert spent.seconds > 5
    (line,) = logged.progress.lines
    assert line.startswith("Some: the training collapsed at a learning rate of 1.0e-02.")
    found, expected = supernet.state_dict(), plain.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_job_whose_last_attempt_collapses_raises(context, monkeypatch):
    rates = collapse(monkeypatch, 99)
    with pytest.raises(DivergenceError):
        supernet = standalone(context, some(context, E="vector"))
        TrainingJob(context, "some", "Some", context.train, 0.25).run(supernet)
    assert len(rates) == _training.MAX_RESTARTS + 1


def test_train_paths_wide_is_the_widest_architecture(context):
    supernet = new_supernet(context)
    path, rng = train_paths(context, supernet), np.random.default_rng(0)
    wide = widest_architecture(context.space)
    for _ in range(3):
        path(rng)
        assert {n: layer.active for n, layer in supernet.layers.items()} == dict(wide)


def test_train_paths_uniform_draws_every_choice(context_of):
    context = context_of(supernet={"paths": "uniform"})
    supernet = new_supernet(context)
    path, rng = train_paths(context, supernet), np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        path(rng)
        seen |= {str(layer.active.B) for layer in supernet.layers.values()}
    assert seen == {str(c) for c in supernet.layers["blocks.0.attn.qkv"].choices["B"]}
