import contextlib
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState

from glora_automl.architecture import Architecture
from glora_automl.commands import _search, resume, search
from glora_automl.errors import (
    BudgetError,
    CheckpointError,
    LayerError,
    RecipeError,
    StorageError,
    StudyError,
    TrainingError,
)
from glora_automl.pipeline import _objective as _proposals
from glora_automl.pipeline import _selection
from glora_automl.pipeline import _supernet as _weights
from glora_automl.pipeline._context import Setup, prepare
from glora_automl.progress import Progress
from glora_automl.recipes._recipe import parse_recipe
from glora_automl.study import load_study, summarize
from glora_automl.supernet import Supernet
from glora_automl.training import evaluate, load_checkpoint, load_tensors


def figures(result):
    """All that must not depend on when and how often a run was interrupted."""
    summary = summarize(result.study)
    for row in summary["result"]:
        del row["seconds"]
    trials = result.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    # A failed trial keeps its number, so later ones are counted without it.
    places = {trial.number: place for place, trial in enumerate(trials)}
    selection = summary["selection"]
    selection["trial"] = places[selection["trial"]]
    selection["candidates"] = [places[number] for number in selection["candidates"]]
    return (
        [(t.params, t.value, t.user_attrs["validation_loss"], t.constraints) for t in trials],
        selection,
        summary["result"],
        summary["digests"],
    )


@pytest.fixture
def setup(tiny, tmp_path):
    """The tiny recipe on this machine, with folders of its own."""
    return prepare(tiny, runs=tmp_path, name="tiny", device="cpu", progress=Progress())


def test_the_study_is_complete_and_says_what_it_is(finished, tiny):
    study = finished.study
    summary = summarize(study)
    assert summary["stage"] == "finished"
    assert summary["trials"] == {
        "target": 12,
        "complete": 12,
        "pruned": 0,
        "running": 0,
        "failed": 0,
        "all": 12,
    }
    assert summary["recipe"] == tiny.model_dump(mode="json")
    assert set(summary["digests"]) == {"data", "search space", "backbone", "supernet"}
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.metric_names == ["validation_accuracy"]


def test_every_trial_is_feasible_and_has_a_parameter_per_support_tensor(finished):
    budget = summarize(finished.study)["budget"]
    for trial in finished.study.trials:
        assert len(trial.params) == 8 * 5
        assert "blocks.0.attn.qkv.A" in trial.params
        count = trial.user_attrs["trainable_params"]
        assert trial.constraints == {"trainable_params": count - budget}
        assert 0 <= count <= budget


def artifact_of(study, what):
    """The file of the study's supernet or backbone."""
    folder = Path(study.user_attrs["glora:settings"]["artifacts"])
    return folder / study.user_attrs[f"glora:{what}"]["artifact"]["id"]


def test_trial_values_are_what_the_subnet_scores_unmerged(finished, setup):
    backbone = setup.bare_backbone()
    backbone.load_state_dict(load_tensors(artifact_of(finished.study, "backbone")))
    supernet = Supernet(backbone, setup.space.layer_choices())
    supernet.load_state_dict(load_tensors(artifact_of(finished.study, "supernet")))
    for trial in finished.study.trials[::5]:
        architecture = setup.space.architecture(trial.params)
        assert architecture.count(setup.space.shapes) == trial.user_attrs["trainable_params"]
        supernet.activate(architecture)
        unmerged = evaluate(supernet.model, *setup.validation)
        assert unmerged.accuracy == trial.value
        assert unmerged.loss == pytest.approx(trial.user_attrs["validation_loss"], abs=1e-5)


def test_controls_keep_the_budget_and_see_as_many_images(finished):
    budget = summarize(finished.study)["budget"]
    rows = {row.name: row for row in finished.rows}
    assert list(rows)[:2] == ["searched", "linear probe"]
    assert rows["linear probe"].n_params == 0
    for row in rows.values():
        assert row.n_params is None or row.n_params <= budget
    trained = [row for row in rows.values() if row.n_params is not None]
    assert {row.n_images for row in trained} == {(12 + 2) * 24}
    assert all(row.test is not None for row in trained)


def test_the_lora_control_has_the_highest_uniform_rank_that_fits(finished, setup):
    (row,) = (row for row in finished.rows if row.name.startswith("LoRA"))
    rank = int(row.name.removeprefix("LoRA r="))
    shapes = setup.space.shapes
    counts = [Architecture.uniform(shapes, B=f"lora-{r}").count(shapes) for r in (rank, rank + 1)]
    assert counts[0] == row.n_params
    assert counts[0] <= setup.budget < counts[1]


def test_the_model_is_plain_and_scores_what_the_table_says(finished, setup):
    kinds = {type(module).__name__ for module in finished.model.modules()}
    assert "GLoRALinear" not in kinds
    assert evaluate(finished.model, *setup.test()) == finished.rows[0].test


def test_a_second_run_changes_nothing(finished, finished_runs, tiny):
    before = figures(finished)
    again = search(tiny, runs=finished_runs)
    assert figures(again) == before
    assert again.rows == finished.rows
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, finished.model.state_dict()[name])


class Interrupt(BaseException):
    """Ends a run as a signal would: no handler of ours catches it."""


def interrupt_after(monkeypatch, owner, name, calls):
    """Let a function raise after it has done its work for the n-th time."""
    original = getattr(owner, name)
    left = calls

    def wrapped(*args, **kwargs):
        nonlocal left
        value = original(*args, **kwargs)
        left -= 1
        if left == 0:
            raise Interrupt
        return value

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (Setup, "backbone", 1),
        (_proposals.Scorer, "score", 1),
        (_proposals.Scorer, "score", 6),
        (_selection, "evaluate", 2),
        (_search, "train_baseline", 2),
    ],
    ids=["backbone", "first trial", "sixth trial", "selection", "baselines"],
)
def test_interrupted_equals_uninterrupted(
    finished, tiny, tmp_path, monkeypatch, owner, name, calls
):
    with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
        interrupt_after(patch, owner, name, calls)
        search(tiny, runs=tmp_path)
        pytest.fail("the interrupt did not come")
    assert figures(search(tiny, runs=tmp_path)) == figures(finished)


def test_a_trial_that_dies_twice_is_still_evaluated_once(finished, tiny, tmp_path, monkeypatch):
    for calls in (3, 1):
        with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
            interrupt_after(patch, _proposals.Scorer, "score", calls)
            search(tiny, runs=tmp_path)
    result = search(tiny, runs=tmp_path)
    assert figures(result) == figures(finished)
    assert summarize(result.study)["trials"]["failed"] == 2


def test_another_seed_gives_other_trials(finished, tiny, tmp_path):
    other = search(tiny.replace(seed=1, selection={"baselines": False}), runs=tmp_path)
    assert figures(other)[0] != figures(finished)[0]
    assert [row.name for row in other.rows] == ["searched"]


def test_more_trials_go_on_while_the_study_is_open(finished, tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
        interrupt_after(patch, _search, "select", 1)
        search(tiny.replace(search={"n_trials": 2}), runs=tmp_path)
    assert figures(search(tiny, runs=tmp_path)) == figures(finished)


def test_a_finished_study_takes_no_more_trials(finished, tiny, tmp_path):
    search(tiny.replace(search={"n_trials": 2}, selection={"baselines": False}), runs=tmp_path)
    with pytest.raises(RecipeError, match=r"has chosen its best of search\.trials = 2"):
        search(tiny.replace(selection={"baselines": False}), runs=tmp_path)


def test_other_settings_are_refused_and_the_setting_named(finished, finished_runs, tiny):
    with pytest.raises(RecipeError, match=r"training\.lr = 0\.01, this recipe has 0\.02"):
        search(tiny.replace(training={"lr": 0.02}), runs=finished_runs)


def test_budget_zero_trains_the_head_only(tiny, tmp_path):
    result = search(tiny.replace(budget=0), runs=tmp_path)
    assert result.selection.n_params == 0
    assert summarize(result.study)["trials"]["complete"] == 1
    rows = {row.name: row for row in result.rows}
    assert rows["LoRA"].n_params is None
    assert rows["BitFit"].n_params is None
    assert rows["searched"].test is not None


def test_a_budget_below_the_smallest_is_refused_before_anything_is_written(tiny, tmp_path):
    spec = tiny.search_space.model_copy(
        update={"choices": tiny.search_space.choices.model_copy(update={"E": ("vector",)})}
    )
    recipe = tiny.replace(budget=3, search_space=spec.model_dump(mode="json"))
    with pytest.raises(BudgetError, match="at least"):
        search(recipe, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_loss_can_be_the_objective(tiny, tmp_path):
    recipe = tiny.replace(search={"objectives": ["loss"]}, selection={"baselines": False})
    result = search(recipe, runs=tmp_path)
    assert result.study.direction == optuna.study.StudyDirection.MINIMIZE
    assert result.study.best_value == min(
        trial.user_attrs["validation_loss"] for trial in result.study.trials
    )


def test_inherited_weights_are_kept_without_fine_tuning(tiny, tmp_path):
    recipe = tiny.replace(selection={"finetune_epochs": 0, "baselines": False})
    result = search(recipe, runs=tmp_path)
    assert result.selection.finetuned is None
    assert result.rows[0].validation == result.selection.inherited


@pytest.fixture
def searching(tiny, tmp_path, monkeypatch):
    """A study that was interrupted in its fourth trial."""
    with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
        interrupt_after(patch, _proposals.Scorer, "score", 4)
        search(tiny, runs=tmp_path)
    return optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/studies.db")


@pytest.mark.parametrize("what", ["backbone", "supernet"])
def test_an_altered_artifact_is_refused_and_told(searching, what, tiny, tmp_path):
    weights = artifact_of(searching, what)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"must have sha256 .* altered or cut short"):
        search(tiny, runs=tmp_path)
    assert len(searching.trials) == 5  # the fourth and its retry


@pytest.mark.parametrize("what", ["backbone", "supernet"])
def test_a_missing_artifact_is_told_with_the_way_out(searching, what, tiny, tmp_path):
    artifact_of(searching, what).unlink()
    with pytest.raises(CheckpointError, match=r"is missing; give .* --artifacts"):
        search(tiny, runs=tmp_path)


def test_a_missing_artifact_folder_is_told_with_the_way_out(searching, tiny, tmp_path):
    (tmp_path / "artifacts").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"no folder .*artifacts' on this machine.*--artifacts"):
        search(tiny, runs=tmp_path)
    search(tiny, runs=tmp_path, artifacts=str(tmp_path / "elsewhere"))


def test_a_published_checkpoint_that_is_gone_is_no_obstacle(finished, tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
        interrupt_after(patch, _weights._SharedCheckpoint, "publish", 2)
        patch.setattr(_weights._SharedCheckpoint, "share", 1e9)
        search(tiny, runs=tmp_path / "first")
    storage = f"sqlite:///{tmp_path}/first/studies.db"
    stages = optuna.load_study(study_name="tiny/stages", storage=storage)
    (attempt,) = [t for t in stages.trials if "checkpoint" in t.user_attrs]
    artifacts = tmp_path / "first/artifacts"
    newest = artifacts / attempt.user_attrs["checkpoint"]["artifact"]["id"]
    newest.unlink()
    result = resume("tiny", storage=storage, runs=tmp_path / "second")
    assert figures(result) == figures(finished)


def test_checkpoints_are_among_the_artifacts_only_until_they_are_of_no_use(
    tiny, tmp_path, monkeypatch
):
    found = []
    original = _weights._SharedCheckpoint.publish

    def publish(self):
        original(self)
        found.append(len(list((tmp_path / "artifacts").iterdir())))

    monkeypatch.setattr(_weights._SharedCheckpoint, "publish", publish)
    monkeypatch.setattr(_weights._SharedCheckpoint, "share", 1e9)
    search(tiny.replace(selection={"baselines": False}), runs=tmp_path)
    assert found == [2] * 6  # the backbone's and the newest checkpoint's
    assert len(list((tmp_path / "artifacts").iterdir())) == 3  # backbone, supernet, winner


def test_a_diverging_training_is_told_and_leaves_no_trial(tiny, tmp_path):
    recipe = tiny.replace(training={"lr": 1e30, "clip_grad": 0.0})
    with pytest.raises(TrainingError, match="lower lr"):
        search(recipe, runs=tmp_path)
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/studies.db")
    assert study.trials == []


def test_trials_may_not_be_taken_back(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
        interrupt_after(patch, _proposals.Scorer, "score", 2)
        search(tiny, runs=tmp_path)
    with pytest.raises(RecipeError, match="may be raised, from 12 on, got 3"):
        search(tiny.replace(search={"n_trials": 3}), runs=tmp_path)


def test_trials_that_are_raised_before_the_selection_are_made(
    finished, tiny, tmp_path, monkeypatch
):
    """Somebody raises the target after the last trial, before anybody has begun to choose."""
    original = _selection.select
    raised = []

    def select(run, claim):
        if not raised:
            raised.append(1)
            settings = run.study.user_attrs["glora:settings"]
            recipe = {
                **settings["recipe"],
                "search": {**settings["recipe"]["search"], "n_trials": 12},
            }
            run.study.set_user_attr("glora:settings", {**settings, "recipe": recipe, "target": 12})
        return original(run, claim)

    monkeypatch.setattr(_search, "select", select)
    result = search(tiny.replace(search={"n_trials": 3}), runs=tmp_path)
    assert figures(result) == figures(finished)


def test_a_study_that_was_started_anew_with_other_settings_is_left(tiny, tmp_path, monkeypatch):
    """As long as there is no supernet, a mended recipe may take the name."""
    original = _search.load_backbone

    def load_backbone(run):
        loaded = original(run)
        if len(started) == 0:
            started.append(1)
            with monkeypatch.context() as patch:
                patch.setattr(_search, "_work", lambda run: None)
                search(tiny.replace(training={"lr": 0.02}), runs=tmp_path)
        return loaded

    started = []
    monkeypatch.setattr(_search, "load_backbone", load_backbone)
    with pytest.raises(StudyError, match="somebody has started it anew with others"):
        search(tiny, runs=tmp_path)
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/studies.db")
    assert study.user_attrs["glora:settings"]["recipe"]["training"]["lr"] == 0.02
    assert study.trials == []


def test_attributes_of_the_users_own_do_no_harm(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
        interrupt_after(patch, _proposals.Scorer, "score", 2)
        search(tiny, runs=tmp_path)
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/studies.db")
    study.set_user_attr("note", "mine")
    assert resume("tiny", runs=tmp_path).rows


def test_a_foreign_study_of_the_name_is_left_alone(tiny, tmp_path):
    url = f"sqlite:///{tmp_path}/studies.db"
    foreign = optuna.create_study(study_name="tiny", storage=url, direction="maximize")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match="not one of GLoRA's"):
        search(tiny, runs=tmp_path)
    assert foreign.user_attrs == {}
    assert len(foreign.trials) == 1


def test_a_newer_format_is_refused(tiny, tmp_path, monkeypatch):
    storage = f"sqlite:///{tmp_path}/studies.db"
    study = optuna.create_study(study_name="new", storage=storage)
    study.set_user_attr("glora:format", 99)
    with pytest.raises(StudyError, match="format 99"):
        load_study(study._storage, "new")


def test_an_interrupted_creation_is_done_over(tiny, tmp_path, finished):
    url = f"sqlite:///{tmp_path}/studies.db"
    study = optuna.create_study(study_name="tiny", storage=url, direction="maximize")
    study.set_user_attr("glora:recipe", {})
    assert figures(search(tiny, runs=tmp_path)) == figures(finished)


def test_an_empty_study_of_another_direction_is_refused(tiny, tmp_path):
    optuna.create_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/studies.db")
    with pytest.raises(StudyError, match="other objectives, minimize instead of maximize"):
        search(tiny, runs=tmp_path)


def test_checkpoints_of_other_images_are_not_taken(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
        interrupt_after(patch, _weights, "train", 1)
        search(tiny, runs=tmp_path)
    (tmp_path / "studies.db").unlink()
    assert list((tmp_path / "tiny").glob("supernet-*.json"))
    recipe = tiny.replace(task={"validation_per_class": 10}, selection={"baselines": False})
    found = search(recipe, runs=tmp_path)
    standalone = search(recipe, runs=tmp_path / "standalone")
    assert figures(found) == figures(standalone)
    assert not list((tmp_path / "tiny").glob("supernet-*"))


@pytest.mark.parametrize("after", ["divergence", "checkpoint"])
def test_a_mended_recipe_starts_over_under_the_same_name(tiny, tmp_path, monkeypatch, after):
    if after == "divergence":
        with pytest.raises(TrainingError):
            search(tiny.replace(training={"lr": 1e30, "clip_grad": 0.0}), runs=tmp_path)
    else:
        with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
            interrupt_after(patch, _weights, "train", 1)
            search(tiny.replace(training={"lr": 0.03}), runs=tmp_path)
    recipe = tiny.replace(selection={"baselines": False}, search={"n_trials": 2})
    assert summarize(search(recipe, runs=tmp_path).study)["recipe"]["training"]["lr"] == 0.01


@pytest.mark.parametrize("name", ["..", "a/b", "/tmp/x", "backbones", "", "a b"])
def test_names_that_reach_out_of_the_folder_are_refused(tiny, tmp_path, name):
    with pytest.raises(RecipeError):
        search(tiny, runs=tmp_path / "runs", name=name or " ")
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_pretraining_goes_on_where_it_was(finished, tiny, tmp_path, monkeypatch):
    recipe = tiny.replace(backbone={"pretraining": {"checkpoint_every": 1}})
    from glora_automl.training import _position

    with monkeypatch.context() as patch, contextlib.suppress(Interrupt):
        interrupt_after(patch, _position, "save_checkpoint", 2)
        search(recipe, runs=tmp_path)
    (unfinished,) = (tmp_path / "backbones").glob("*-training.json")
    calls = []
    with monkeypatch.context() as patch:
        original = _position.save_checkpoint
        patch.setattr(_position, "save_checkpoint", lambda *a: calls.append(a) or original(*a))
        result = search(recipe, runs=tmp_path)
    assert sum("pretraining" in state["stage"] for _, _, state in calls) == 2
    assert not unfinished.exists()
    assert figures(result)[3] == figures(finished)[3]


def test_a_finished_study_is_read_and_not_done_over(finished, finished_runs, tiny, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("nothing may be trained, scored or tested again")

    monkeypatch.setattr(_weights, "train", refuse)
    monkeypatch.setattr(_search, "run_trials", refuse)
    monkeypatch.setattr(_search, "select", refuse)
    monkeypatch.setattr(Setup, "test", refuse)
    before = summarize(finished.study)["seconds"]
    again = search(tiny, runs=finished_runs)
    assert again.rows == finished.rows
    assert again.selection == finished.selection
    assert summarize(again.study)["seconds"] == before


def test_a_finished_study_gives_its_winner_to_another_folder(finished, finished_runs, tmp_path):
    again = resume("tiny", storage=f"sqlite:///{finished_runs}/studies.db", runs=tmp_path)
    assert again.rows == finished.rows
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, finished.model.state_dict()[name])
    assert load_checkpoint(tmp_path / "tiny/winner.json") is not None


def test_a_model_that_cannot_be_adapted_is_refused_before_anything_is_written(tiny, tmp_path):
    backbone = {
        "model": "resnet18",
        "pretraining": None,
        "kwargs": {"pretrained_cfg_overlay": {"input_size": [3, 32, 32]}},
    }
    table = tiny.model_dump(mode="json") | {"backbone": backbone}
    with pytest.raises(LayerError, match=r"conv1: a convolution over 7 x 7 pixels"):
        search(parse_recipe(table, "recipe tiny"), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_study_of_a_version_with_fewer_settings_is_not_done_again(
    finished, finished_place, monkeypatch
):
    storage = f"sqlite:///{finished_place['runs']}/studies.db"
    study = optuna.load_study(study_name="tiny", storage=storage)
    settings = study.user_attrs["glora:settings"]
    del settings["recipe"]["selection"]["refit"]
    study.set_user_attr("glora:settings", {**settings, "key": "0123456789abcdef"})
    stages = optuna.load_study(study_name="tiny/stages", storage=storage)
    for trial in stages.trials:  # such a version's key was another one
        finished_one = (
            trial.state == TrialState.COMPLETE and trial.user_attrs["stage"] != "settings"
        )
        if finished_one:
            copied = optuna.trial.create_trial(
                value=trial.value,
                user_attrs={**trial.user_attrs, "key": "0123456789abcdef"},
            )
            stages.add_trial(copied)
    for name in ("load_supernet", "run_trials", "select", "train_baseline", "final_test"):
        monkeypatch.setattr(_search, name, lambda *_, **__: pytest.fail("it is done"))
    assert resume("tiny", **finished_place).rows == finished.rows


def test_layers_whose_weight_is_read_without_a_call_are_searched_without_bias(tiny, tmp_path):
    kwargs = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    backbone = {"model": "beit_base_patch16_224", "pretraining": None, "kwargs": kwargs}
    table = tiny.model_dump(mode="json") | {"backbone": backbone}
    recipe = parse_recipe(table, "recipe beit")
    setup = prepare(recipe, runs=tmp_path, name="beit", device="cpu", progress=Progress())
    names = {d.name for d in setup.space.dimensions if "qkv" in d.name}
    assert names == {"blocks.0.attn.qkv.A", "blocks.0.attn.qkv.B"}
