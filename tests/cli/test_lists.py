import json

import pytest

SHIPPED = {
    "recipes": {"digits", "own", "smoke", "vtab1k", "fewshot", "imagenet-domains"},
    "spaces": {"default", "lean", "lora-ranks", "paper", "vectors"},
    "suites": {"dg", "fewshot", "vtab1k"},
}


@pytest.mark.parametrize("command", SHIPPED)
def test_list_has_every_shipped_name_with_a_description(glora, command):
    code, out, err = glora(command)
    assert (code, err) == (0, "")
    descriptions = json.loads(glora(command, "--json")[1])
    assert set(descriptions) == SHIPPED[command]
    lines = out.splitlines()
    assert len(lines) == len(descriptions)
    for line, (name, description) in zip(lines, descriptions.items(), strict=True):
        assert line.split() == [name, *description.split()]
        assert description
