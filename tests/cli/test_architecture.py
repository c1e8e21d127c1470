import json

import pytest

from glora_automl import Architecture


def test_architecture_best_is_that_of_its_trial(runs, glora):
    code, text, _ = glora("architecture", "tiny", "--runs", runs)
    assert code == 0
    document = json.loads(glora("architecture", "tiny", "--runs", runs, "--json")[1])
    assert text == document["architecture"] + "\n"
    assert str(Architecture.parse(text)) + "\n" == text
    if document["trial"] is not None:
        number = document["trial"]
        assert glora("architecture", "tiny", "--trial", number, "--runs", runs)[1] == text


def test_architecture_trial_is_printed(runs, glora):
    arguments = ("architecture", "tiny", "--runs", runs, "--trial", 3, "--json")
    document = json.loads(glora(*arguments)[1])
    assert document["trial"] == 3
    assert document["n_params"] > 0


@pytest.mark.parametrize(("trial", "words"), [("first", "--trial"), ("77", "77")])
def test_architecture_wrong_trial_is_one_line(runs, error, trial, words):
    message = error("architecture", "tiny", "--trial", trial, "--runs", runs)
    assert words in message
    assert trial in message
