import numpy as np
import pytest
import torch

from glora_automl.architecture import Architecture
from glora_automl.commands import search
from glora_automl.pipeline import Context, Workspace, open_run
from glora_automl.recipes import load_recipe
from glora_automl.study import ClassReport, Stage, TestOutcome, read_recipe, summarize
from glora_automl.training import evaluate, load_checkpoint
from tests.conftest import TINY


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """A finished study, its workspace, and how often it prepared the test images."""
    folder = tmp_path_factory.mktemp("tested")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    recipe = load_recipe(str(folder / "tiny.toml")).replace(
        training={"epochs": 3}, search={"n_trials": 4}
    )
    workspace, calls, original = Workspace(runs=folder, device="cpu"), [], Context.test

    def counted(self):
        calls.append(self)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "test", counted)
        result = search(recipe, workspace=workspace)
        search(recipe, workspace=workspace)
    return result, workspace, len(calls)


def test_final_test_reads_the_test_images_once(tested):
    assert tested[2] == 1


def test_final_test_scores_every_adapter(tested):
    result, workspace, _ = tested
    with open_run(read_recipe(result.study), workspace) as run:
        images, labels = run.context.test()
        outcome = run.stages.outcome(Stage.TEST, TestOutcome)
    scored = [row for row in result.rows if row.test is not None]
    assert len(scored) >= 3
    assert all(row.test.n_images == len(labels) for row in scored)
    assert outcome.rows == result.rows
    assert outcome.spent.n_evaluated == len(scored) * len(labels)
    winner = next(row for row in result.rows if result.selection.preset in (None, row.name))
    assert evaluate(result.model, images, labels) == winner.test


def test_final_test_keeps_the_selected_adapter_by_class(tested):
    result, workspace, _ = tested
    with open_run(read_recipe(result.study), workspace) as run:
        images, labels = run.context.test()
        names = run.context.task.classes
    with torch.no_grad():
        predictions = result.model(images[:]).argmax(1)
    expected = ClassReport.of(names, labels.numpy(), predictions.numpy())
    assert result.classes == expected
    assert summarize(result.study)["classes"] == expected.to_json()


def test_final_test_searched_row_counts_the_images_of_its_stages(tested):
    result = tested[0]
    recipe = read_recipe(result.study)
    selection = recipe.selection
    row = result.rows[0]
    n_selected = round(selection.epochs_ratio * 3) or 1
    refit = max(1, round(round(selection.refit_epochs_ratio * 3) * 24 / 84))
    trained = 3 * 24 + len(set(result.selection.candidates)) * n_selected * 24
    assert row.n_images == trained + refit * 84
    assert row.seconds > 0


def test_keep_winner_writes_the_adapter_that_was_tested(tested):
    result, workspace, _ = tested
    tensors, state = load_checkpoint(workspace.folder / "tiny" / "winner.json")
    assert state["architecture"] == result.selection.architecture
    counts = sum(p.numel() for name, p in tensors.items() if not name.startswith("head."))
    assert counts == result.selection.n_params
    assert torch.equal(tensors["head.weight"], result.model.head.weight)
    assert Architecture.parse(state["architecture"])


def test_final_test_without_test_images_has_no_scores(tmp_path, tiny):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    recipe = tiny.replace(
        task={"source": "arrays"},
        backbone={"pretraining": None},
        training={"epochs": 1, "warmup_epochs": 0},
        search={"n_trials": 2},
        selection={"baselines": False},
    )
    result = search(
        recipe,
        arrays=(images, np.arange(40) % 2),
        workspace=Workspace(runs=tmp_path, device="cpu"),
    )
    assert [row.test for row in result.rows] == [None]
    assert result.rows[0].validation is not None
