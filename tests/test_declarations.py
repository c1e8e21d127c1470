from pathlib import Path

import pytest

from glora_automl import _declarations
from glora_automl.errors import GLoRAError, RecipeError, SearchSpaceError
from glora_automl.search_space import load_search_space

CHOICES = '[choices]\nB = ["none", "vector"]\n'


@pytest.fixture
def load(tmp_path):
    """Load a search space from text or bytes."""

    def load(content: str | bytes):
        path = tmp_path / "mine.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_search_space(str(path))

    return load


def refusal(call, *args, error: type[GLoRAError] = SearchSpaceError) -> str:
    """The message of the expected error, which must be one line."""
    with pytest.raises(error) as caught:
        call(*args)
    assert type(caught.value) is error
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_well_formed_file_is_read_with_its_defaults(load):
    spec = load(CHOICES)
    assert spec.layers == ("*",)
    assert spec.exclude == ()
    assert spec.share == "layer"
    assert spec.choices.B == ("none", "vector")
    assert spec.choices.A == ("none",)


def test_a_declaration_cannot_be_changed(load):
    spec = load(CHOICES)
    with pytest.raises(ValueError, match="frozen"):
        spec.share = "kind"


@pytest.mark.parametrize(
    ("content", "key", "near"),
    [
        ('layrs = ["*"]\n' + CHOICES, "layrs", "layers"),
        ('shared = "kind"\n' + CHOICES, "shared", "share"),
        ('excluded = ["*.qkv"]\n' + CHOICES, "excluded", "exclude"),
    ],
)
def test_an_unknown_key_names_the_key_and_the_nearest_known_one(load, content, key, near):
    message = refusal(load, content)
    assert f"unknown key {key!r}" in message
    assert f"did you mean {near!r}?" in message
    assert "mine" in message


def test_an_unknown_key_that_resembles_none_lists_the_known_ones(load):
    message = refusal(load, "zzz = 1\n" + CHOICES)
    assert "unknown key 'zzz'" in message
    for known in ("description", "layers", "exclude", "share", "choices"):
        assert known in message


def test_an_unknown_key_in_a_table_is_named_with_its_path_and_the_tables_keys(load):
    message = refusal(load, '[choices]\nF = ["none"]\n')
    assert "unknown key 'choices.F'" in message
    assert "known: A, B, C, D, E" in message


def test_a_misspelt_required_key_is_reported_as_misspelt_rather_than_missing(load):
    message = refusal(load, '[choice]\nB = ["none", "vector"]\n')
    assert "unknown key 'choice'" in message
    assert "did you mean 'choices'?" in message


def test_a_missing_key_is_named(load):
    message = refusal(load, 'layers = ["*"]\n')
    assert "'choices'" in message
    assert "required" in message


@pytest.mark.parametrize(
    ("content", "key", "rule", "value"),
    [
        ('layers = "blocks.*"\n' + CHOICES, "layers", "tuple", "'blocks.*'"),
        ("layers = [1]\n" + CHOICES, "layers.0", "string", "1"),
        ("layers = []\n" + CHOICES, "layers", "at least 1", "[]"),
        ('share = "blok"\n' + CHOICES, "share", "'layer', 'kind', 'block' or 'model'", "'blok'"),
        ("description = 3\n" + CHOICES, "description", "string", "3"),
        ("choices = 3\n", "choices", "dictionary", "3"),
        ("[choices]\nB = 7\n", "choices.B", "tuple", "7"),
        ("[choices]\nB = [2]\n", "choices.B.0", "string", "2"),
        ('[choices]\nB = ["lorra-2"]\n', "choices.B", "lora-r", "'lorra-2'"),
        ('[choices]\nC = ["scalar"]\n', "choices.C", "none, vector, lora-r", "'scalar'"),
        ("[choices]\nB = []\n", "choices.B", "at least one", "[]"),
        (
            '[choices]\nB = ["none", "none"]\n',
            "choices.B",
            "each once",
            "['none', 'none']",
        ),
    ],
)
def test_a_wrong_value_names_file_key_rule_and_value(load, content, key, rule, value):
    message = refusal(load, content)
    assert "mine: " in message
    assert f" {key}" in message
    assert rule in message
    assert message.endswith(f"got {value}.")


@pytest.mark.parametrize("content", ["x = = 3", "[choices", CHOICES + CHOICES, b"\xff\xfe\x00"])
def test_bad_toml_names_the_file(load, content):
    message = refusal(load, content)
    assert "mine.toml" in message
    assert "no TOML" in message


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "nowhere.toml"
    message = refusal(load_search_space, str(path))
    assert str(path) in message
    assert "No such file" in message


def test_a_folder_is_no_declaration(tmp_path):
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert str(folder) in refusal(load_search_space, str(folder))


def test_an_unknown_name_suggests_the_nearest_shipped_one():
    message = refusal(load_search_space, "defualt")
    assert "'defualt'" in message
    assert "did you mean 'default'?" in message


def test_an_unknown_name_that_resembles_none_lists_what_ships():
    message = refusal(load_search_space, "zzzz")
    for name in ("default", "lean", "lora-ranks", "paper", "vectors"):
        assert name in message


@pytest.mark.parametrize("name", ["../search_spaces/default", "", "default.TOML"])
def test_a_name_is_not_taken_for_a_path(name):
    refusal(load_search_space, name)


def test_the_error_class_is_the_callers():
    message = refusal(_declarations.read, "studies", "digts", RecipeError, error=RecipeError)
    assert "recipe" in message
    assert "did you mean 'digits'?" in message


@pytest.mark.parametrize("kind", ["studies", "search_spaces"])
def test_names_are_the_sorted_stems_of_the_shipped_files(kind):
    names = _declarations.names(kind)
    assert names
    assert names == sorted(
        p.stem for p in _declarations.folder(kind).iterdir() if p.suffix == ".toml"
    )
    for name in names:
        stem, table = _declarations.read(kind, name, GLoRAError)
        assert stem == name
        assert table["description"]


def test_a_path_gives_its_stem_as_name(tmp_path: Path):
    path = tmp_path / "my-space.toml"
    path.write_text(CHOICES)
    stem, table = _declarations.read("search_spaces", str(path), GLoRAError)
    assert stem == "my-space"
    assert table == {"choices": {"B": ["none", "vector"]}}


def test_text_beyond_ascii_is_read_as_utf8(load):
    assert load('description = "größer"\n' + CHOICES).description == "größer"
