"""An adapter search as an Optuna problem: any sampler, callback, storage and process."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import optuna
import pytest
import timm
import torch
from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler
from optuna.study import MaxTrialsCallback, StudyDirection
from optuna.trial import TrialState
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from torch.utils.data import TensorDataset

from glora_automl import AdapterProblem, Architecture, Workspace, problem
from glora_automl.adapters import GLoRALinear, adapted_layers, linear_shapes
from glora_automl.errors import (
    BudgetError,
    CheckpointError,
    GLoRAError,
    RecipeError,
    SearchSpaceError,
    StudyError,
    TaskError,
)
from glora_automl.training import evaluate
from tests import processes

optuna.logging.set_verbosity(optuna.logging.WARNING)

BUDGET = 150
SHORT = {
    "training": {"epochs": 3, "batch_size": 16, "warmup_epochs": 0, "lr": 1e-2},
    "search": {"population_size": 4, "n_parents": 2},
}


def blobs(count, seed, classes=3):
    """Float images of classes that differ in their mean, with labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randn(count, 1, 4, 4, generator=generator)
    return images + labels[:, None, None, None], labels


def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
        )


def small_problem(runs, **changes):
    arguments = {"budget": BUDGET, "settings": SHORT, "model": module(), **changes}
    arguments.setdefault("train", blobs(24, 1))
    arguments.setdefault("validation", blobs(30, 2))
    arguments.setdefault("workspace", Workspace(runs=runs, device="cpu"))
    return AdapterProblem(**arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def small(runs):
    """A problem whose supernet is trained."""
    return trained(small_problem(runs))


def trained(found):
    found.sampler(seed=0)
    return found


@pytest.fixture
def trainings(monkeypatch):
    """The number of supernets that were trained, as the length of a list."""
    calls, original = [], problem.train_supernet

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(problem, "train_supernet", counted)
    return calls


def optimized(found, sampler=None, n_trials=6, **options):
    study = optuna.create_study(directions=found.directions, sampler=sampler, **options)
    study.optimize(found.objective, n_trials=n_trials)
    return study


def test_problem_in_the_documented_way_gives_a_feasible_plain_model(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    x, y = torch.randn(40, 1, 4, 4), torch.arange(40) % 2
    before = copy.deepcopy(net.state_dict())
    found = AdapterProblem(
        net,
        (x[:20], y[:20]),
        (x[20:], y[20:]),
        budget=40,
        settings={"training": {"epochs": 2, "warmup_epochs": 0}},
        workspace=Workspace(runs=tmp_path),
    )
    study = optuna.create_study(direction=found.direction, sampler=found.sampler(seed=0))
    study.optimize(found.objective, n_trials=3)
    best = found.architecture(study.best_trial)
    assert best.count(found.space.shapes) <= found.budget == 40
    model = found.build(best)
    assert type(model) is nn.Sequential
    assert not adapted_layers(model)
    assert model(x).shape == (40, 2)
    assert list(model.state_dict()) == list(net.state_dict())
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert not hasattr(net, "get_classifier")


SAMPLERS = {
    "own": lambda found: found.sampler(seed=0),
    "own, TPE": lambda found: found.sampler(seed=0, sampler="tpe"),
    "tpe": lambda found: TPESampler(seed=0, n_startup_trials=3),
    "nsga2": lambda found: NSGAIISampler(seed=0, population_size=4),
    "random": lambda found: RandomSampler(seed=0),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_objective_with_any_sampler_sets_constraint_and_attributes(small, name):
    study = optimized(small, SAMPLERS[name](small), n_trials=8)
    for trial in study.trials:
        count = small.architecture(trial).count(small.space.shapes)
        assert trial.constraints == {"trainable_params": count - BUDGET}
        assert trial.user_attrs["trainable_params"] == count
        assert trial.value == trial.user_attrs["validation_loss"]
        assert trial.user_attrs["validation_images"] == 30
        if name.startswith("own"):
            assert count <= BUDGET
    assert len({tuple(t.params.items()) for t in study.trials}) > 3


def test_sampler_with_the_same_seed_proposes_the_same(small):
    def params(seed):
        return [t.params for t in optimized(small, small.sampler(seed=seed)).trials]

    assert params(3) == params(3)
    assert params(3) != params(4)


def test_sampler_first_proposal_fills_the_budget(small):
    (trial,) = optimized(small, small.sampler(seed=0), n_trials=1).trials
    assert 0.8 * BUDGET < trial.user_attrs["trainable_params"] <= BUDGET


def test_sampler_without_presets_proposes_random_architectures(small):
    first = [
        optimized(small, small.sampler(seed=0, **changes), n_trials=1).trials[0].params
        for changes in ({}, {"initial_presets": False})
    ]
    assert first[0] != first[1]


def test_problem_with_a_timm_module_scores_as_its_plain_model(tmp_path):
    model = timm.create_model("test_vit", pretrained=False, num_classes=3, img_size=32)
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    pair = images, np.arange(12) % 3
    found = AdapterProblem(
        model,
        pair,
        pair,
        budget="5%",
        settings={"training": {"epochs": 1, "warmup_epochs": 0}},
        workspace=Workspace(runs=tmp_path, device="cpu"),
    )
    study = optimized(found, found.sampler(seed=0), n_trials=4)
    assert all(t.constraints["trainable_params"] <= 0 for t in study.trials)
    assert set(found.space.shapes) == set(linear_shapes(model)) - {"head"}
    plain = found.build(found.architecture(study.best_trial), train=False)
    assert type(plain) is type(model)
    assert plain.state_dict().keys() == model.state_dict().keys()
    score = evaluate(plain, *found._context.validation)
    assert score.loss == pytest.approx(study.best_value, abs=1e-4)
    # The usual lines of timm prepare images as the problem does.
    config = timm.data.resolve_model_data_config(plain)
    transform = timm.data.create_transform(**config)
    prepared = torch.stack([transform(Image.fromarray(image)) for image in images])
    torch.testing.assert_close(prepared, found._context.validation[0][:].cpu())
    assert (plain.pretrained_cfg["num_classes"], config["crop_mode"]) == (3, "squash")
    assert model.pretrained_cfg == timm.create_model("test_vit").pretrained_cfg


def test_problem_with_a_timm_name_creates_the_model(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32), dtype=np.uint8)
    pair = images, np.arange(8) % 2
    backbone = {"pretrained": False, "kwargs": {"img_size": 32}}
    found = AdapterProblem(
        "test_vit",
        pair,
        pair,
        settings={"training": {"epochs": 1, "warmup_epochs": 0}, "backbone": backbone},
        workspace=Workspace(runs=tmp_path, device="cpu"),
    )
    model = found.build(Architecture.uniform(found.space.shapes), train=False)
    assert type(model) is type(timm.create_model("test_vit"))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["crop_mode"], config["crop_pct"]) == (
        (3, 32, 32),
        "squash",
        1.0,
    )
    assert model.pretrained_cfg["label_names"] == ["0", "1"]


def test_optimize_with_callback_and_timeout_stops(small):
    study = optuna.create_study(direction=small.direction, sampler=small.sampler())
    done = MaxTrialsCallback(5, states=(TrialState.COMPLETE,))
    study.optimize(small.objective, n_trials=100, callbacks=[done])
    assert len(study.trials) == 5
    study.optimize(small.objective, timeout=0.2)
    assert len(study.trials) > 5


def test_optimize_with_two_threads_scores_as_serial_scoring(small, tmp_path):
    for found in (small, trained(small_problem(tmp_path))):
        study = optuna.create_study(direction=found.direction, sampler=RandomSampler(seed=0))
        study.optimize(found.objective, n_trials=24, n_jobs=2)
        assert {t.state for t in study.trials} == {TrialState.COMPLETE}
        serial = optuna.create_study(direction=found.direction)
        for trial in study.trials:
            serial.enqueue_trial(trial.params)
        serial.optimize(found.objective, n_trials=24)
        assert [t.params for t in serial.trials] == [t.params for t in study.trials]
        for one, other in zip(serial.trials, study.trials, strict=True):
            assert one.value == pytest.approx(other.value, abs=1e-6)
    assert len({t.value for t in study.trials}) > 10


def test_sampler_and_build_beside_a_running_search_change_no_score(small):
    study = optuna.create_study(direction=small.direction, sampler=RandomSampler(seed=1))
    probe = small.architecture(optimized(small, RandomSampler(seed=9), n_trials=1).best_trial)

    def disturb(study, trial):
        small.sampler(seed=trial.number)
        small.build(probe, train=False)

    study.optimize(small.objective, n_trials=12, n_jobs=2, callbacks=[disturb])
    serial = optuna.create_study(direction=small.direction)
    for trial in study.trials:
        serial.enqueue_trial(trial.params)
    serial.optimize(small.objective, n_trials=12)
    for one, other in zip(serial.trials, study.trials, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6)


def test_ask_and_tell_gives_the_values_of_optimize(small):
    study = optuna.create_study(direction=small.direction, sampler=small.sampler(seed=2))
    for _ in range(6):
        trial = study.ask(small.distributions)
        assert set(trial.params) == set(small.distributions)
        study.tell(trial, small.objective(trial))
    other = optimized(small, small.sampler(seed=2))
    assert [t.params for t in other.trials] == [t.params for t in study.trials]
    assert [t.value for t in other.trials] == pytest.approx([t.value for t in study.trials])


def test_enqueued_architecture_is_the_first_trial(small):
    bitfit = Architecture.uniform(small.space.shapes, E="vector")
    study = optuna.create_study(direction=small.direction, sampler=small.sampler(seed=0))
    study.enqueue_trial(small.params(bitfit))
    study.optimize(small.objective, n_trials=2)
    assert small.architecture(study.trials[0]) == bitfit
    assert small.architecture(study.trials[0].params) == bitfit
    assert study.trials[0].user_attrs["trainable_params"] == 12 + 8


def test_copied_study_goes_on(small, tmp_path):
    source, target = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    study = optimized(small, small.sampler(seed=0), storage=source, study_name="one")
    optuna.copy_study(
        from_study_name="one", from_storage=source, to_storage=target, to_study_name="two"
    )
    copied = optuna.load_study(study_name="two", storage=target, sampler=small.sampler(seed=0))
    assert [t.values for t in copied.trials] == [t.values for t in study.trials]
    assert [t.constraints for t in copied.trials] == [t.constraints for t in study.trials]
    copied.optimize(small.objective, n_trials=4)
    assert len(copied.trials) == 10


def test_trials_dataframe_and_importances_know_the_dimensions(small):
    study = optimized(small, RandomSampler(seed=0), n_trials=16)
    frame = study.trials_dataframe()
    assert len(frame) == 16
    assert {f"params_{name}" for name in small.distributions} <= set(frame.columns)
    assert frame["user_attrs_trainable_params"].max() <= small.space.maximum
    figure = optuna.visualization.plot_param_importances(study)
    assert set(figure.data[0].y) <= set(small.distributions)
    assert len(figure.data[0].y) > 3


def test_optuna_command_line_lists_the_trials(small, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    optimized(small, small.sampler(seed=0), n_trials=3, storage=url, study_name="adapters")
    code = "import sys; from optuna.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "trials", "--storage", url, "--study-name", "adapters"]
    ran = subprocess.run([*command, "-f", "json"], capture_output=True, text=True, check=True)
    assert ran.stdout.count('"COMPLETE"') == 3
    assert "lora-" in ran.stdout


@pytest.mark.parametrize(
    ("score", "direction"),
    [
        ("loss", StudyDirection.MINIMIZE),
        ("accuracy", StudyDirection.MAXIMIZE),
        (lambda y, p: balanced_accuracy_score(y, p.argmax(1)), StudyDirection.MAXIMIZE),
    ],
    ids=["loss", "accuracy", "function"],
)
def test_score_sets_value_and_direction(runs, small, score, direction):
    labels = torch.tensor([0] * 20 + [1] * 6 + [2] * 4)
    images = blobs(30, 2)[0] - blobs(30, 2)[1][:, None, None, None] + labels[:, None, None, None]
    found = small_problem(runs, score=score, validation=(images, labels))
    assert found.directions == [direction]
    study = optimized(found, RandomSampler(seed=0), n_trials=3)
    for trial in study.trials:
        model = found.build(found.architecture(trial), train=False)
        with torch.no_grad():
            logits = model(images)
        expected = {
            "loss": nn.functional.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(1) == labels).float().mean().item(),
        }
        if callable(score):
            value = balanced_accuracy_score(labels.numpy(), logits.argmax(1).numpy())
            assert value != expected["accuracy"]
        else:
            value = expected[score]
        assert trial.value == pytest.approx(value, abs=1e-5)


def test_score_of_a_metric_equals_its_function(runs, small):
    labels = torch.tensor([0] * 20 + [1] * 6 + [2] * 4)
    images = blobs(30, 2)[0]
    values = []
    for score in ("balanced_accuracy", lambda y, p: balanced_accuracy_score(y, p.argmax(1))):
        found = small_problem(runs, score=score, validation=(images, labels))
        assert found.direction is StudyDirection.MAXIMIZE
        study = optimized(found, RandomSampler(seed=0), n_trials=3)
        values.append([trial.value for trial in study.trials])
    assert values[0] == values[1]


def test_two_objectives_give_a_pareto_front(runs):
    settings = {**SHORT, "search": {**SHORT["search"], "objectives": ["accuracy", "n_params"]}}
    found = small_problem(runs, settings=settings)
    assert found.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    study = optimized(found, found.sampler(seed=0), n_trials=8)
    for trial in study.trials:
        assert trial.values[1] == trial.user_attrs["trainable_params"] <= BUDGET
    assert study.best_trials


def test_compiled_settings_reach_the_scorer(runs, monkeypatch):
    options = []
    monkeypatch.setattr(
        "glora_automl.pipeline._search.Scorer", lambda *args, **given: options.append(given)
    )
    small_problem(runs, settings={**SHORT, "search": {"compile": True}}).objective._make_scorer()
    assert options[0]["compiled"] is True


def test_build_without_refit_in_the_settings_is_as_long_as_the_selection(runs, monkeypatch):
    ratios = []

    class Job(problem.TrainingJob):
        def run(self, supernet, **options):
            ratios.append(self.ratio)

    monkeypatch.setattr("glora_automl.problem.TrainingJob", Job)
    for refit, expected in ((True, 0.5 + 2.0), (False, 0.5)):
        selection = {"epochs_ratio": 0.5, "refit": refit, "refit_epochs_ratio": 2.0}
        found = small_problem(runs, settings={**SHORT, "selection": selection})
        found.build(found.architecture(found.proposals()[0]))
        assert ratios[-1] == expected


def test_problem_from_the_store_has_the_statistics_of_the_head(runs):
    torch.manual_seed(0)
    head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2))
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), head)
    x, y = 30 * torch.randn(60, 1, 4, 4) + 5, torch.arange(60) % 2
    parts = {"model": net, "head": "3", "train": (x[:30], y[:30]), "validation": (x[30:], y[30:])}
    first, second = (small_problem(runs, **parts, budget=60) for _ in range(2))
    architecture = first.architecture(first.proposals()[0])
    scores = [found.objective._make_scorer().score(architecture) for found in (first, second)]
    assert scores[0] == scores[1]
    assert first._load().supernet.model[3][0].running_var.min() > 2  # it has moved


def test_build_without_training_scores_as_the_merged_subnet(small):
    study = optimized(small, small.sampler(seed=0), n_trials=3)
    for trial in study.trials:
        model = small.build(small.architecture(trial), train=False)
        assert not any(isinstance(layer, GLoRALinear) for layer in model.modules())
        assert "get_classifier" not in vars(model)
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(blobs(30, 2)[0]), blobs(30, 2)[1])
        assert loss.item() == pytest.approx(trial.value, abs=1e-5)


def test_proposals_are_feasible_and_give_other_samplers_a_start(small):
    proposals = small.proposals()
    assert len({tuple(p.items()) for p in proposals}) == len(proposals) > 2
    study = optuna.create_study(
        direction=small.direction, sampler=optuna.samplers.TPESampler(seed=0)
    )
    for params in proposals:
        assert small.architecture(params).count(small.space.shapes) <= small.budget
        study.enqueue_trial(params)
    study.optimize(small.objective, n_trials=len(proposals))
    assert [trial.params for trial in study.trials] == proposals
    assert small.architecture(study.best_trial).count(small.space.shapes) <= small.budget


def test_build_requires_gradients_as_the_given_module(runs):
    model = module()
    for frozen in (set(), {"1.weight", "5.bias"}):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        found = small_problem(runs, model=model)
        for architecture in (
            Architecture.uniform(found.space.shapes, B="lora-1", E="vector"),
            Architecture.uniform(found.space.shapes),
        ):
            built = found.build(architecture)
            assert {n for n, p in built.named_parameters() if not p.requires_grad} == frozen
    built.train()(blobs(4, 1)[0]).sum().backward()


def test_build_adds_a_bias_where_the_architecture_has_one(runs):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3))
    found = small_problem(runs, model=model)
    for tensor, added in (("B", set()), ("E", {"1.bias"})):
        choice = {tensor: "lora-1" if tensor == "B" else "vector"}
        built = found.build(Architecture.uniform(found.space.shapes, **choice), train=False)
        assert set(built.state_dict()) - set(model.state_dict()) == added
        assert all(parameter.requires_grad for parameter in built.parameters())


@pytest.mark.parametrize("part", ["problem", "objective"])
def test_pickled_problem_scores_as_the_original_without_training(runs, trainings, part):
    found = small_problem(runs, score="accuracy")
    study = optimized(found, RandomSampler(seed=0), n_trials=3)
    before = len(trainings)
    if part == "problem":
        objective = pickle.loads(pickle.dumps(found)).objective
    else:
        objective = pickle.loads(pickle.dumps(found.objective))
    again = optuna.create_study(direction=found.direction, sampler=RandomSampler(seed=0))
    again.optimize(objective, n_trials=3)
    assert [t.value for t in again.trials] == [t.value for t in study.trials]
    assert len(trainings) == before


def test_seed_of_numpy_is_that_of_python(runs, small):
    found = small_problem(runs, seed=np.int64(3))
    assert found.recipe.seed == 3
    params = [
        optimized(small, small.sampler(seed=seed), n_trials=4).trials[-1].params
        for seed in (np.int64(5), 5)
    ]
    assert params[0] == params[1]


def test_build_trains_the_subnet_on_and_repeats_itself(runs):
    settings = {**SHORT, "selection": {"epochs_ratio": 4}}
    found = small_problem(runs, settings=settings)
    best = found.architecture(optimized(found, found.sampler(seed=0)).best_trial)
    inherited, once, twice = (
        found.build(best, train=train).state_dict() for train in (False, True, True)
    )
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert any(not torch.equal(once[name], inherited[name]) for name in once)

    def loss(state):
        model = module()
        model.load_state_dict(state)
        return nn.functional.cross_entropy(model(blobs(24, 1)[0]), blobs(24, 1)[1]).item()

    assert loss(once) < loss(inherited)


def test_build_refit_learns_from_the_validation_images_too(runs):
    found = small_problem(runs, settings={**SHORT, "selection": {"epochs_ratio": 8}})
    best = found.architecture(optimized(found, found.sampler(seed=0)).best_trial)
    x, y = blobs(30, 2)  # its validation images
    alone, refit = (
        nn.functional.cross_entropy(found.build(best, refit=refit)(x), y).item()
        for refit in (False, True)
    )
    assert refit < alone


def test_built_model_is_saved_and_loaded_whole(small, tmp_path):
    model = small.build(Architecture.uniform(small.space.shapes, E="vector"), train=False)
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    images = blobs(3, 5)[0]
    assert torch.equal(again(images), model(images))


def test_head_of_a_plain_module_is_trained_and_not_adapted(runs, small):
    assert set(small.space.shapes) == {"1", "3"}
    probe = small.build(Architecture.uniform(small.space.shapes), train=False)
    before, after = module().state_dict(), probe.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"5.weight", "5.bias"}
    assert set(small_problem(runs, head="5").space.shapes) == {"1", "3"}


def first_value(runs, artifacts=None):
    """Print the value of the first trial, as another process does."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    places = Workspace(runs=runs, artifacts=artifacts, device="cpu")
    study = optimized(small_problem(runs, workspace=places), RandomSampler(seed=0), n_trials=1)
    print(repr(study.trials[0].value))


class Functional(nn.Module):
    """A classifier whose head is not called."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(16, 12)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return nn.functional.linear(self.hidden(x.flatten(1)).relu(), self.fc.weight, self.fc.bias)


def test_head_that_is_not_called_is_trained_and_not_adapted(runs):
    model = Functional()
    found = small_problem(runs, model=model, head="fc")
    assert list(found.space.shapes) == ["hidden"]
    plain = found.build(Architecture.uniform(found.space.shapes))
    assert torch.equal(plain.hidden.weight, model.hidden.weight)
    assert not torch.equal(plain.fc.weight, model.fc.weight)


def test_supernet_is_trained_once_for_problems_processes_and_folders(tmp_path, trainings):
    runs, store = tmp_path / "runs", str(tmp_path / "store")
    places = Workspace(runs=runs, artifacts=store, device="cpu")
    first = optimized(small_problem(runs, workspace=places), RandomSampler(seed=0), n_trials=3)
    assert len(trainings) == 1
    files = sorted(p.name for p in (tmp_path / "store").iterdir())
    for folder in (runs, tmp_path / "other"):
        places = Workspace(runs=folder, artifacts=store, device="cpu")
        found = small_problem(runs, workspace=places)
        again = optimized(found, RandomSampler(seed=0), n_trials=3)
        assert [t.value for t in again.trials] == [t.value for t in first.trials]
    assert len(trainings) == 1
    process = processes.start(first_value, tmp_path / "third", store, folder=tmp_path)
    assert process.wait() == 0, process.err
    assert float(process.out) == pytest.approx(first.trials[0].value, abs=1e-6)
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == files


def test_processes_that_begin_together_train_once(tmp_path):
    both = [processes.start(first_value, tmp_path / "runs", folder=tmp_path) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], both[0].err + both[1].err
    assert both[0].out == both[1].out
    stored = list((tmp_path / "runs" / "artifacts").iterdir())
    assert len(stored) == 2, "one supernet and its name"


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"train": blobs(24, 9)},
        {"settings": {**SHORT, "training": {**SHORT["training"], "epochs": 2}}},
        {"settings": {**SHORT, "supernet": {"paths": "uniform"}}},
        {"settings": {**SHORT, "backbone": {"head_init": "random"}}},
        {"search_space": "vectors"},
        {"model": nn.Sequential(*[nn.GELU() if isinstance(m, nn.ReLU) else m for m in module()])},
    ],
    ids=["seed", "images", "epochs", "paths", "head", "space", "activation"],
)
def test_supernet_of_another_problem_is_not_taken(runs, small, trainings, changes):
    trained(small_problem(runs, **changes))
    assert len(trainings) == 1
    trained(small_problem(runs, **changes))
    assert len(trainings) == 1


def test_supernet_of_another_head_is_not_taken(runs, trainings):
    model = nn.Sequential(*module()[:3], nn.Sequential(*module()[3:]))
    for head in ("3", "3.2", "3"):
        trained(small_problem(runs, model=model, head=head))
    assert len(trainings) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"score": "accuracy"},
        {"settings": {**SHORT, "selection": {"epochs_ratio": 2}}},
        {"settings": {**SHORT, "search": {"population_size": 9}}},
    ],
    ids=["score", "selection", "search"],
)
def test_supernet_of_a_problem_that_differs_after_it_is_taken(runs, small, trainings, changes):
    trained(small_problem(runs, **changes))
    assert not trainings


def test_altered_supernet_raises_one_line(tmp_path):
    trained(small_problem(tmp_path))
    (file,) = (p for p in (tmp_path / "artifacts").iterdir() if p.suffix != ".json")
    file.write_bytes(b"other")
    with pytest.raises(CheckpointError) as caught:
        small_problem(tmp_path).sampler()
    assert "\n" not in str(caught.value)


def test_training_that_was_interrupted_goes_on(tmp_path, trainings, monkeypatch):
    whole = optimized(small_problem(tmp_path / "whole"), RandomSampler(seed=0), n_trials=2)
    settings = {**SHORT, "training": {**SHORT["training"], "checkpoint_every": 1}}
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 4

    with pytest.raises(BaseException, match="stopped after"):
        places = Workspace(runs=tmp_path / "a", device="cpu", stop=stop)
        trained(small_problem(tmp_path, workspace=places, settings=settings))
    assert list((tmp_path / "a" / "problem").glob("supernet-*/training*"))
    found = small_problem(tmp_path / "a", settings=settings)
    again = optimized(found, RandomSampler(seed=0), n_trials=2)
    assert [t.value for t in again.trials] == [t.value for t in whole.trials]


def test_from_recipe_searches_the_images_of_the_recipe(tiny, tmp_path):
    recipe = tiny.replace(search={"objectives": ["accuracy"]})
    places = Workspace(runs=tmp_path, device="cpu")
    found = AdapterProblem.from_recipe(recipe, workspace=places)
    assert found.direction is StudyDirection.MAXIMIZE
    study = optimized(found, found.sampler(seed=0), n_trials=4)
    for trial in study.trials:
        assert trial.user_attrs["validation_images"] == 60
        assert trial.user_attrs["trainable_params"] <= found.budget
    other = AdapterProblem.from_recipe(recipe, score="loss", workspace=places)
    assert other.direction is StudyDirection.MINIMIZE
    with pytest.raises(RecipeError, match=r"score must be one of loss, accuracy, .* or a function"):
        AdapterProblem.from_recipe(recipe, score="los", workspace=places)
    with pytest.raises(RecipeError, match="nothing"):
        AdapterProblem.from_recipe("nothing", workspace=places)


def test_data_may_be_arrays_tensors_or_a_data_set(tmp_path, trainings):
    (x, y), (a, b) = blobs(24, 1), blobs(30, 2)
    first = optimized(small_problem(tmp_path), RandomSampler(seed=0), n_trials=2)
    for train, validation in (
        ((x.numpy(), y.numpy()), (a.numpy(), b.tolist())),
        (TensorDataset(x, y), TensorDataset(a, b)),
    ):
        found = small_problem(tmp_path, train=train, validation=validation)
        again = optimized(found, RandomSampler(seed=0), n_trials=2)
        assert [t.value for t in again.trials] == [t.value for t in first.trials]
    assert len(trainings) == 1


def test_bytes_keep_their_size_on_a_plain_module(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4), dtype=np.uint8)
    pair = images, np.arange(24) % 3
    found = small_problem(tmp_path, train=pair, validation=pair)
    batch = found._context.validation[0][:]
    assert batch.shape == (24, 1, 4, 4)
    assert torch.allclose(batch[:, 0], torch.from_numpy(images) / 255)


def test_classes_that_the_model_has_without_images_stay(tmp_path):
    found = small_problem(tmp_path, train=blobs(24, 1, 2), validation=blobs(30, 2, 2))
    model = found.build(Architecture.uniform(found.space.shapes), train=False)
    assert model(blobs(2, 3)[0]).shape == (2, 3)


ONE_CLASS = blobs(6, 2)[0], [1] * 6

WRONG = {
    "score": ({"score": "acc"}, RecipeError, "score must be .*got 'acc'"),
    "score of one class": (
        {"score": "auroc", "validation": ONE_CLASS},
        RecipeError,
        "score must have a value on the validation images, got 'auroc' with images of one class",
    ),
    "float labels": (
        {"train": (blobs(24, 1)[0], torch.rand(24))},
        TaskError,
        "train must be classes, got 24 different numbers",
    ),
    "negative labels": (
        {"validation": (blobs(3, 1)[0], [-1, 0, 1])},
        TaskError,
        "validation must be",
    ),
    "too few labels": ({"train": (blobs(24, 1)[0], [0, 1])}, TaskError, "train must be .*2 labels"),
    "no images": ({"train": (torch.zeros(0, 1, 4, 4), [])}, TaskError, "train must be"),
    "one class": (
        {"train": (blobs(24, 1)[0], [1] * 24)},
        TaskError,
        "train must have images of at least two classes",
    ),
    "other size": (
        {"validation": (torch.zeros(3, 1, 5, 5), [0, 1, 2])},
        TaskError,
        r"validation must be images that the model takes, got a batch of shape \(2, 1, 5, 5\)",
    ),
    "more classes": (
        {"train": (blobs(24, 1)[0], [*range(24)])},
        TaskError,
        r"model must return logits of shape \(n, 24\)",
    ),
    "no pair": ({"train": 7}, TaskError, "train must be"),
    "model": ({"model": 7}, TaskError, "model must be a timm name or a torch.nn.Module, got int"),
    "float and uint8": (
        {"train": (np.zeros((24, 4, 4), np.uint8), blobs(24, 1)[1])},
        TaskError,
        "train and validation must both be uint8 images.*got uint8 and float",
    ),
    "timm name": ({"model": "resnet8"}, TaskError, "backbone.model must be a model of timm"),
    "no linear layer": ({"model": nn.Flatten()}, TaskError, "head must name"),
    "head": ({"head": "head"}, TaskError, "head must name .*got 'head'.*Choose one of 1, 3, 5"),
    "head no text": ({"head": 3}, TaskError, "head must name .*got 3"),
    "head without parameters": ({"head": "2"}, TaskError, "head must name"),
    "another head": ({"head": "3"}, TaskError, "head must name .*got '3'. Set `head` to '5'"),
    "head of a timm name": (
        {"model": "test_vit", "head": "head"},
        TaskError,
        "head must be None for a timm name, got 'head'",
    ),
    "budget": ({"budget": "12q"}, BudgetError, "budget must be"),
    "search space": ({"search_space": "leen"}, SearchSpaceError, "lean"),
    "section": (
        {"settings": {"trainning": {"epochs": 2}}},
        RecipeError,
        "settings must be .*Did you mean 'training'",
    ),
    "argument among settings": ({"settings": {"budget": 9}}, RecipeError, "settings must be"),
    "section no table": ({"settings": {"training": 3}}, RecipeError, "settings must be"),
    "key": ({"settings": {"training": {"epoch": 2}}}, RecipeError, "epoch"),
    "seed": ({"seed": -1}, RecipeError, "seed"),
    "device": (
        {"workspace": Workspace(device="tpu")},
        TaskError,
        "device must be one that torch has",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_raises_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    changes, error, words = WRONG[name]
    with pytest.raises(error, match=words) as caught:
        small_problem(tmp_path / "runs", **changes)
    assert isinstance(caught.value, GLoRAError)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_change_of_the_sampler_raises_one_line(small):
    with pytest.raises(RecipeError, match="population_size") as caught:
        small.sampler(population_size=0)
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError, match="popsize"):
        small.sampler(popsize=3)
    for seed in (-3, 2**40, "a", 1.5):
        for changes in ({}, {"sampler": "tpe"}, {"sampler": RandomSampler()}):
            with pytest.raises(RecipeError, match="seed must be"):
                small.sampler(seed=seed, **changes)


@pytest.mark.parametrize("value", [None, (1, 2), "high", np.ones(3), torch.ones(2)])
def test_score_that_returns_no_number_raises_one_line(runs, small, value):
    found = small_problem(runs, score=lambda labels, probabilities: value)
    study = optuna.create_study(direction=found.direction)
    with pytest.raises(RecipeError, match="score must return one number, got") as caught:
        study.optimize(found.objective, n_trials=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [1, np.float32(0.5), np.array(0.5), torch.tensor(0.5), True])
def test_score_of_any_type_of_number_is_a_float(runs, small, value):
    found = small_problem(runs, score=lambda labels, probabilities: value)
    assert optimized(found, RandomSampler(seed=0), n_trials=1).trials[0].value == float(value)


def test_wrong_parameters_raise(small):
    with pytest.raises(SearchSpaceError):
        small.architecture({"1.A": "none"})
    with pytest.raises(SearchSpaceError):
        small.params(Architecture.uniform(small.space.shapes, D="vector"))


def test_study_with_another_direction_raises_one_line(small):
    study = optuna.create_study(direction="maximize")
    with pytest.raises(StudyError, match=r"directions minimize, got maximize.*create_study") as e:
        study.optimize(small.objective, n_trials=1)
    assert "\n" not in str(e.value)


def test_fixed_trial_is_scored(small):
    params = small.params(Architecture.uniform(small.space.shapes, E="vector"))
    trial = optuna.trial.FixedTrial(params)
    study = optuna.create_study(direction=small.direction)
    study.enqueue_trial(params)
    study.optimize(small.objective, n_trials=1)
    assert small.objective(trial) == study.best_value
    assert trial.user_attrs["trainable_params"] == 20
