import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution

from glora_automl.adapters import adapted_layers, attach, linear_shapes
from glora_automl.architecture import TENSORS, Architecture, Choice, LayerChoices, LayerShape
from glora_automl.errors import SearchSpaceError
from glora_automl.search_space import (
    SearchSpace,
    SearchSpaceSpec,
    list_search_spaces,
    load_search_space,
)
from tests import models

QUICK = settings(max_examples=40, deadline=None)

VIT_B = {
    f"blocks.{i}.{name}": shape
    for i in range(12)
    for name, shape in {
        "attn.qkv": LayerShape(2304, 768),
        "attn.proj": LayerShape(768, 768),
        "mlp.fc1": LayerShape(3072, 768),
        "mlp.fc2": LayerShape(768, 3072),
    }.items()
}
SWIN = {
    "layers.0.blocks.0.attn.qkv": LayerShape(48, 16),
    "layers.0.blocks.0.mlp.fc1": LayerShape(64, 16),
    "layers.1.downsample.reduction": LayerShape(32, 64, bias=False),
    "layers.1.blocks.0.attn.qkv": LayerShape(96, 32, bias=False),
    "layers.1.blocks.0.mlp.fc1": LayerShape(128, 32),
}
SMALL = {"fc1": LayerShape(8, 4), "fc2": LayerShape(4, 8)}


def spec(**fields) -> SearchSpaceSpec:
    choices = {t: fields.pop(t) for t in TENSORS if t in fields}
    return SearchSpaceSpec(choices=choices, **fields)


def tied(name: str, tie: str) -> SearchSpaceSpec:
    return load_search_space(name).model_copy(update={"tie": tie})


def draw(space: SearchSpace, seed: int) -> dict[str, str]:
    generator = random.Random(seed)
    return {d.name: generator.choice(d.choices) for d in space.dimensions}


POSSIBLE = {
    "A": ("none", "scalar", "vector", "lora-1", "lora-2"),
    "B": ("none", "scalar", "vector", "lora-1", "lora-2"),
    "C": ("none", "vector", "lora-1", "lora-2"),
    "D": ("none", "scalar", "vector"),
    "E": ("none", "scalar", "vector"),
}
specs = st.builds(
    lambda tie, **choices: spec(tie=tie, **choices),
    tie=st.sampled_from(["layer", "kind", "block", "model"]),
    **{
        t: st.lists(st.sampled_from(POSSIBLE[t]), min_size=1, unique=True).map(tuple)
        for t in TENSORS
    },
)
shape_dicts = st.dictionaries(
    st.sampled_from(
        [f"blocks.{i}.{n}" for i in range(3) for n in ("attn.qkv", "mlp.fc1")] + ["neck", "head.0"]
    ),
    st.builds(LayerShape, st.integers(2, 9), st.integers(2, 9), st.booleans()),
    min_size=1,
    max_size=5,
)
spaces = st.builds(SearchSpace, specs, shape_dicts)


class TestShipped:
    def test_list_search_spaces_returns_five(self):
        assert list_search_spaces() == ["default", "lean", "lora-ranks", "paper", "vectors"]

    @pytest.mark.parametrize("name", ["default", "lean", "lora-ranks", "paper", "vectors"])
    def test_shipped_spaces_have_a_description_and_fit_vit_and_swin(self, name):
        declared = load_search_space(name)
        assert declared.description
        assert declared.tie == "layer"
        assert SearchSpace(declared, VIT_B).minimum == 0
        wide = {n: LayerShape(48, 96, s.bias) for n, s in SWIN.items()}
        assert SearchSpace(declared, wide).minimum == 0

    def test_paper_has_432_options_per_layer(self):
        assert SearchSpace(load_search_space("paper"), {"fc": LayerShape(8, 8)}).size == 432
        assert SearchSpace(load_search_space("paper"), VIT_B).size == 432**48

    def test_paper_has_the_published_choices(self):
        choices = load_search_space("paper").choices
        assert choices.A == choices.B == ("none", "scalar", "vector", "lora-4")
        assert choices.C == ("none", "vector", "lora-4")
        assert choices.D == choices.E == ("none", "scalar", "vector")

    def test_default_adds_ranks_and_drops_lora_for_c(self):
        choices = load_search_space("default").choices
        ranks = ("none", "scalar", "vector", "lora-2", "lora-4", "lora-8")
        assert choices.A == choices.B == ranks
        assert choices.C == ("none", "vector")
        assert choices.D == choices.E == ("none", "scalar", "vector")

    def test_lean_has_vectors_and_lora_for_b(self):
        choices = load_search_space("lean").choices
        assert choices.A == choices.C == choices.E == ("none", "vector")
        assert choices.B == ("none", "lora-1", "lora-2", "lora-4", "lora-8")
        assert choices.D == ("none",)

    def test_lora_ranks_searches_only_b(self):
        space = SearchSpace(load_search_space("lora-ranks"), VIT_B)
        assert {d.tensor for d in space.dimensions} == {"B"}
        assert len(space.dimensions) == 48

    def test_vectors_has_no_lora(self):
        choices = load_search_space("vectors").choices
        assert not any("lora" in c for t in TENSORS for c in getattr(choices, t))


class TestTie:
    def test_tie_layer_gives_each_tensor_of_each_layer_a_dimension(self):
        space = SearchSpace(tied("default", "layer"), VIT_B)
        assert [d.name for d in space.dimensions] == [f"{n}.{t}" for n in VIT_B for t in TENSORS]
        assert len(space.dimensions) == 240
        assert all(len(d.layers) == 1 for d in space.dimensions)

    def test_tie_kind_ties_the_same_layer_of_all_blocks(self):
        space = SearchSpace(tied("default", "kind"), VIT_B)
        kinds = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        assert [d.name for d in space.dimensions] == [
            f"blocks.*.{kind}.{t}" for kind in kinds for t in TENSORS
        ]
        assert len(space.dimensions) == 20
        assert space.dimensions[0].layers == tuple(f"blocks.{i}.attn.qkv" for i in range(12))

    def test_tie_block_ties_the_layers_of_a_block(self):
        space = SearchSpace(tied("default", "block"), VIT_B)
        assert [d.name for d in space.dimensions] == [
            f"blocks.{i}.*.{t}" for i in range(12) for t in TENSORS
        ]
        assert len(space.dimensions) == 60
        assert space.dimensions[5].layers == tuple(n for n in VIT_B if n.startswith("blocks.1."))

    def test_tie_model_ties_all_layers(self):
        space = SearchSpace(tied("default", "model"), VIT_B)
        assert [d.name for d in space.dimensions] == ["*.A", "*.B", "*.C", "*.D", "*.E"]
        assert all(d.layers == tuple(VIT_B) for d in space.dimensions)

    def test_tie_in_stages_groups_by_stage_and_block(self):
        names = {
            tie: list(dict.fromkeys(d.name[:-2] for d in space.dimensions))
            for tie in ("kind", "block")
            for space in [SearchSpace(tied("vectors", tie), SWIN)]
        }
        assert names == {
            "kind": [
                "layers.*.blocks.*.attn.qkv",
                "layers.*.blocks.*.mlp.fc1",
                "layers.*.downsample.reduction",
            ],
            "block": ["layers.0.blocks.0.*", "layers.1.*", "layers.1.blocks.0.*"],
        }

    @pytest.mark.parametrize("tie", ["layer", "kind", "block", "model"])
    def test_tied_layers_have_the_same_choices(self, tie):
        space = SearchSpace(tied("default", tie), VIT_B)
        architecture = space.architecture(draw(space, 0))
        for dimension in space.dimensions:
            taken = {getattr(architecture[name], dimension.tensor) for name in dimension.layers}
            assert len(taken) == 1
        assert list(architecture) == list(VIT_B)

    @pytest.mark.parametrize("tie", ["layer", "kind", "block", "model"])
    def test_every_layer_is_in_exactly_one_dimension_of_each_tensor(self, tie):
        space = SearchSpace(tied("default", tie), VIT_B)
        for tensor in TENSORS:
            layers = [n for d in space.dimensions if d.tensor == tensor for n in d.layers]
            assert sorted(layers) == sorted(VIT_B)

    def test_tie_unknown_raises(self):
        with pytest.raises(ValueError, match="tie"):
            spec(tie="stage", E=("none", "vector"))


class TestPatterns:
    @pytest.mark.parametrize(
        ("layers", "exclude", "count"),
        [
            (("*",), (), 48),
            (("*.qkv",), (), 12),
            (("blocks.0.*",), (), 4),
            (("blocks.[01].*", "*.fc2"), (), 4 + 4 + 10),
            (("*",), ("*.qkv",), 36),
            (("*.attn.*",), ("blocks.0.*", "*.proj"), 11),
            (("blocks.0.attn.qkv",), (), 1),
        ],
    )
    def test_patterns_select_layers(self, layers, exclude, count):
        space = SearchSpace(spec(layers=layers, exclude=exclude, E=("none", "vector")), VIT_B)
        assert len(space.shapes) == count
        assert set(space.architecture(draw(space, 0))) == set(space.shapes)

    def test_patterns_in_another_order_keep_the_models_order(self):
        space = SearchSpace(spec(layers=("*.fc2", "*.qkv"), E=("none", "vector")), VIT_B)
        assert list(space.shapes) == [n for n in VIT_B if n.endswith(("qkv", "fc2"))]

    @pytest.mark.parametrize("field", ["layers", "exclude"])
    def test_pattern_without_match_raises_with_known_layers(self, field):
        with pytest.raises(SearchSpaceError, match=rf"search_space\.{field}") as caught:
            SearchSpace(spec(**{field: ("*.fc1", "*.fc3")}, E=("none", "vector")), VIT_B)
        assert "'*.fc3'" in str(caught.value)
        assert "blocks.0.attn.qkv" in str(caught.value)

    def test_patterns_that_exclude_every_layer_raise(self):
        with pytest.raises(SearchSpaceError, match="at least one layer"):
            SearchSpace(spec(exclude=("*",), E=("none", "vector")), VIT_B)

    def test_patterns_are_case_sensitive(self):
        with pytest.raises(SearchSpaceError, match=r"'Blocks\.\*'"):
            SearchSpace(spec(layers=("Blocks.*",), E=("none", "vector")), VIT_B)

    def test_excluded_layers_do_not_count(self):
        space = SearchSpace(spec(exclude=("fc2",), E=("vector",)), SMALL)
        assert (space.minimum, space.maximum) == (8, 8)


class TestErrors:
    @pytest.mark.parametrize(
        ("choices", "words"),
        [
            ({"C": ("none", "scalar")}, "choices.C: C must be one of none, vector, lora-r"),
            ({"D": ("lora-2",)}, "choices.D: D must be one of none, scalar, vector"),
            ({"E": ("lora-2",)}, "choices.E: E must be one of none, scalar, vector"),
            ({"A": ("lora-0",)}, "'lora-0'"),
            ({"A": ("wide",)}, "'wide'"),
            ({"B": ()}, "at least one choice"),
            ({"B": ("none", "lora-2", "none")}, "each once"),
        ],
    )
    def test_choices_not_allowed_raise(self, choices, words):
        with pytest.raises(SearchSpaceError) as caught:
            SearchSpace(spec(**choices), SMALL)
        assert words in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize(
        ("choices", "words"),
        [
            ({"A": ("none", "lora-5")}, "fc1: The rank of A must be at most 4"),
            ({"B": ("lora-5",)}, "fc1: The rank of B must be at most 4"),
            ({"C": ("lora-8",)}, "fc1: The rank of C must be at most 4"),
            ({"C": ("none", "lora-9")}, "fc1: The rank of C must be at most 4"),
        ],
    )
    @pytest.mark.parametrize("tie", ["layer", "model"])
    def test_rank_that_fits_no_layer_raises_with_layer_and_limit(self, choices, words, tie):
        with pytest.raises(SearchSpaceError) as caught:
            SearchSpace(spec(tie=tie, **choices), SMALL)
        assert words in str(caught.value)

    def test_rank_of_the_layers_size_passes(self):
        space = SearchSpace(spec(A=("none", "lora-4"), C=("none", "lora-4")), SMALL)
        assert space.maximum == 2 * 4 * 12 + 4 * 5 + 4 * 9

    @pytest.mark.parametrize(
        ("tie", "choices"),
        [
            ("layer", {"fc1.C": ("none", "lora-2"), "fc2.C": ("none", "lora-2", "lora-8")}),
            ("model", {"*.C": ("none", "lora-2")}),
        ],
    )
    def test_rank_above_a_layers_size_is_dropped_there(self, tie, choices):
        space = SearchSpace(spec(tie=tie, C=("none", "lora-2", "lora-8")), SMALL)
        assert {d.name: d.choices for d in space.dimensions} == choices
        assert {n: space.layer_choices()[n]["C"][-1].rank for n in SMALL} == {
            "fc1": 2,
            "fc2": 8 if tie == "layer" else 2,
        }

    def test_layer_with_unused_bias_has_only_a_and_b(self):
        shapes = {**SMALL, "qkv": LayerShape(8, 4, bias=False, takes_bias=False)}
        texts = dict.fromkeys("ABCDE", ("none", "vector"))
        space = SearchSpace(spec(**texts), shapes)
        assert [d.tensor for d in space.dimensions if d.layers == ("qkv",)] == ["A", "B"]
        tied = SearchSpace(spec(tie="model", **texts), shapes)
        params = {f"*.{tensor}": "vector" for tensor in "ABCDE"}
        architecture = tied.architecture(params)
        assert str(architecture["qkv"]) == "A=vector B=vector"
        assert tied.params(architecture) == params
        assert tied.count(params) == architecture.count(shapes)

    def test_rank_fits_after_small_layers_are_excluded(self):
        shapes = {**SMALL, "large": LayerShape(32, 32)}
        space = SearchSpace(spec(layers=("large",), B=("none", "lora-16")), shapes)
        assert space.maximum == 16 * 64

    @pytest.mark.parametrize("value", ["lora-5", "", None, "None"])
    def test_architecture_unknown_choice_raises(self, value):
        space = SearchSpace(spec(B=("none", "lora-2")), SMALL)
        with pytest.raises(SearchSpaceError, match=r"'fc2\.B' must be one of none, lora-2"):
            space.architecture({"fc1.B": "none", "fc2.B": value})

    def test_architecture_missing_parameter_raises(self):
        space = SearchSpace(spec(B=("none", "lora-2")), SMALL)
        with pytest.raises(SearchSpaceError, match=r"'fc2\.B'"):
            space.architecture({"fc1.B": "none"})

    @pytest.mark.parametrize(
        "text",
        [
            "fc1: B=lora-2 E=scalar",
            "fc1: B=lora-2 E=scalar\nfc2: B=lora-2 E=scalar\nfc3: B=lora-2 E=scalar",
            "fc1: B=lora-4 E=scalar\nfc2: B=lora-4 E=scalar",
            "fc1: B=lora-2 E=scalar\nfc2: E=scalar",
            "fc1: B=lora-2 E=vector\nfc2: B=lora-2 E=vector",
            "fc1: A=vector B=lora-2 E=scalar\nfc2: B=lora-2 E=scalar",
        ],
        ids=["layer missing", "layer too many", "no choice", "not tied", "not fixed", "not none"],
    )
    def test_params_architecture_outside_the_space_raises(self, text):
        space = SearchSpace(spec(tie="model", B=("none", "lora-2"), E=("scalar",)), SMALL)
        inside = Architecture.parse("fc1: B=lora-2 E=scalar\nfc2: B=lora-2 E=scalar")
        assert space.params(inside) == {"*.B": "lora-2"}
        with pytest.raises(SearchSpaceError, match=r"must (have|be one of)"):
            space.params(Architecture.parse(text))


class TestParameters:
    @QUICK
    @given(spaces, st.integers(0, 1000))
    def test_params_and_architecture_are_inverse(self, space, seed):
        params = draw(space, seed)
        architecture = space.architecture(params)
        assert space.params(architecture) == params
        assert space.architecture(space.params(architecture)) == architecture

    @QUICK
    @given(spaces, st.integers(0, 1000))
    def test_count_equals_the_architectures_count(self, space, seed):
        params = draw(space, seed)
        architecture = space.architecture(params)
        assert space.count(params) == architecture.count(space.shapes)
        assert space.minimum <= space.count(params) <= space.maximum

    @QUICK
    @given(spaces)
    def test_minimum_and_maximum_are_reached(self, space):
        cheapest = {d.name: min(zip(d.costs, d.choices, strict=True))[1] for d in space.dimensions}
        dearest = {d.name: max(zip(d.costs, d.choices, strict=True))[1] for d in space.dimensions}
        assert space.architecture(cheapest).count(space.shapes) == space.minimum
        assert space.architecture(dearest).count(space.shapes) == space.maximum

    @QUICK
    @given(spaces, st.integers(0, 1000))
    def test_costs_equal_the_difference_of_one_change(self, space, seed):
        params = draw(space, seed)
        for dimension in space.dimensions:
            counts = [
                space.architecture({**params, dimension.name: choice}).count(space.shapes)
                for choice in dimension.choices
            ]
            assert [c - counts[0] for c in counts] == [
                cost - dimension.costs[0] for cost in dimension.costs
            ]

    @pytest.mark.parametrize("tie", ["layer", "kind", "block", "model"])
    def test_different_params_give_different_architectures(self, tie):
        space = SearchSpace(spec(tie=tie, B=("none", "lora-2"), E=("none", "vector")), SWIN)
        product = itertools.product(*(d.choices for d in space.dimensions))
        names = [d.name for d in space.dimensions]
        some = list(itertools.islice(product, 200))
        found = {space.architecture(dict(zip(names, values, strict=True))) for values in some}
        assert len(found) == len(some)

    def test_single_choice_is_counted_without_a_dimension(self):
        space = SearchSpace(spec(A=("vector",), B=("none", "lora-2")), SMALL)
        assert [d.name for d in space.dimensions] == ["fc1.B", "fc2.B"]
        architecture = space.architecture({"fc1.B": "none", "fc2.B": "lora-2"})
        assert str(architecture) == "fc1: A=vector\nfc2: A=vector B=lora-2"
        assert space.fixed_count == 12
        assert space.count({"fc1.B": "none", "fc2.B": "lora-2"}) == 12 + 24

    def test_space_without_dimensions_is_one_architecture(self):
        space = SearchSpace(spec(E=("vector",)), SMALL)
        assert space.dimensions == ()
        assert space.size == 1
        assert str(space.architecture({})) == "fc1: E=vector\nfc2: E=vector"
        assert space.count({}) == space.minimum == space.maximum == 12


class TestLayersWithoutBias:
    def test_layer_without_bias_has_no_dimension_for_d(self):
        shapes = {"bare": LayerShape(8, 4, bias=False), "fc": LayerShape(8, 4)}
        space = SearchSpace(load_search_space("vectors"), shapes)
        assert [d.name for d in space.dimensions] == [
            *(f"bare.{t}" for t in "ABCE"),
            *(f"fc.{t}" for t in TENSORS),
        ]
        assert space.size == (3 * 3 * 2 * 3) * (3 * 3 * 2 * 3 * 3)

    def test_layer_without_bias_keeps_d_none_for_a_single_choice(self):
        shapes = {"bare": LayerShape(8, 4, bias=False), "fc": LayerShape(8, 4)}
        space = SearchSpace(spec(D=("vector",)), shapes)
        assert str(space.architecture({})) == "bare: none\nfc: D=vector"
        assert space.fixed_count == 8

    @pytest.mark.parametrize("tie", ["kind", "model"])
    def test_layer_without_bias_in_a_group_costs_nothing_for_d(self, tie):
        shapes = {
            "blocks.0.fc": LayerShape(8, 4, bias=False),
            "blocks.1.fc": LayerShape(8, 4),
            "blocks.2.fc": LayerShape(8, 4, bias=False),
        }
        space = SearchSpace(spec(tie=tie, D=("none", "scalar", "vector")), shapes)
        (dimension,) = space.dimensions
        assert dimension.layers == tuple(shapes)
        assert dimension.costs == (0, 1, 8)
        params = {dimension.name: "vector"}
        architecture = space.architecture(params)
        assert str(architecture) == "blocks.0.fc: none\nblocks.1.fc: D=vector\nblocks.2.fc: none"
        assert space.params(architecture) == params
        assert space.count(params) == 8

    def test_group_without_bias_has_no_dimension_for_d(self):
        shapes = {"blocks.0.fc": LayerShape(8, 4, False), "blocks.1.fc": LayerShape(8, 4)}
        space = SearchSpace(spec(tie="block", D=("none", "vector")), shapes)
        assert [d.name for d in space.dimensions] == ["blocks.1.*.D"]


class TestOptuna:
    @pytest.mark.parametrize("tie", ["layer", "kind", "block", "model"])
    def test_distributions_are_one_per_dimension(self, tie):
        space = SearchSpace(tied("default", tie), VIT_B)
        distributions = space.distributions()
        assert list(distributions) == [d.name for d in space.dimensions]
        for dimension in space.dimensions:
            assert distributions[dimension.name] == CategoricalDistribution(dimension.choices)

    def test_distributions_have_the_storage_formats_names_and_values(self):
        distributions = SearchSpace(load_search_space("paper"), VIT_B).distributions()
        assert distributions["blocks.0.attn.qkv.A"].choices == (
            "none",
            "scalar",
            "vector",
            "lora-4",
        )


class TestDigest:
    BASE = spec(B=("none", "lora-2"))

    def test_digest_depends_on_the_tied_layers(self):
        def digest(*names: str) -> str:
            shapes = {name: LayerShape(8, 4) for name in names}
            return SearchSpace(spec(tie="model", B=("none", "lora-2")), shapes).digest

        assert digest("fc1", "fc2") == digest("fc1", "fc2")
        assert digest("fc1", "fc2") != digest("fc1", "fc3")

    def test_digest_is_equal_for_equal_meaning(self):
        again = spec(layers=("fc1", "fc2"), description="other words", B=("none", "lora-2"))
        assert SearchSpace(self.BASE, SMALL).digest == SearchSpace(again, SMALL).digest

    @pytest.mark.parametrize(
        ("other", "shapes"),
        [
            (spec(B=("none", "lora-4")), SMALL),
            (spec(B=("lora-2", "none")), SMALL),
            (spec(B=("none", "lora-2"), E=("scalar",)), SMALL),
            (spec(A=("none", "lora-2")), SMALL),
            (spec(B=("none", "lora-2"), tie="model"), SMALL),
            (spec(B=("none", "lora-2"), layers=("fc1",)), SMALL),
            (spec(B=("none", "lora-2")), {**SMALL, "fc2": LayerShape(4, 9)}),
        ],
        ids=["rank", "order", "fixed", "tensor", "tie", "layers", "shape"],
    )
    def test_digest_changes_with_the_meaning(self, other, shapes):
        assert SearchSpace(other, shapes).digest != SearchSpace(self.BASE, SMALL).digest


class TestWithModels:
    @pytest.mark.parametrize("name", list(models.MODELS))
    @pytest.mark.parametrize("tie", ["layer", "kind", "block", "model"])
    def test_adapted_layers_accept_every_architecture_and_count_the_same(self, name, tie):
        model = models.backbone(name)
        shapes = linear_shapes(model)
        space = SearchSpace(spec(tie=tie, **models.CHOICES), shapes)
        attach(model, space.layer_choices())
        layers = adapted_layers(model)
        for seed in range(3):
            params = draw(space, seed)
            for layer, choices in space.architecture(params).items():
                layers[layer].activate(choices)
            parts = [p for layer in layers.values() for p in layer.active_parameters().values()]
            assert sum(p.numel() for p in parts) == space.count(params)

    def test_layer_choices_equal_the_declaration(self):
        shapes = {"bare": LayerShape(8, 4, bias=False), "fc": LayerShape(8, 4)}
        space = SearchSpace(
            spec(tie="model", A=("vector",), B=("none", "lora-2"), D=("none", "scalar")), shapes
        )
        none = Choice("none")
        common = {
            "A": (Choice("vector"),),
            "B": (none, Choice("lora", 2)),
            "C": (none,),
            "E": (none,),
        }
        assert space.layer_choices() == {
            "bare": {**common, "D": (none,)},
            "fc": {**common, "D": (none, Choice("scalar"))},
        }

    @QUICK
    @given(spaces, st.integers(0, 1000))
    def test_layer_choices_allow_every_architecture(self, space, seed):
        allowed = space.layer_choices()
        for name, choices in space.architecture(draw(space, seed)).items():
            for tensor, choice in zip(LayerChoices._fields, choices, strict=True):
                assert choice in allowed[name][tensor]
