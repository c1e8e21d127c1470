import json


def test_layers_of_a_recipe_have_tensors_or_a_reason(folder, glora):
    code, out, _ = glora("layers", "tiny.toml", "--json")
    assert code == 0
    first, *_, last = json.loads(out)
    assert first == {
        "pattern": "blocks.*.attn.qkv",
        "n_layers": 2,
        "size": [48, 16],
        "tensors": "ABCDE",
        "reason": None,
    }
    assert last["pattern"] == "head"
    assert "classifier" in last["reason"]


def test_layers_of_a_timm_model_are_a_table(folder, glora):
    code, out, _ = glora("layers", "test_vit")
    assert code == 0
    assert "blocks.*.attn.qkv" in out
    assert "192 x 64" in out


def test_layers_unknown_model_suggests_a_name(folder, error):
    assert "Did you mean" in error("layers", "test_vitt")
