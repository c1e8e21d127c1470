import json

import optuna
import pytest
from optuna.trial import TrialState
from optuna_dashboard import get_note, save_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from glora_automl.report import markdown_note, publish
from glora_automl.report._publish import PUBLISHED
from glora_automl.report._snapshot import Snapshot
from glora_automl.study import DataSummary, Overlap, set_attribute
from tests.report.studies import add_stage, add_trials, begin_study, finish, made_space, made_study


def graphs(study):
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return {n: json.loads(t) for n, t in get_plotly_graph_objects(attributes).items()}


class CountingStorage(optuna.storages.InMemoryStorage):
    """Storage that counts writes of study attributes."""

    written = 0

    def set_study_system_attr(self, study_id, key, value):
        self.written += 1
        super().set_study_system_attr(study_id, key, value)


def test_publish_writes_note_and_pictures():
    study, space = made_study(trials=20)
    publish(study)
    assert set(graphs(study)) == set(PUBLISHED)
    note = get_note(study)
    best = study.best_trial
    budget = study.user_attrs["glora:settings"]["budget"]
    assert f"**best trial**: {best.number}, validation accuracy {best.value:.1%}" in note
    assert f"**budget**: {budget:,} trainable parameters" in note
    assert "| search | host-0 | 10 | 5.0 | 1,500 |" in note
    assert "glora resume made" in note
    better = add_trials(study, space, 20, seed=3)
    publish(study)
    assert f"**trials**: {len(better) + 20} complete; target 40" in get_note(study)
    assert f"trial {study.best_trial.number} (" in json.dumps(graphs(study)["architecture"])


def test_publish_without_changes_writes_nothing():
    storage = CountingStorage()
    study, space = made_study(storage, trials=20)
    publish(study)
    before = storage.written
    publish(study)
    assert storage.written == before
    finish(study, space)
    publish(study)
    assert "LoRA r=2" in get_note(study)


def test_publish_keeps_an_edited_note():
    study, space = made_study(trials=20)
    publish(study)
    save_note(study, "edited")
    add_trials(study, space, 5)
    publish(study)
    assert get_note(study) == "edited"
    fresh, _ = made_study(trials=20)
    save_note(fresh, "first")
    publish(fresh)
    assert get_note(fresh) == "first"
    assert set(graphs(fresh)) == set(PUBLISHED)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "**trials**: none yet; target 40"),
        ({"count": 2, "state": TrialState.FAIL}, "**trials**: 2 failed; target 40"),
        ({"count": 2, "over": 3}, "**best trial**: none within the budget"),
    ],
)
def test_study_with_few_usable_trials_has_a_note(options, words):
    study = begin_study(optuna.storages.InMemoryStorage())
    add_trials(study, made_space(), **options)
    publish(study)
    assert words in get_note(study)


def test_note_has_the_cost_of_each_worker():
    study, _ = made_study(trials=4)
    add_stage(study, "supernet", 12.5, n_trained=600, worker="host-1")
    text = markdown_note(Snapshot.of(study))
    assert "| supernet | host-1 | 1 | 12.5 | 600 |" in text
    assert "| total | 2 workers | 5 | 14.5 | 1,200 |" in text


def test_note_has_what_limits_the_figures():
    study, _ = made_study(trials=3)
    data = DataSummary({"test": 9}, (Overlap("train", "test", 2),))
    set_attribute(study, "data", data.to_json())
    publish(study)
    assert f"- {data.notes()[0]}" in get_note(study)
