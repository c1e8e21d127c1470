import pytest

from glora_automl.errors import ArchitectureError
from glora_automl.recipes import load_recipe, override_recipe
from tests.conftest import TINY


@pytest.mark.parametrize("text", ["lorra", "lora-0", "", "fc1: B=lora-0", "fc1: none\nfc1: none"])
def test_replace_malformed_architecture_raises_one_line(tiny, text):
    with pytest.raises(ArchitectureError, match="recipe tiny: architecture: ") as error:
        tiny.replace(architecture=text)
    assert "\n" not in str(error.value)


def test_load_recipe_reads_the_architecture_from_its_folder(tmp_path, monkeypatch):
    text = "blocks.0.attn.qkv: B=lora-2\nblocks.1.attn.qkv: none"
    (tmp_path / "mine.txt").write_text(f"\n{text}\n", encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(f'architecture = "mine.txt"\n{TINY}', encoding="utf-8")
    assert load_recipe(str(tmp_path / "tiny.toml")).architecture == text
    monkeypatch.chdir(tmp_path)
    changed = override_recipe("tiny.toml", architecture="mine.txt")
    assert (changed.name, changed.architecture) == ("tiny-mine", text)
    assert override_recipe("tiny.toml", architecture="lora-4").name == "tiny-lora-4"
