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
    def test_prints_as_it_is_read(self, text):
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
    def test_is_read_into_kind_and_rank(self, text, kind, rank):
        choice = Choice.parse(text)
        assert (choice.kind, choice.rank) == (kind, rank)

    @pytest.mark.parametrize(
        "text",
        ["", " none", "None", "NONE", "lora", "lora-", "lora-0", "lora-01", "lora--2", "lora-2.5",
         "lora-2 ", "lora4", "LoRA-4", "lora_4", "lora-٤", "vectors", "scalar-1", "lora-4\n"],
    )  # fmt: skip
    def test_malformed_text_is_refused_with_the_text_and_the_rule(self, text):
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
    def test_kind_and_rank_must_go_together(self, kind, rank):
        with pytest.raises(ArchitectureError, match=r"lora-r with r >= 1") as caught:
            Choice(kind, rank)
        assert repr(kind) in str(caught.value)

    @pytest.mark.parametrize("tensor", TENSORS)
    @pytest.mark.parametrize("text", ["none", "scalar", "vector", "lora-2"])
    def test_each_tensor_allows_the_kinds_of_the_papers_table(self, tensor, text):
        choice = Choice.parse(text)
        if choice.kind in ALLOWED[tensor]:
            choice.check(tensor)
        else:
            with pytest.raises(ArchitectureError, match=f"{tensor} must be one of") as caught:
                choice.check(tensor)
            assert repr(text) in str(caught.value)

    @pytest.mark.parametrize("text", ["scalar", "vector"])
    def test_d_needs_a_bias(self, text):
        Choice.parse(text).check("D", LayerShape(4, 4, True))
        Choice("none").check("D", LayerShape(4, 4, False))
        with pytest.raises(ArchitectureError, match="without bias"):
            Choice.parse(text).check("D", LayerShape(4, 4, False))

    @pytest.mark.parametrize("text", ["scalar", "vector"])
    def test_e_can_give_a_layer_without_bias_one(self, text):
        Choice.parse(text).check("E", LayerShape(4, 4, False))

    @pytest.mark.parametrize("tensor", ["A", "B"])
    @pytest.mark.parametrize("shape", [LayerShape(3, 9), LayerShape(9, 3)])
    def test_the_rank_of_a_and_b_is_at_most_the_smaller_side(self, tensor, shape):
        Choice("lora", 3).check(tensor, shape)
        with pytest.raises(ArchitectureError, match=f"rank of {tensor} must be at most 3"):
            Choice("lora", 4).check(tensor, shape)

    def test_the_rank_of_c_is_at_most_the_number_of_inputs(self):
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
    def test_counts_follow_the_papers_table(self, tensor, text, count):
        assert Choice.parse(text).count(tensor, LayerShape(5, 3)) == count

    def test_is_a_value(self):
        assert Choice("lora", 4) == Choice.parse("lora-4")
        assert hash(Choice("lora", 4)) == hash(Choice.parse("lora-4"))
        assert Choice("lora", 4) != Choice("lora", 2)
        with pytest.raises(AttributeError):
            Choice("none").rank = 3


class TestLayerChoices:
    def test_prints_only_what_is_not_none(self):
        assert str(LayerChoices(B=Choice("lora", 4), E=Choice("vector"))) == "B=lora-4 E=vector"

    def test_prints_none_when_nothing_is_chosen(self):
        assert str(LayerChoices()) == "none"

    @QUICK
    @given(layer_choices, shapes)
    def test_the_count_is_the_sum_of_its_tensors(self, choices, shape):
        parts = [getattr(choices, tensor).count(tensor, shape) for tensor in TENSORS]
        assert choices.count(shape) == sum(parts)


class TestRoundTrip:
    @QUICK
    @given(architectures)
    def test_printed_text_parses_to_an_equal_architecture(self, architecture):
        again = Architecture.parse(str(architecture))
        assert again == architecture
        assert hash(again) == hash(architecture)
        assert again.digest == architecture.digest
        assert str(again) == str(architecture)
        assert list(again) == list(architecture)

    @QUICK
    @given(architectures)
    def test_pickles_and_copies_are_equal(self, architecture):
        hash(architecture)
        for again in (pickle.loads(pickle.dumps(architecture)), copy.deepcopy(architecture)):
            assert again == architecture
            assert hash(again) == hash(architecture)

    def test_blank_lines_and_indentation_do_not_matter(self):
        text = "\n   a.b:  E=vector   B=lora-2 \n\n\tc: none\n\n"
        assert str(Architecture.parse(text)) == "a.b: B=lora-2 E=vector\nc: none"

    def test_explicit_none_reads_as_left_out(self):
        assert Architecture.parse("a: A=none B=scalar") == Architecture.parse("a: B=scalar")

    def test_no_text_is_the_architecture_of_no_layers(self):
        assert len(Architecture.parse("")) == 0
        assert str(Architecture({})) == ""


class TestMalformedText:
    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("blocks.0.qkv B=lora-4", "'blocks.0.qkv B=lora-4'"),
            ("a:", "'a:'"),
            ("a: none\na: none", "stands twice"),
            ("a: none\nb: none\na: B=scalar", "stands twice"),
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
    def test_is_refused_in_one_line_that_shows_the_culprit(self, text, why):
        with pytest.raises(ArchitectureError) as caught:
            Architecture.parse(text)
        message = str(caught.value)
        assert why in message
        assert len(message.splitlines()) == 1

    def test_a_choice_that_its_tensor_cannot_have_is_refused_by_the_constructor_too(self):
        with pytest.raises(ArchitectureError, match=r"^layer\.1: E must be one of"):
            Architecture({"layer.1": LayerChoices(E=Choice("lora", 2))})


class TestEquality:
    @QUICK
    @given(architectures, st.randoms(use_true_random=False))
    def test_the_order_of_the_layers_matters_neither_to_equality_nor_hash_nor_digest(
        self, architecture, random
    ):
        items = list(architecture.items())
        random.shuffle(items)
        shuffled = Architecture(dict(items))
        assert shuffled == architecture
        assert hash(shuffled) == hash(architecture)
        assert shuffled.digest == architecture.digest

    @QUICK
    @given(architectures, architectures)
    def test_equality_hash_and_digest_agree(self, one, other):
        assert (one == other) == (one.digest == other.digest) == (dict(one) == dict(other))
        if one == other:
            assert hash(one) == hash(other)

    @pytest.mark.parametrize(
        "other",
        ["a: B=lora-2", "a: A=lora-4", "b: B=lora-4", "a: B=lora-4 E=scalar",
         "a: B=lora-4\nb: none", ""],
    )  # fmt: skip
    def test_any_difference_shows_in_equality_and_digest(self, other):
        architecture, changed = Architecture.parse("a: B=lora-4"), Architecture.parse(other)
        assert architecture != changed
        assert architecture.digest != changed.digest

    def test_is_equal_to_no_other_type(self):
        architecture = Architecture.parse("a: B=scalar")
        assert architecture != dict(architecture)
        assert architecture != str(architecture)

    def test_the_digest_is_frozen_for_what_is_stored(self):
        # Studies keep digests: this value may never change.
        expected = hashlib.sha256(b"a: none\nb: B=lora-4 E=vector").hexdigest()
        assert Architecture.parse("b: B=lora-4 E=vector\na: none").digest == expected

    def test_changing_the_source_mapping_does_not_change_the_architecture(self):
        layers = {"a": LayerChoices()}
        architecture = Architecture(layers)
        layers["b"] = LayerChoices()
        assert list(architecture) == ["a"]

    def test_serves_as_a_dictionary_key(self):
        scores = {Architecture.parse("a: B=scalar\nb: none"): 1.0}
        assert scores[Architecture.parse("b: none\na: B=scalar")] == 1.0


class TestUniform:
    SHAPES = {"qkv": LayerShape(6, 4, bias=False), "fc": LayerShape(8, 4)}  # noqa: RUF012

    def test_every_layer_takes_the_same_choices(self):
        architecture = Architecture.uniform(self.SHAPES, A="vector", B="lora-2", E="scalar")
        assert str(architecture) == (
            "qkv: A=vector B=lora-2 E=scalar\nfc: A=vector B=lora-2 E=scalar"
        )

    def test_a_layer_without_bias_keeps_d_at_none(self):
        architecture = Architecture.uniform(self.SHAPES, D="vector")
        assert str(architecture) == "qkv: none\nfc: D=vector"

    def test_nothing_chosen_is_the_linear_probe(self):
        architecture = Architecture.uniform(self.SHAPES)
        assert architecture.count(self.SHAPES) == 0
        assert set(architecture) == set(self.SHAPES)

    def test_a_rank_above_a_layers_size_is_refused(self):
        with pytest.raises(ArchitectureError, match="at most 4"):
            Architecture.uniform(self.SHAPES, B="lora-5")

    def test_named_points_of_the_space_count_as_published(self):
        shapes = {"fc": LayerShape(8, 4)}
        assert Architecture.uniform(shapes, B="lora-2").count(shapes) == 2 * (8 + 4)
        assert Architecture.uniform(shapes, E="vector").count(shapes) == 8
        assert Architecture.uniform(shapes, A="vector", E="vector").count(shapes) == 16


@QUICK
@given(st.lists(st.tuples(layer_choices, shapes), max_size=5))
def test_the_count_of_an_architecture_is_the_sum_of_its_layers(layers):
    names = [f"layer.{i}" for i in range(len(layers))]
    architecture = Architecture({n: c for n, (c, _) in zip(names, layers, strict=True)})
    of_name = {n: s for n, (_, s) in zip(names, layers, strict=True)}
    assert architecture.count(of_name) == sum(c.count(s) for c, s in layers)


def test_repr_tells_size_and_digest_not_every_layer():
    architecture = Architecture({f"layer.{i}": LayerChoices() for i in range(100)})
    assert "100 layers" in repr(architecture)
    assert architecture.digest[:12] in repr(architecture)
    assert len(repr(architecture)) < 100
