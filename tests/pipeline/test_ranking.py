import threading
import tomllib
from contextlib import contextmanager

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from glora_automl.backbones import BackboneSettings, CandidateBackbone, create_model
from glora_automl.commands import resume, search, select
from glora_automl.errors import RecipeError, Stopped, TaskError
from glora_automl.export import export_model
from glora_automl.pipeline import Workspace, _ranking, open_run, prepare
from glora_automl.progress import Progress
from glora_automl.recipes import parse_recipe
from glora_automl.search_space import load_search_space
from glora_automl.study import Stage, get_setting, read_ranking, read_recipe, stage_costs, summarize
from glora_automl.tasks import load_task
from tests.conftest import TINY

VIT = {"img_size": 8, "patch_size": 4, "embed_dim": 128, "depth": 2, "num_heads": 2}
SMALL = {"pretrained_cfg_overlay": {"input_size": [3, 32, 32]}}
KWARGS = {
    "vit_tiny_patch16_224": VIT,
    "test_resnet": SMALL,
    "test_efficientnet": SMALL,
}
CLASSES = [1, 3, 5, 7, 8, 9]
BEST = "vit_tiny_patch16_224=best.safetensors"
"""Label of the candidate that was trained on the classes."""


def recipe_of(backbone, **task):
    """The tiny recipe with another backbone and three trials."""
    found = tomllib.loads(TINY)
    found["search_space"] = load_search_space("lean").model_dump(mode="json")
    found |= {"name": "tiny", "selection": {"baselines": False}}
    found["search"]["n_trials"] = 3
    found["training"]["epochs"] = 4
    found["task"] |= {"classes": CLASSES, "pretraining_classes": [0]} | task
    return parse_recipe({**found, "backbone": backbone}, "recipe tiny")


def new_model(name, seed):
    return create_model(BackboneSettings(model=name, kwargs=KWARGS[name]), len(CLASSES), seed)


def trained_on_the_classes():
    """A model whose features separate the classes."""
    name = "vit_tiny_patch16_224"
    recipe = recipe_of({"model": name, "kwargs": VIT}, train_per_class=30)
    images, labels = prepare(recipe, Workspace(device="cpu"), "tiny").train
    model = new_model(name, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(images[:]), labels).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def candidates(tmp_path_factory):
    """Candidates with local checkpoints, the best in the middle."""
    folder = tmp_path_factory.mktemp("weights")
    models = {
        "resnet": ("test_resnet", new_model("test_resnet", 2)),
        "best": ("vit_tiny_patch16_224", trained_on_the_classes()),
        "efficientnet": ("test_efficientnet", new_model("test_efficientnet", 3)),
    }
    found = []
    for stem, (name, model) in models.items():
        path = folder / f"{stem}.safetensors"
        safetensors.torch.save_file(model.state_dict(), path)
        found.append({"model": name, "checkpoint": str(path), "kwargs": KWARGS[name]})
    return found


@pytest.fixture(scope="module")
def recipe(candidates):
    return recipe_of({"model": "auto", "candidates": candidates})


@pytest.fixture
def workspace(tmp_path):
    return Workspace(runs=tmp_path / "runs", device="cpu")


@pytest.fixture
def ranked(monkeypatch):
    """Labels of the candidates that were ranked."""
    original, found = _ranking._Ranking._rank, []

    def rank(self, candidate):
        found.append(candidate.label)
        return original(self, candidate)

    monkeypatch.setattr(_ranking._Ranking, "_rank", rank)
    return found


def chosen(recipe, workspace, **backbone):
    """The ranking of a study that is created and left."""
    changed = recipe.replace(backbone=backbone) if backbone else recipe
    with open_run(changed, workspace) as run:
        ranking = read_ranking(run.study)
        backbone = run.context.recipe.backbone
        assert read_recipe(run.study).backbone == backbone
        row = ranking.rows[ranking.chosen]
        parts = {key: getattr(backbone, key) for key in ("model", "pretrained", "checkpoint")}
        assert row.name == CandidateBackbone(**parts).label
        assert row.n_params == run.context.n_backbone_params
    return ranking


def test_ranking_shows_each_candidate_before_its_accuracy(recipe, tmp_path):
    notes = []

    class Notes(Progress):
        @contextmanager
        def stage(self, title, total, unit):
            def advance(steps=1, note="", *, earlier=False):
                if title == "Rank backbones":
                    notes.append((steps, note))

            yield advance

    chosen(recipe, Workspace(runs=tmp_path / "runs", device="cpu", progress=Notes()))
    labels = [candidate.label for candidate in recipe.backbone.candidates]
    assert [note for steps, note in notes if not steps] == [f"now {label}" for label in labels]
    assert [note.partition(",")[0] for steps, note in notes if steps] == labels


def test_search_takes_the_best_candidate_to_the_end(recipe, workspace, ranked, tmp_path):
    result = search(recipe, workspace=workspace)
    ranking = read_ranking(result.study)
    rows = {row.name: row for row in ranking.rows}
    assert list(rows) == ranked
    assert ranking.rows[ranking.chosen].name == BEST
    assert rows[BEST].accuracy > 0.05 + max(
        row.accuracy for name, row in rows.items() if name != BEST
    )
    # Budget, cost and records are those of the chosen backbone.
    assert result.budget == rows[BEST].n_params // 5
    (cost,) = [cost for cost in stage_costs(result.study) if cost.stage == Stage.BACKBONES]
    assert (cost.n_trained, cost.n_evaluated) == (0, 3 * ranking.n_images) == (0, 3 * 48)
    assert summarize(result.study)["ranking"] == ranking.to_json()
    assert read_recipe(result.study).backbone.candidates == ()
    # Every further command continues with it, and ranks nothing.
    ranked.clear()
    for again in (search(recipe, workspace=workspace), resume("tiny", workspace=workspace)):
        assert again.selection == result.selection
    assert select("tiny", "5%", workspace=workspace).budget == rows[BEST].n_params // 20
    record = export_model("tiny", "adapter", tmp_path / "exported", workspace=workspace).record
    assert record.backbone.model == "vit_tiny_patch16_224"
    assert ranked == []
    # One model is the same study, other candidates are not.
    own = recipe.replace(backbone=read_recipe(result.study).backbone.model_dump(mode="json"))
    assert search(own, workspace=workspace).selection == result.selection
    other = recipe.replace(backbone={"candidates": ["test_resnet", "test_efficientnet"]})
    with pytest.raises(RecipeError, match=r"backbone\.model must be 'vit_tiny.*`name`"):
        search(other, workspace=workspace)
    assert ranked == []


def test_ranking_limit_excludes_the_best_candidate(recipe, workspace):
    ranking = chosen(recipe, workspace, max_params="390k")
    reasons = {row.name: row.reason for row in ranking.rows}
    assert "above max_params = 390k" in reasons.pop(BEST)
    assert list(reasons.values()) == [None, None]


def test_ranking_of_equal_accuracy_takes_fewer_parameters(recipe, workspace, monkeypatch):
    monkeypatch.setattr(_ranking, "leave_one_out_accuracy", lambda features, labels: 0.5)
    ranking = chosen(recipe, workspace)
    sizes = [row.n_params for row in ranking.rows]
    assert sizes[ranking.chosen] == min(sizes)


def test_ranking_candidate_that_fails_is_a_row_with_its_reason(
    recipe, workspace, monkeypatch, tmp_path
):
    original, calls = _ranking.frozen_features, []

    def features(model, *args):
        calls.append(type(model).__name__)
        if calls[-1] == "ResNet":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        if calls[-1] == "EfficientNet":
            return original(model, *args) * float("nan")
        return original(model, *args)

    monkeypatch.setattr(_ranking, "frozen_features", features)
    (tmp_path / "gone.pth").write_bytes(b"gone")
    gone = f"test_convnext={tmp_path}/gone.pth"
    attention = {"layers": ["blocks.*.attn.*"]}
    ranking = chosen(
        recipe.replace(search_space={"base": "lean", **attention}, name="attention"), workspace
    )
    assert [row.accuracy is None for row in ranking.rows] == [True, False, True]
    assert all("blocks" in ranking.rows[place].reason for place in (0, 2))
    kept = recipe.model_dump(mode="json")["backbone"]["candidates"]
    ranking = chosen(recipe, workspace, candidates=[gone, *kept])
    reasons = [row.reason for row in ranking.rows]
    assert "gone.pth" in reasons[0]
    assert "out of memory" in reasons[1]
    assert reasons[2] is None
    assert "not finite" in reasons[3]
    assert len(ranking.rows) == 4


def test_ranking_without_a_usable_candidate_raises_one_line(recipe, workspace):
    with pytest.raises(TaskError, match=r"max_latency_ms = 1e-06.*Set other") as caught:
        chosen(recipe, workspace, max_latency_ms=1e-6)
    assert "\n" not in str(caught.value)
    # The corrected recipe starts under the same name.
    assert chosen(recipe, workspace).rows


def test_ranking_that_was_stopped_continues(recipe, workspace, ranked, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped):

        def stop():
            if len(ranked) == 2:
                raise Stopped

        patch.setattr("glora_automl.workers.Worker.check_stop", lambda worker: stop())
        chosen(recipe, workspace)
    first = list(ranked)
    ranked.clear()
    ranking = chosen(recipe, workspace)
    assert ranked == [row.name for row in ranking.rows][1:]
    assert first == [row.name for row in ranking.rows][:2]
    assert all(row.accuracy is not None for row in ranking.rows)


def test_ranking_workers_that_start_together_rank_once(recipe, workspace, ranked):
    found = []

    def work():
        found.append(chosen(recipe, workspace))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ranked) == 3
    assert found[0] == found[1]


def test_ranking_sees_images_spread_over_the_training_images(recipe, workspace, monkeypatch):
    monkeypatch.setattr(_ranking, "MAX_IMAGES", 6)
    original, labels = _ranking.leave_one_out_accuracy, []

    def accuracy(features, found):
        labels.append(found.tolist())
        return original(features, found)

    monkeypatch.setattr(_ranking, "leave_one_out_accuracy", accuracy)
    assert chosen(recipe, workspace).n_images == 6
    task = load_task(recipe.task, recipe.seed)
    assert labels == 3 * [task.train.labels[[0, 9, 19, 28, 38, 47]].tolist()]


def test_prepare_of_candidates_raises_one_line(recipe, workspace, tmp_path):
    with pytest.raises(RecipeError, match=r"must be one model here, got 'auto'"):
        prepare(recipe, workspace, "tiny")


def test_search_unknown_candidate_raises_and_leaves_no_file(recipe, workspace, tmp_path):
    changed = recipe.replace(backbone={"candidates": ["test_vit", "test_vti2"]})
    with pytest.raises(TaskError, match=r"'test_vti2'\. Did you mean 'test_vit"):
        search(changed, workspace=workspace)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_one_model_have_no_ranking(tiny, workspace):
    with open_run(tiny, workspace) as run:
        assert read_ranking(run.study) is None
        assert get_setting(run.study, "ranking") is None
