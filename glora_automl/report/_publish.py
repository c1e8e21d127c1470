"""Pictures and a note in the study itself, where any optuna-dashboard shows them."""

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
"""Few and small: they are written each generation, and read with the study by everybody."""

NOTE_VERSION = "glora:note_version"
"""System attribute with the version of our last note; a later one was written by a person."""


def publish(study: optuna.Study) -> None:
    """Write a note and a few pictures into a study, as far as they have changed.

    A note that a person has changed since is left alone.
    """
    snapshot, storage = Snapshot.of(study), study._storage
    before = storage.get_study_system_attrs(study._study_id)
    drawn = get_plotly_graph_objects(before)
    for picture in pictures(snapshot, PUBLISHED):
        figure = to_figure(picture, height=CARD)
        if drawn.get(picture.name) != figure.to_json():
            save_plotly_graph_object(study, figure, graph_object_id=picture.name)
    written = get_note_from_system_attrs(before, None)
    note = markdown_note(snapshot)
    if written["version"] <= before.get(NOTE_VERSION, 0) and written["body"] != note:
        # First: if it ends here, the note is still the one before ours.
        storage.set_study_system_attr(study._study_id, NOTE_VERSION, written["version"] + 1)
        save_note(study, note)
