import pytest
import torch

from glora_automl.commands import search
from glora_automl.pipeline import Workspace, _forecast, forecast, prepare
from glora_automl.pipeline._device import explain_device
from glora_automl.pipeline._forecast import stage_work
from glora_automl.presets import lora
from glora_automl.progress import Progress
from glora_automl.study import Stage, stage_costs
from glora_automl.training import Score


class Logged(Progress):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


@pytest.fixture
def context(tiny, tmp_path):
    found = prepare(tiny, Workspace(runs=tmp_path, device="cpu"), "tiny")
    return found.with_backbone(found.create_backbone())


def test_stage_work_equals_the_costs_of_a_finished_study(context, finished):
    costs = stage_costs(finished.study)
    done = {cost.stage: (cost.n_trained, cost.n_evaluated) for cost in costs}
    del done[Stage.BACKBONE]
    work = stage_work(context)
    assert {stage: (w.n_trained, w.n_evaluated) for stage, w in work.items()} == done


def test_stage_work_of_a_margin_has_all_steps_of_a_ladder(context):
    recipe = context.recipe.replace(selection={"margin": 5})
    work = stage_work(context.with_recipe(recipe))
    assert work[Stage.LADDER].n_trained == 5 * work[Stage.SELECTION].n_trained / 2
    assert list(work).index(Stage.LADDER) < list(work).index(Stage.REFIT)


def test_stage_work_leaves_out_stages_without_images(tiny, tmp_path):
    recipe = tiny.replace(selection={"refit": False, "baselines": False})
    work = stage_work(prepare(recipe, Workspace(runs=tmp_path, device="cpu"), "tiny"))
    assert list(work) == [Stage.SUPERNET, Stage.SEARCH, Stage.SELECTION, Stage.TEST]


def test_forecast_describes_images_budget_probe_and_time(context):
    device, images, budget, note, probe, time = forecast(context)
    assert device == explain_device(context.device)
    assert images == "Images: 24 training (8 per class), 60 validation, 458 test; 3 classes."
    assert budget.startswith(f"Budget: {context.budget:,} parameters")
    assert "fits in every layer" in note
    assert "A linear probe classifies" in probe
    assert "the largest class alone is 33.3%" in probe
    assert "supernet" in time
    assert "refit" in time


def test_forecast_notes_that_lora_fits_in_every_layer(tiny, tmp_path):
    def notes(budget):
        recipe = tiny.replace(budget=budget)
        found = prepare(recipe, Workspace(runs=tmp_path, device="cpu"), "tiny")
        lines = forecast(found.with_backbone(found.create_backbone()))
        return [line for line in lines if line.startswith("Note: LoRA of rank ")]

    context = prepare(tiny, Workspace(runs=tmp_path, device="cpu"), "tiny")
    rank_two = lora(context.space.shapes, 2).count(context.space.shapes)
    (note,) = notes(rank_two)
    assert note.startswith("Note: LoRA of rank 2 fits in every layer.")
    rank_one = lora(context.space.shapes, 1).count(context.space.shapes)
    assert len(notes(rank_one)) == 1
    assert notes(rank_one - 1) == []


@pytest.mark.parametrize(
    ("stage", "share", "words"),
    [
        (Stage.SUPERNET, 0.5, "It will have one trial. Raise `timeout`"),
        (Stage.SEARCH, 0.5, "with about 50% of its trials"),
        (Stage.SEARCH, 1.5, "enough for all trials"),
    ],
)
def test_forecast_of_a_time_limit_names_what_fits(context, monkeypatch, stage, share, words):
    monkeypatch.setattr(_forecast, "_seconds_per_forward", lambda context: 1.0)
    work = stage_work(context)
    before = 0 if stage == Stage.SUPERNET else work[Stage.SUPERNET].forward_images
    *_, line = forecast(context, before + share * work[stage].forward_images)
    assert words in line


def test_forecast_leaves_the_backbone_and_the_random_numbers_of_trainings_alone(context):
    before = {k: v.clone() for k, v in context.initial_model().state_dict().items()}
    list(forecast(context))
    after = context.initial_model().state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_forecast_of_a_perfect_probe_on_few_images_has_no_warning(context, monkeypatch):
    images, labels = context.validation
    few = torch.cat([torch.nonzero(labels == label)[:2, 0] for label in (0, 1)])
    monkeypatch.setitem(context.images.__dict__, "validation", (images[few], labels[few]))
    perfect = Score(1.0, 0.1, len(few))
    monkeypatch.setattr(_forecast, "evaluate", lambda *args: perfect)
    text = "\n".join(forecast(context))
    assert "classifies 100.0% of the validation images; the largest class alone is 50.0%" in text
    assert "hardly better" not in text


def test_forecast_warns_of_a_random_backbone_and_of_labels_at_chance(context, monkeypatch):
    recipe = context.recipe.replace(backbone={"pretraining": None})
    generator = torch.Generator().manual_seed(0)
    for name in ("train", "validation"):
        images, labels = getattr(context, name)
        shuffled = labels[torch.randperm(len(labels), generator=generator)]
        monkeypatch.setitem(context.images.__dict__, name, (images, shuffled))
    monkeypatch.setitem(context.__dict__, "recipe", recipe)
    warnings = [line for line in forecast(context) if line.startswith("Warning")]
    assert len(warnings) == 2
    assert "random weights" in warnings[0]
    assert "hardly better" in warnings[1]


def test_search_forecasts_before_the_supernet_alone(tiny, tmp_path):
    first, second = Logged(), Logged()
    search(tiny, workspace=Workspace(runs=tmp_path, progress=first))
    search(tiny, workspace=Workspace(runs=tmp_path, progress=second))
    assert any(line.startswith("Expected time") for line in first.lines)
    assert not any(line.startswith("Expected time") for line in second.lines)
