import json

import pytest


def test_compare_is_printed_kept_and_shown(runs, glora):
    arguments = ("compare", "tiny", "--n-architectures", 2, "--runs", runs)
    code, out, err = glora(*arguments)
    assert code == 0, err
    for words in ("SSF", "Best preset by validation", "Spearman"):
        assert words in out
    assert err
    document = json.loads(glora(*arguments, "--json")[1])
    assert document["study"] == "tiny"
    assert len(document["inherited"]["pairs"]) == 2
    assert "Spearman" in glora("show", "tiny", "--runs", runs)[1]


@pytest.mark.parametrize(
    ("name", "number", "words"), [("tiny", 1, "n_architectures must be"), ("other", 2, "'other'")]
)
def test_compare_wrong_input_is_one_line(runs, error, name, number, words):
    message = error("compare", name, "--n-architectures", number, "--runs", runs)
    assert words in message
