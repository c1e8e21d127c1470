"""Outcomes of stages as a study keeps them."""

import json

import pytest

from glora_automl.errors import StudyError
from glora_automl.storages import ArtifactReference
from glora_automl.study import (
    AdapterOutcome,
    BackboneOutcome,
    Done,
    PairOutcome,
    Row,
    Selection,
    SelectOutcome,
    Spent,
    SupernetOutcome,
    TestOutcome,
)
from glora_automl.training import Score

SCORE = Score(0.9, 0.3, 100, 0.25)
ROW = Row("searched", 12, SCORE, SCORE, 1000, 9.0, {"sketch": Score(0.5, 1.0, 10)})
SELECTION = Selection("fc: B=lora-1", 12, SCORE, 7, None, Score(0.8, 0.5, 100), (7, 3), True)
ARTIFACT = ArtifactReference("a.safetensors", "0" * 64, 10)
SPENT = Spent(600, 100, 1.5)
OUTCOMES = [
    Done(SPENT),
    BackboneOutcome("d" * 64, ARTIFACT, SPENT),
    BackboneOutcome("d" * 64),
    SupernetOutcome("d" * 64, ARTIFACT, (0.5, 0.25), 2, SPENT),
    AdapterOutcome(ROW, "fc: B=lora-1", "d" * 64, ARTIFACT, SELECTION, SPENT),
    AdapterOutcome(Row("LoRA")),
    TestOutcome((ROW, Row("LoRA")), SPENT),
    SelectOutcome(100, SELECTION, ROW, SPENT),
    PairOutcome(0.5, 0.75, 12, SPENT),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_outcome_from_json_reverses_to_json(outcome):
    found = type(outcome).from_json(json.loads(json.dumps(outcome.to_json())))
    assert found == outcome
    assert found.spent == outcome.spent


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_done_reads_the_work_of_any_outcome(outcome):
    """Costs are read without knowing what kind of outcome a stage has."""
    assert Done.from_json({"spent": outcome.to_json()["spent"]}).spent == outcome.spent


def test_outcome_from_json_of_another_stage_raises():
    with pytest.raises(StudyError, match="must be a valid SupernetOutcome"):
        SupernetOutcome.from_json(PairOutcome(0.5, 0.75, 12).to_json())


def test_row_domain_mean_weighs_domains_equally():
    assert Row("a").domain_mean is None
    row = Row("a", domains={"x": Score(0.2, 1.0, 10), "y": Score(0.6, 1.0, 1000)})
    assert row.domain_mean == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("changes", "origin", "weights"),
    [
        ({"trial": 7}, "trial 7", "trained"),
        ({"preset": "BitFit", "refit": True}, "BitFit", "refit"),
        ({}, "truncation of the supernet", "trained"),
    ],
)
def test_selection_origin_and_weights_are_words(changes, origin, weights):
    selection = Selection("fc: none", 0, SCORE, **changes)
    assert (selection.origin, selection.weights) == (origin, weights)
