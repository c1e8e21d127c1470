"""Candidates that are trained for real before one is chosen."""

import pytest

from glora_automl.architecture import Architecture, LayerShape
from glora_automl.cli._output import print_found
from glora_automl.commands import compare, search
from glora_automl.errors import RecipeError
from glora_automl.export import export_model
from glora_automl.pipeline import _selection
from glora_automl.pipeline import _standalone as _alone
from glora_automl.pipeline._context import prepare
from glora_automl.pipeline._initial import initial_presets
from glora_automl.progress import Progress
from glora_automl.recipes import load_recipe
from glora_automl.study import CONTROLS_ASIDE, Row, best_row, find_architecture
from glora_automl.study._result import is_better
from glora_automl.training import Score
from tests.conftest import TINY


def with_halving(recipe):
    """A recipe with a contest."""
    return recipe.replace(
        selection={
            "n_candidates": 4,
            "rounds": [4, 2, 1],
            "lrs": [1e-5, 1e-2],
            "finetune_epochs": 2,
            "baselines": False,
        },
        training={"epochs": 6},
    )


class Watched:
    """Records the trainings of architectures alone."""

    def __init__(self, patch, stop_at=None):
        original = _alone.train
        self.trained = []

        def train(*args, **keywords):
            self.trained.append((keywords["stage"], args[4].epochs, args[4].lr))
            if len(self.trained) == stop_at:
                raise KeyboardInterrupt
            return original(*args, **keywords)

        patch.setattr(_alone, "train", train)


@pytest.fixture(scope="module")
def won(tmp_path_factory):
    """A study with a contest, and the trainings of that."""
    folder = tmp_path_factory.mktemp("successive_halving")
    (folder / "tiny.toml").write_text(TINY, encoding="utf-8")
    recipe = with_halving(load_recipe(str(folder / "tiny.toml")))
    with pytest.MonkeyPatch.context() as patch:
        watched = Watched(patch)
        return recipe, search(recipe, runs=folder / "runs"), watched.trained


def test_rounds_are_fewer_and_longer(won):
    _, result, trained = won
    assert [(epochs, lr) for _, epochs, lr in trained] == (
        [(2, 1e-2)] * 4 + [(4, 1e-2)] * 2 + [(8, 1e-2), (8, 1e-5)]
    )
    stages = [stage for stage, _, _ in trained]
    assert len(set(stages)) == 4
    assert set(stages[4:6]) < set(stages[:4])
    assert len({*stages[6:]}) == 1
    assert stages[6] in stages[4:6]
    assert result.selection.retrained is not None
    row = result.rows[0]
    assert row.n_images == 24 * (6 + 4 * 2 + 2 * 4 + 2 * 8)


def test_the_winner_is_the_one_that_won(won):
    _, result, trained = won
    selection = result.selection
    digest = Architecture.parse(selection.architecture).digest
    assert trained[-1][0] == f"contest-{digest[:16]}"
    assert selection.n_candidates[0] == selection.trial
    assert len(selection.n_candidates) == 4
    assert selection.weights == "retrained"
    assert result.rows[0].validation == selection.score == selection.retrained
    assert selection.finetuned is None


def test_half_of_those_who_take_part_are_picked_by_hand(won, tmp_path):
    recipe, _, trained = won
    setup = prepare(recipe, runs=tmp_path, name="tiny", device="cpu", progress=Progress())
    known = {setup.space.architecture(params).digest[:16] for params in initial_presets(setup)}
    first = {stage.removeprefix("contest-") for stage, _, _ in trained[:4]}
    assert len(first) == 4
    assert len(first & known) == 2


def test_a_contest_of_one_is_of_the_best_alone(tiny, tmp_path, monkeypatch):
    watched = Watched(monkeypatch)
    selection = {"rounds": [1], "candidates": 2, "finetune_epochs": 0, "baselines": False}
    result = search(tiny.replace(selection=selection), runs=tmp_path)
    assert len(result.selection.n_candidates) == 2
    assert len(watched.trained) == 1


@pytest.fixture
def beaten(tiny, tmp_path, monkeypatch):
    """A study in which BitFit validates best."""
    original = _selection.competing_baselines

    def competing_baselines(run):
        found = original(run)
        assert list(found) == ["linear probe", "LoRA r=2", "BitFit"]
        row = {**found["BitFit"]["row"], "validation": Score(1.0, 0.1, 60, 0.1)._asdict()}
        return {**found, "BitFit": {**found["BitFit"], "row": row}}

    monkeypatch.setattr(_selection, "competing_baselines", competing_baselines)
    recipe = tiny.replace(selection={"rounds": [2, 1], "finetune_epochs": 0})
    return search(recipe, runs=tmp_path / "runs")


def test_a_control_that_validates_better_is_chosen(beaten, tmp_path, capsys):
    searched, aside, *baselines = beaten.rows
    (bitfit,) = (row for row in baselines if row.name == "BitFit")
    selection = beaten.selection
    assert (selection.trial, selection.baseline, selection.origin) == (
        None,
        "BitFit",
        "control BitFit",
    )
    assert selection.architecture == str(Architecture.uniform(layers(selection), E="vector"))
    assert selection.n_params == searched.n_params == bitfit.n_params
    assert searched.name == "searched"
    assert searched.validation == selection.score == Score(1.0, 0.1, 60, 0.1)
    assert searched.test == bitfit.test
    print_found(beaten, tmp_path, None, as_json=False)
    assert (
        "BitFit validates better than what was found (a calibrated loss of 0.100, not "
        f"{aside.validation.scaled_loss:.3f}), and was chosen."
    ) in capsys.readouterr().out
    # They took part, so what they have cost is a part of what the search has cost.
    own = 24 * (12 + 2 * 6 + 12)
    assert searched.n_images == own + sum(row.n_images for row in baselines)
    assert searched.seconds == pytest.approx(
        aside.seconds + sum(row.seconds for row in baselines), abs=2
    )
    assert (tmp_path / "runs" / "tiny" / "winner.json").exists()
    assert find_architecture(beaten.study) == (None, Architecture.parse(selection.architecture))
    written = export_model("tiny", "adapter", tmp_path / "out", runs=tmp_path / "runs")
    about = written.to_json()["about"]
    assert (about["trial"], about["baseline"]) == (None, "BitFit")
    assert "in the way of BitFit" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    # What was found is told, too: trained as a control is, and tested.
    assert (aside.name, aside.n_images) == (CONTROLS_ASIDE, own)
    assert aside.test is not None
    assert aside.validation != searched.validation
    assert aside.n_params <= beaten.budget
    compared = compare("tiny", runs=tmp_path / "runs", architectures=0)
    assert compared.rows[0] == searched


def layers(selection):
    """The layers of a selection's architecture, as shapes that only need their names."""
    return dict.fromkeys(Architecture.parse(selection.architecture), LayerShape(4, 4))


def test_what_is_chosen_validates_as_well_as_any_control(tiny, tmp_path, monkeypatch):
    watched = Watched(monkeypatch)
    recipe = tiny.replace(selection={"rounds": [2, 1], "finetune_epochs": 0})
    searched, *baselines = search(recipe, runs=tmp_path).rows
    assert best_row([searched, *baselines]) is searched
    stages = [stage for stage, _, _ in watched.trained]
    assert stages[:3] == ["linear probe", "LoRA r=2", "BitFit"]
    assert all(stage.startswith("contest-") for stage in stages[3:])


def test_the_best_is_by_calibrated_loss():
    sure, accurate = Score(0.5, 9.0, 10, 0.8), Score(0.6, 1.0, 10, 0.9)
    rows = [Row(name, 1, score) for name, score in (("a", accurate), ("b", sure), ("c", sure))]
    assert best_row(rows).name == "b"
    assert is_better(sure, accurate)
    assert not is_better(sure, sure)


def test_an_interrupted_contest_ends_as_if_it_had_not_been(won, tmp_path, monkeypatch):
    recipe, result, _ = won
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Watched(patch, stop_at=6)
        search(recipe, runs=tmp_path)
    again = search(recipe, runs=tmp_path)
    assert again.selection == result.selection
    assert again.rows[0].test == result.rows[0].test


def test_what_is_trained_alone_is_trained_at_each_rate_and_the_best_is_kept(
    tiny, tmp_path, monkeypatch
):
    watched = Watched(monkeypatch)
    recipe = tiny.replace(architecture="bitfit", selection={"lrs": [1e-7, 1e-2]})
    (row,) = search(recipe, runs=tmp_path).rows
    assert [lr for _, _, lr in watched.trained] == [1e-7, 1e-2]
    recipe = recipe.replace(selection={"lrs": [1e-2]})
    (single,) = search(recipe, name="single", runs=tmp_path).rows
    assert row.n_images == 2 * single.n_images
    assert (row.validation, row.test) == (single.validation, single.test)  # 1e-7 learns nothing


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rounds": [20, 2]}, "at most the 3 candidates"),
        ({"rounds": [2, 2]}, "rounds must fall"),
        ({"rounds": [2, 0]}, "rounds must fall"),
        ({"lrs": [0.0]}, "lrs must be above 0"),
        ({"lrs": [float("inf")]}, "lrs must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(tiny, settings, words):
    with pytest.raises(RecipeError, match=words):
        tiny.replace(selection=settings)
