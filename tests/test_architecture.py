import copy
import hashlib
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.architecture import TENSORS, Architecture, Choice, LayerChoices, LayerShape
from glora_automl.errors import ArchitectureError

ALLOWED = {
    "A": ("none", "scalar", "vector", "lora"),
    "B": ("none", "scalar", "vector", "lora"),
    "C": ("none", "vector", "lora"),
    "D": ("none", "scalar", "vector"),
    "E": ("none", "scalar", "vector"),
}

ranks = st.integers(1, 64)


def choices_of(tensor: str) -> st.SearchStrategy[Choice]:
    kinds = [st.just(Choice(kind)) for kind in ALLOWED[tensor] if kind != "lora"]
    if "lora" in ALLOWED[tensor]:
        kinds.append(ranks.map(lambda rank: Choice("lora", rank)))
    return st.one_of(kinds)


layer_choices = st.builds(LayerChoices, **{tensor: choices_of(tensor) for tensor in TENSORS})
names = st.lists(st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True), min_size=1, max_size=4).map(
    ".".join
)
architectures = st.dictionaries(names, layer_choices, max_size=6).map(Architecture)
shapes = st.builds(LayerShape, st.integers(1, 4096), st.integers(1, 4096), st.booleans())

QUICK = settings(max_examples=60, deadline=None)


class TestChoice:
    @pytest.mark.parametrize("text", ["none", "scalar", "vector", "lora-1", "lora-8", "lora-100"])
    def test_parse_valid_text_prints_the_same(self, text):
        assert str(Choice.parse(text)) == text

    @pytest.mark.parametrize(
        ("text", "kind", "rank"),
        [
            ("none", "none", 0),
            ("scalar", "scalar", 0),
            ("vector", "vector", 0),
            ("lora-12", "lora", 12),
        ],
    )
    def test_parse_valid_text_gives_kind_and_rank(self, text, kind, rank):
        choice = Choice.parse(text)
        assert (choice.kind, choice.rank) == (kind, rank)

    @pytest.mark.parametrize(
        "text",
        ["", " none", "None", "NONE", "lora", "lora-", "lora-0", "lora-01", "lora--2", "lora-2.5",
         "lora-2 ", "lora4", "LoRA-4", "lora_4", "lora-٤", "vectors", "scalar-1", "lora-4\n"],
    )  # fmt: skip
    def test_parse_malformed_text_raises_rule_and_value(self, text):
        with pytest.raises(ArchitectureError, match="must be one of none, scalar") as caught:
            Choice.parse(text)
        assert repr(text) in str(caught.value)

    @pytest.mark.parametrize(
        ("kind", "rank"),
        [
            ("lora", 0),
            ("lora", -1),
            ("none", 1),
            ("scalar", 2),
            ("vector", 4),
            ("dense", 0),
            ("", 0),
        ],
    )
    def test_init_mismatched_kind_and_rank_raises(self, kind, rank):
        with pytest.raises(ArchitectureError, match=r"lora-r with r >= 1") as caught:
            Choice(kind, rank)
        assert repr(kind) in str(caught.value)

    @pytest.mark.parametrize("tensor", TENSORS)
    @pytest.mark.parametrize("text", ["none", "scalar", "vector", "lora-2"])
    def test_check_kind_follows_the_papers_table(self, tensor, text):
        choice = Choice.parse(text)
        if choice.kind in ALLOWED[tensor]:
            choice.check(tensor)
        else:
            with pytest.raises(ArchitectureError, match=f"{tensor} must be one of") as caught:
                choice.check(tensor)
            assert repr(text) in str(caught.value)

    @pytest.mark.parametrize("text", ["scalar", "vector"])
    def test_check_d_without_bias_raises(self, text):
        Choice.parse(text).check("D", LayerShape(4, 4, True))
        Choice("none").check("D", LayerShape(4, 4, False))
        with pytest.raises(ArchitectureError, match="without bias"):
            Choice.parse(text).check("D", LayerShape(4, 4, False))

    @pytest.mark.parametrize("text", ["scalar", "vector"])
    def test_check_e_without_bias_passes(self, text):
        Choice.parse(text).check("E", LayerShape(4, 4, False))

    @pytest.mark.parametrize("tensor", ["A", "B"])
    @pytest.mark.parametrize("shape", [LayerShape(3, 9), LayerShape(9, 3)])
    def test_check_rank_of_a_and_b_above_the_smaller_side_raises(self, tensor, shape):
        Choice("lora", 3).check(tensor, shape)
        with pytest.raises(ArchitectureError, match=f"rank of {tensor} must be at most 3"):
            Choice("lora", 4).check(tensor, shape)

    def test_check_rank_of_c_above_the_inputs_raises(self):
        Choice("lora", 9).check("C", LayerShape(3, 9))
        with pytest.raises(ArchitectureError, match="rank of C must be at most 3"):
            Choice("lora", 4).check("C", LayerShape(9, 3))

    @pytest.mark.parametrize(
        ("tensor", "text", "count"),
        [
            ("A", "none", 0), ("A", "scalar", 1), ("A", "vector", 5), ("A", "lora-2", 2 * (5 + 3)),
            ("B", "none", 0), ("B", "scalar", 1), ("B", "vector", 5), ("B", "lora-3", 3 * (5 + 3)),
            ("C", "none", 0), ("C", "vector", 3), ("C", "lora-2", 2 * (3 + 1)),
            ("D", "none", 0), ("D", "scalar", 1), ("D", "vector", 5),
            ("E", "none", 0), ("E", "scalar", 1), ("E", "vector", 5),
        ],
    )  # fmt: skip
    def test_count_follows_the_papers_table(self, tensor, text, count):
        assert Choice.parse(text).count(tensor, LayerShape(5, 3)) == count

    def test_choice_is_hashable_and_frozen(self):
        assert Choice("lora", 4) == Choice.parse("lora-4")
        assert hash(Choice("lora", 4)) == hash(Choice.parse("lora-4"))
        assert Choice("lora", 4) != Choice("lora", 2)
        with pytest.raises(AttributeError):
            Choice("none").rank = 3


class TestLayerChoices:
    def test_str_omits_none(self):
        assert str(LayerChoices(B=Choice("lora", 4), E=Choice("vector"))) == "B=lora-4 E=vector"

    def test_str_without_choices_is_none(self):
        assert str(LayerChoices()) == "none"

    @QUICK
    @given(layer_choices, shapes)
    def test_count_is_the_sum_of_the_tensors(self, choices, shape):
        parts = [getattr(choices, tensor).count(tensor, shape) for tensor in TENSORS]
        assert choices.count(shape) == sum(parts)


class TestRoundTrip:
    @QUICK
    @given(architectures)
    def test_parse_printed_text_gives_an_equal_architecture(self, architecture):
        again = Architecture.parse(str(architecture))
        assert again == architecture
        assert hash(again) == hash(architecture)
        assert again.digest == architecture.digest
        assert str(again) == str(architecture)
        assert list(again) == list(architecture)

    @QUICK
    @given(architectures)
    def test_pickle_and_deepcopy_give_an_equal_architecture(self, architecture):
        hash(architecture)
        for again in (pickle.loads(pickle.dumps(architecture)), copy.deepcopy(architecture)):
            assert again == architecture
            assert hash(again) == hash(architecture)

    def test_parse_ignores_blank_lines_and_indentation(self):
        text = "\n   a.b:  E=vector   B=lora-2 \n\n\tc: none\n\n"
        assert str(Architecture.parse(text)) == "a.b: B=lora-2 E=vector\nc: none"

    def test_parse_explicit_none_equals_an_omitted_tensor(self):
        assert Architecture.parse("a: A=none B=scalar") == Architecture.parse("a: B=scalar")

    def test_parse_empty_text_gives_no_layers(self):
        assert len(Architecture.parse("")) == 0
        assert str(Architecture({})) == ""


class TestMalformedText:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("blocks.0.qkv B=lora-4", "'blocks.0.qkv B=lora-4'"),
            ("a:", "'a:'"),
            ("a: none\na: none", "each layer once, got 'a' twice"),
            ("a: none\nb: none\na: B=scalar", "each layer once, got 'a' twice"),
            ("a: F=none", "'F=none'"),
            ("a: b=scalar", "'b=scalar'"),
            ("a: B=scalar B=scalar", "'B=scalar'"),
            ("a: B", "''"),
            ("a: B=", "''"),
            ("a: B=lora", "'lora'"),
            ("a: B=lora-0", "'lora-0'"),
            ("a: B=scalar=2", "'scalar=2'"),
            ("a: none none", "'none'"),
            ("a: none B=scalar", "'none'"),
            ("a: B=scalar, E=vector", "'scalar,'"),
            ("a: C=scalar", "a: C must be one of none, vector, lora-r"),
            ("a: D=lora-2", "a: D must be one of none, scalar, vector"),
            ("a: E=lora-2", "a: E must be one of none, scalar, vector"),
        ],
    )
    def test_parse_malformed_text_raises_one_line_with_the_fault(self, text, words):
        with pytest.raises(ArchitectureError) as caught:
            Architecture.parse(text)
        message = str(caught.value)
        assert words in message
        assert len(message.splitlines()) == 1

    def test_init_choice_not_allowed_raises(self):
        with pytest.raises(ArchitectureError, match=r"^layer\.1: E must be one of"):
            Architecture({"layer.1": LayerChoices(E=Choice("lora", 2))})


class TestEquality:
    @QUICK
    @given(architectures, st.randoms(use_true_random=False))
    def test_layers_in_another_order_give_equality_hash_and_digest(self, architecture, random):
        items = list(architecture.items())
        random.shuffle(items)
        shuffled = Architecture(dict(items))
        assert shuffled == architecture
        assert hash(shuffled) == hash(architecture)
        assert shuffled.digest == architecture.digest

    @QUICK
    @given(architectures, architectures)
    def test_equality_agrees_with_hash_and_digest(self, one, other):
        assert (one == other) == (one.digest == other.digest) == (dict(one) == dict(other))
        if one == other:
            assert hash(one) == hash(other)

    @pytest.mark.parametrize(
        "other",
        ["a: B=lora-2", "a: A=lora-4", "b: B=lora-4", "a: B=lora-4 E=scalar",
         "a: B=lora-4\nb: none", ""],
    )  # fmt: skip
    def test_any_difference_changes_equality_and_digest(self, other):
        architecture, changed = Architecture.parse("a: B=lora-4"), Architecture.parse(other)
        assert architecture != changed
        assert architecture.digest != changed.digest

    def test_equality_with_another_type_is_false(self):
        architecture = Architecture.parse("a: B=scalar")
        assert architecture != dict(architecture)
        assert architecture != str(architecture)

    def test_digest_is_frozen_for_stored_studies(self):
        # Studies keep digests: this value may never change.
        expected = hashlib.sha256(b"a: none\nb: B=lora-4 E=vector").hexdigest()
        assert Architecture.parse("b: B=lora-4 E=vector\na: none").digest == expected

    def test_init_copies_the_mapping(self):
        layers = {"a": LayerChoices()}
        architecture = Architecture(layers)
        layers["b"] = LayerChoices()
        assert list(architecture) == ["a"]

    def test_architecture_is_a_dictionary_key(self):
        scores = {Architecture.parse("a: B=scalar\nb: none"): 1.0}
        assert scores[Architecture.parse("b: none\na: B=scalar")] == 1.0


class TestUniform:
    SHAPES = {"qkv": LayerShape(6, 4, bias=False), "fc": LayerShape(8, 4)}  # noqa: RUF012

    def test_uniform_gives_every_layer_the_same_choices(self):
        architecture = Architecture.uniform(self.SHAPES, A="vector", B="lora-2", E="scalar")
        assert str(architecture) == (
            "qkv: A=vector B=lora-2 E=scalar\nfc: A=vector B=lora-2 E=scalar"
        )

    def test_uniform_layer_without_bias_keeps_d_none(self):
        architecture = Architecture.uniform(self.SHAPES, D="vector")
        assert str(architecture) == "qkv: none\nfc: D=vector"

    def test_uniform_without_choices_is_the_linear_probe(self):
        architecture = Architecture.uniform(self.SHAPES)
        assert architecture.count(self.SHAPES) == 0
        assert set(architecture) == set(self.SHAPES)

    def test_uniform_rank_above_the_layers_size_raises(self):
        with pytest.raises(ArchitectureError, match="at most 4"):
            Architecture.uniform(self.SHAPES, B="lora-5")

    def test_uniform_lora_bitfit_and_ssf_count_as_published(self):
        shapes = {"fc": LayerShape(8, 4)}
        assert Architecture.uniform(shapes, B="lora-2").count(shapes) == 2 * (8 + 4)
        assert Architecture.uniform(shapes, E="vector").count(shapes) == 8
        assert Architecture.uniform(shapes, A="vector", E="vector").count(shapes) == 16


@QUICK
@given(st.lists(st.tuples(layer_choices, shapes), max_size=5))
def test_count_is_the_sum_of_the_layers(layers):
    names = [f"layer.{i}" for i in range(len(layers))]
    architecture = Architecture({n: c for n, (c, _) in zip(names, layers, strict=True)})
    shapes_by_name = {n: s for n, (_, s) in zip(names, layers, strict=True)}
    assert architecture.count(shapes_by_name) == sum(c.count(s) for c, s in layers)


def test_repr_has_size_and_digest_without_layers():
    architecture = Architecture({f"layer.{i}": LayerChoices() for i in range(100)})
    assert "100 layers" in repr(architecture)
    assert architecture.digest[:12] in repr(architecture)
    assert len(repr(architecture)) < 100
