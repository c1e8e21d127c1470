"""Note and pictures in the study itself, for any optuna-dashboard."""

from __future__ import annotations

import optuna
from optuna_dashboard import save_note, save_plotly_graph_object
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note_from_system_attrs

from glora_automl.report._gallery import pictures
from glora_automl.report._note import markdown_note
from glora_automl.report._plotly import CARD, to_figure
from glora_automl.report._snapshot import Snapshot

__all__ = ["PUBLISHED", "publish"]

PUBLISHED = ("architecture", "front", "survival", "generations")
"""Pictures in the study; few, because each generation writes and each reader loads them."""

NOTE_VERSION = "glora:note_version"
"""System attribute with the version of the last published note; users write later versions."""


def publish(study: optuna.Study) -> None:
    """Write the note and the pictures that have changed into a study.

    A note that a user has edited is kept.
    """
    snapshot, storage = Snapshot.of(study), study._storage
    attributes = storage.get_study_system_attrs(study._study_id)
    published = get_plotly_graph_objects(attributes)
    for picture in pictures(snapshot, PUBLISHED):
        figure = to_figure(picture, height=CARD)
        if published.get(picture.name) != figure.to_json():
            save_plotly_graph_object(study, figure, graph_object_id=picture.name)
    last = get_note_from_system_attrs(attributes, None)
    note = markdown_note(snapshot)
    if last["version"] <= attributes.get(NOTE_VERSION, 0) and last["body"] != note:
        # Version before note: after a crash in between, the next call writes the note again.
        storage.set_study_system_attr(study._study_id, NOTE_VERSION, last["version"] + 1)
        save_note(study, note)
