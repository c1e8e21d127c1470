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
    ("arguments", "words"),
    [
        (("tiny", "--n-architectures", 1), "--n-architectures must be 0 or from 2"),
        (("other", "--n-architectures", 2), "'other'"),
        (("tiny", "--only", "searched"), "'searched, from scratch', 'LoRA at equal cost'"),
        (("tiny", "--only", "LoRA at equal cost", "--n-architectures", 3), "left out with --only"),
    ],
)
def test_compare_wrong_input_is_one_line(runs, error, arguments, words):
    assert words in error("compare", *arguments, "--runs", runs)
