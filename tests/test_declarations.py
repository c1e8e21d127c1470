import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl import _declarations
from glora_automl.budget import Budget
from glora_automl.errors import BudgetError, GLoRAError, RecipeError, SearchSpaceError
from glora_automl.recipes import load_recipe, load_suite
from glora_automl.search_space import SearchSpaceSpec, load_search_space
from tests.refusals import damaged, refusal

CHOICES = '[choices]\nB = ["none", "vector"]\n'


@pytest.fixture
def load(tmp_path):
    """Load a search space from text or bytes."""

    def load(content: str | bytes):
        path = tmp_path / "mine.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_search_space(str(path))

    return load


def message_of(call, *args, error: type[GLoRAError] = SearchSpaceError) -> str:
    """The message of the expected error, which must be one line."""
    with pytest.raises(error) as caught:
        call(*args)
    assert type(caught.value) is error
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_load_well_formed_file_fills_in_defaults(load):
    spec = load(CHOICES)
    assert spec.layers == ("*",)
    assert spec.exclude == ()
    assert spec.tie == "layer"
    assert spec.choices.B == ("none", "vector")
    assert spec.choices.A == ("none",)


def test_declaration_is_frozen(load):
    spec = load(CHOICES)
    with pytest.raises(ValueError, match="frozen"):
        spec.tie = "kind"


@pytest.mark.parametrize(
    ("content", "key", "near"),
    [
        ('layrs = ["*"]\n' + CHOICES, "layrs", "layers"),
        ('ties = "kind"\n' + CHOICES, "ties", "tie"),
        ('excluded = ["*.qkv"]\n' + CHOICES, "excluded", "exclude"),
    ],
)
def test_load_unknown_key_suggests_the_nearest_key(load, content, key, near):
    message = message_of(load, content)
    assert f"unknown key {key!r}" in message
    assert f"Did you mean {near!r}?" in message
    assert "mine" in message


def test_load_unknown_key_without_a_near_one_lists_the_keys(load):
    message = message_of(load, "zzz = 1\n" + CHOICES)
    assert "unknown key 'zzz'" in message
    for known in ("description", "layers", "exclude", "tie", "choices"):
        assert known in message


def test_load_unknown_key_in_a_table_has_its_path_and_the_tables_keys(load):
    message = message_of(load, '[choices]\nF = ["none"]\n')
    assert "unknown key 'choices.F'" in message
    assert "Choose one of A, B, C, D, E." in message


def test_load_misspelt_required_key_is_reported_as_unknown(load):
    message = message_of(load, '[choice]\nB = ["none", "vector"]\n')
    assert "unknown key 'choice'" in message
    assert "Did you mean 'choices'?" in message


def test_load_missing_key_names_it(load):
    message = message_of(load, 'layers = ["*"]\n')
    assert "'choices'" in message
    assert "required" in message


@pytest.mark.parametrize(
    ("content", "key", "rule", "value"),
    [
        ('layers = "blocks.*"\n' + CHOICES, "layers", "a list of 1 to 1,000 texts", "'blocks.*'"),
        ("layers = [1]\n" + CHOICES, "layers.0", "text", "1"),
        ("layers = []\n" + CHOICES, "layers", "1 to 1,000", "[]"),
        ('tie = "blok"\n' + CHOICES, "tie", "'layer', 'kind', 'block' or 'model'", "'blok'"),
        ("description = 3\n" + CHOICES, "description", "text of at most 1,000 characters", "3"),
        ("choices = 3\n", "choices", "a table", "3"),
        ("[choices]\nB = 7\n", "choices.B", "a list of", "7"),
        ("[choices]\nB = [2]\n", "choices.B.0", "text", "2"),
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
def test_load_wrong_value_has_file_key_rule_and_value(load, content, key, rule, value):
    message = message_of(load, content)
    assert "mine: " in message
    assert f" {key}" in message
    assert rule in message
    assert message.endswith(f"got {value}. Correct {key.removesuffix('.0')}.")


@pytest.mark.parametrize("content", ["x = = 3", "[choices", CHOICES + CHOICES, b"\xff\xfe\x00"])
def test_load_malformed_toml_names_the_file(load, content):
    message = message_of(load, content)
    assert "mine.toml" in message
    assert "must be TOML" in message


def test_load_missing_file_names_it(tmp_path):
    path = tmp_path / "nowhere.toml"
    message = message_of(load_search_space, str(path))
    assert str(path) in message
    assert "No such file" in message


def test_load_folder_names_it(tmp_path):
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    assert str(folder) in message_of(load_search_space, str(folder))


def test_load_unknown_name_suggests_the_nearest_name():
    message = message_of(load_search_space, "defualt")
    assert "'defualt'" in message
    assert "Did you mean 'default'?" in message


def test_load_unknown_name_without_a_near_one_lists_the_names():
    message = message_of(load_search_space, "zzzz")
    for name in ("default", "lean", "lora-ranks", "paper", "vectors"):
        assert name in message


@pytest.mark.parametrize("name", ["../search_spaces/default", "", "default.TOML"])
def test_load_name_that_looks_like_a_path_raises(name):
    message_of(load_search_space, name)


def test_read_raises_the_callers_error_class():
    message = message_of(_declarations.read, "studies", "digts", RecipeError, error=RecipeError)
    assert "recipe" in message
    assert "Did you mean 'digits'?" in message


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


def test_read_path_returns_its_stem_as_name(tmp_path: Path):
    path = tmp_path / "my-space.toml"
    path.write_text(CHOICES)
    stem, table = _declarations.read("search_spaces", str(path), GLoRAError)
    assert stem == "my-space"
    assert table == {"choices": {"B": ["none", "vector"]}}


def test_load_reads_utf8(load):
    assert load('description = "größer"\n' + CHOICES).description == "größer"


def test_suggest_without_known_words_says_so():
    assert _declarations.suggest("x", []) == "There are none to choose from."


def test_validate_package_error_in_a_validator_keeps_its_class():
    class Model(_declarations.Declaration):
        budget: Budget

    message = message_of(
        _declarations.validate, Model, {"budget": "12q"}, "here", RecipeError, error=BudgetError
    )
    assert message.startswith("here: budget must be a count")
    assert message.endswith("got '12q'. Correct `budget`.")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["layers", "exclude", "tie", "choices"]), values))
def test_validate_any_table_is_read_or_refused_in_one_line(table):
    refusal(_declarations.validate, SearchSpaceSpec, table, "here", SearchSpaceError)


LOADERS = {"studies": load_recipe, "search_spaces": load_search_space, "suites": load_suite}
SHIPPED = [(kind, path) for kind in LOADERS for path in _declarations.folder(kind).glob("*.toml")]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), shipped=st.sampled_from(sorted(SHIPPED)))
def test_load_any_damaged_file_is_read_or_refused_in_one_line(tmp_path_factory, data, shipped):
    kind, original = shipped
    text = data.draw(damaged(original.read_text(encoding="utf-8")))
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    refusal(LOADERS[kind], str(path))


@pytest.mark.parametrize(
    "value",
    [10**19, -(10**5000), "a\0b", "\x1b[31m", "\ud800", "x" * 300_000, {"\x07": 1}],
    ids=["64 bits", "digits", "nul", "escape", "surrogate", "long", "key"],
)
def test_check_plain_value_out_of_bounds_raises_with_its_key(value):
    with pytest.raises(ValueError, match=r"^section\.0") as caught:
        _declarations.check_plain({"section": [value]})
    assert len(str(caught.value)) < 300


def test_check_plain_deep_or_endless_table_raises():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    endless: dict = {}
    endless["again"] = endless
    for table in (deep, endless):
        with pytest.raises(ValueError, match="nested at most"):
            _declarations.check_plain(table)


@pytest.mark.parametrize("content", ["a = " + "[" * 2000, "a = " + "9" * 5000])
def test_load_toml_beyond_python_raises_one_line(load, content):
    assert "must be TOML" in message_of(load, content)


def test_load_endless_file_or_pipe_raises(tmp_path):
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.toml")
    for name in ("zero.toml", "pipe.toml"):
        assert "no regular file" in message_of(load_search_space, str(tmp_path / name))
