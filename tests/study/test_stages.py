"""Names of stages."""

import pytest

from glora_automl.study import Stage, StageName


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (StageName(Stage.SUPERNET), "supernet"),
        (StageName(Stage.BASELINE, "LoRA r=2 in attention"), "baseline-LoRA-r2-in-attention"),
        (StageName(Stage.SELECT, "100"), "select-100"),
        (StageName(Stage.COMPARE, "pair-3"), "compare-pair-3"),
    ],
)
def test_stage_name_prints_and_parses(name, text):
    assert str(name) == text
    parsed = StageName.parse(text)
    assert parsed.stage == name.stage
    assert str(parsed) == text


def test_stage_name_parse_of_each_kind_is_that_kind():
    """No kind may be taken for another one, such as selection for select."""
    for stage in Stage:
        assert StageName.parse(str(stage)) == StageName(stage)
        assert StageName.parse(f"{stage}-x-y") == StageName(stage, "x-y")


def test_stage_name_parse_of_an_unknown_kind_raises():
    with pytest.raises(ValueError, match="racing"):
        StageName.parse("racing-1")
