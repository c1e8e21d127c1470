from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from glora_automl.adapters import linear_shapes
from glora_automl.backbones import fit_head
from glora_automl.errors import ArchitectureError, BudgetError, RecipeError, TaskError
from glora_automl.pipeline import Workspace, _context, prepare, resolve_device
from glora_automl.pipeline._device import explain_device
from glora_automl.progress import Progress
from glora_automl.study import Absent, Overlap
from glora_automl.tasks import Task
from glora_automl.training import evaluate


class Logged(Progress):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(runs=tmp_path / "runs", device="cpu")


@pytest.fixture
def loaded(tiny, workspace):
    context = prepare(tiny, workspace, "tiny")
    return context.with_backbone(context.create_backbone())


def test_prepare_counts_layers_and_budget_and_writes_nothing(tiny, workspace, tmp_path):
    context = prepare(tiny, workspace, "some")
    model = context.bare_backbone()
    head = sum(p.numel() for p in model.get_classifier().parameters())
    assert context.n_backbone_params == sum(p.numel() for p in model.parameters()) - head
    assert context.budget == context.n_backbone_params // 5 == context.region.budget
    assert set(context.space.shapes) == set(linear_shapes(model)) - {"head"}
    assert context.folder == tmp_path / "runs/some"
    assert context.device == torch.device("cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["training", "backbone.pretraining"])
def test_prepare_of_class_weights_for_other_classes_raises_before_any_model(
    tiny, workspace, key, monkeypatch
):
    monkeypatch.setattr(_context, "bare_backbone", lambda *args: pytest.fail("a model"))
    table = {"class_weight": [1.0] * 7}
    changes = {"training": table} if key == "training" else {"backbone": {"pretraining": table}}
    recipe = tiny.replace(**changes)
    with pytest.raises(RecipeError, match=f"{key}.class_weight must .* 3 classes, got 7"):
        prepare(recipe, workspace, "tiny")


def test_prepare_of_a_given_architecture_has_one_architecture(tiny, workspace):
    context = prepare(tiny.replace(architecture="bitfit"), workspace, "tiny")
    assert context.space.dimensions == ()
    assert context.region.count(10) == 1
    assert {str(c.E) for c in context.space.architecture({}).values()} == {"vector"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"architecture": "lora-8", "budget": 10}, BudgetError),
        ({"architecture": "blocks.0.attn.qkv: B=lora-64", "budget": "1M"}, ArchitectureError),
    ],
)
def test_prepare_that_does_not_fit_raises_with_the_recipe(tiny, workspace, changes, error):
    with pytest.raises(error, match="recipe tiny: ") as caught:
        prepare(tiny.replace(**changes), workspace, "tiny")
    assert "\n" not in str(caught.value)


def test_prepare_keeps_and_logs_what_limits_the_figures(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Task, "overlaps", lambda self: {("train", "test"): 3})
    monkeypatch.setattr(Task, "absent", lambda self: {"validation": ("a", "b", "c", "d")})
    workspace = Workspace(runs=tmp_path, device="cpu", progress=Logged())
    data = prepare(tiny, workspace, "tiny").data
    assert data.overlaps == (Overlap("train", "test", 3),)
    assert data.absent == (Absent("validation", 4, ("a", "b", "c")),)
    assert workspace.progress.lines == data.notes()
    assert len(data.notes()) == 2


def test_prepare_keeps_the_accuracy_of_the_majority_class(tiny, workspace):
    context = prepare(tiny, workspace, "tiny")
    majority, task = context.data.majority, context.task
    largest = task.classes.index(majority.name)
    counts = task.train.labels.bincount()
    assert counts[largest] == counts.max()
    assert majority.split == "test"
    assert majority.accuracy == (task.test.labels == largest).double().mean().item()


@pytest.mark.parametrize("metric", ["auroc", "kappa", "balanced_accuracy"])
@pytest.mark.parametrize("measured", ["validation", "test"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_prepare_of_a_metric_that_is_undefined_on_its_images_raises(
    tiny, workspace, metric, measured, split, monkeypatch
):
    original = _context.load_task

    def load_task(*args, **options):
        task = original(*args, **options)
        images = task.splits()[split]
        of_one = images.subset(torch.nonzero(images.labels == 1)[:, 0])
        return replace(task, **{split: of_one})

    monkeypatch.setattr(_context, "load_task", load_task)
    recipe = tiny.replace(metric=metric, selection={"holdout": measured == "validation"})
    if metric == "balanced_accuracy" or split != measured:
        assert prepare(recipe, workspace, "tiny").recipe.metric == metric
    else:
        with pytest.raises(RecipeError, match=f"the {split} images, got '{metric}' with .* one"):
            prepare(recipe, workspace, "tiny")


def test_backbone_is_a_copy_and_needs_loading(tiny, workspace, loaded):
    with pytest.raises(AssertionError, match="load the backbone first"):
        prepare(tiny, workspace, "tiny").backbone()
    one, other = loaded.backbone(), loaded.backbone()
    with torch.no_grad():
        one.head.weight.zero_()
    assert other.head.weight.any()
    assert loaded.backbone().head.weight.any()


def test_initial_model_with_a_logistic_head_is_the_fitted_backbone(tiny, workspace):
    loaded = prepare(tiny.replace(backbone={"head_init": "logistic"}), workspace, "tiny")
    loaded = loaded.with_backbone(loaded.create_backbone())
    expected = loaded.backbone()
    fit_head(expected, *loaded.train)
    one = loaded.initial_model()
    for name, value in expected.state_dict().items():
        assert torch.equal(one.state_dict()[name], value)
    assert not torch.equal(one.head.weight, loaded.backbone().head.weight)
    with torch.no_grad():
        one.head.weight.zero_()
    assert loaded.initial_model().head.weight.any()
    before, after = (evaluate(m.eval(), *loaded.train) for m in (loaded.backbone(), expected))
    assert after.accuracy > before.accuracy
    assert after.loss < before.loss


def test_initial_model_with_a_random_head_is_the_backbone(tiny, workspace):
    context = prepare(tiny.replace(backbone={"head_init": "random"}), workspace, "tiny")
    context = context.with_backbone(context.create_backbone())
    one, other = context.initial_model().state_dict(), context.backbone().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_labelled_images_are_training_then_validation_images(loaded):
    (train, one), (validation, other), (both, labels) = (
        loaded.train,
        loaded.validation,
        loaded.labelled,
    )
    assert torch.equal(labels, torch.cat([one, other]))
    index = torch.arange(len(labels))
    expected = torch.cat([train[torch.arange(len(one))], validation[torch.arange(len(other))]])
    assert torch.equal(both[index], expected)


def test_every_context_of_a_study_prepares_its_images_once(loaded, tiny):
    others = [
        replace(loaded, progress=Progress()),
        loaded.with_recipe(tiny.replace(training={"lr": 1e-3})),
        loaded.with_backbone(loaded.backbone()),
        replace(loaded, data=replace(loaded.data, holds_out=False)).holding_out(),
    ]
    for other in others:
        for name in ("train", "validation", "labelled"):
            assert getattr(other, name) is getattr(loaded, name)


def test_identity_depends_on_images_space_backbone_and_budget(tiny, workspace, loaded):
    def identity(**changes):
        context = prepare(tiny.replace(**changes), workspace, "tiny")
        return context.with_backbone(loaded.backbone()).identity

    same = loaded.identity
    assert set(same) == {"data", "search space", "backbone", "budget"}
    assert identity() == same
    for changes, keys in (
        ({"budget": "10%"}, {"budget"}),
        ({"search_space": "vectors"}, {"search space"}),
        ({"task": {"train_per_class": 6}}, {"data"}),
        ({"training": {"epochs": 2}}, set()),
    ):
        other = identity(**changes)
        assert {key for key in same if same[key] != other[key]} == keys
    changed = loaded.backbone()
    nn.init.zeros_(changed.head.bias)
    nn.init.ones_(changed.head.weight)
    other = prepare(tiny, workspace, "tiny").with_backbone(changed).identity
    assert {key for key in same if same[key] != other[key]} == {"backbone"}


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", None), ("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_scoring_dtype_follows_precision_and_device(tiny, workspace, precision, dtype):
    context = prepare(tiny.replace(training={"precision": precision}), workspace, "tiny")
    assert context.scoring_dtype is dtype


def test_with_precision_keeps_that_of_the_study(tiny, tmp_path):
    logged = Logged()
    context = prepare(tiny, Workspace(runs=tmp_path, progress=logged), "tiny")
    assert context.with_precision().recipe.training.precision == "fp32"
    kept = tiny.replace(training={"precision": "bf16"})
    assert context.with_precision(kept).recipe.training.precision == "bf16"
    assert logged.lines[-1] == "Precision bf16, as in the study; this device suits fp32."
    own = prepare(tiny.replace(training={"precision": "fp16"}), Workspace(runs=tmp_path), "tiny")
    assert own.with_precision(kept).recipe.training.precision == "fp16"


def test_resolve_device_auto_is_one_that_torch_has():
    assert resolve_device("cpu") == torch.device("cpu")
    available = torch.accelerator.is_available()
    expected = torch.accelerator.current_accelerator().type if available else "cpu"
    assert resolve_device("auto").type == expected


@pytest.mark.parametrize("name", ["cuda", "xpu", "mps"])
def test_resolve_device_auto_is_the_accelerator_of_the_machine(monkeypatch, name):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(name))
    monkeypatch.setattr(torch, "empty", lambda *args, device: None)
    module = SimpleNamespace(get_device_name=lambda device: "Chip 9")
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    assert resolve_device("auto") == torch.device(name)
    expected = f"Device {name}: the accelerator that torch finds here (Chip 9)."
    assert explain_device(torch.device(name)) == expected
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["meta", "tpu", "", "cuda:99", "cpu:99", "cpu:x", "x" * 200])
def test_resolve_device_of_another_name_raises_one_line(name):
    with pytest.raises(TaskError, match="device must be one that torch has here") as caught:
        resolve_device(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
