import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.architecture import TENSORS, LayerShape
from glora_automl.errors import ReportError
from glora_automl.report import GROUPINGS, Counts, check_grouping, group_of, project_study
from glora_automl.search_space import SearchSpace, load_search_space
from glora_automl.study import FORMAT
from tests.report.studies import add_trials, begin_study, finish, made_space, made_study

SHAPES = {
    "stem": LayerShape(8, 16),
    **{f"blocks.{i}.qkv": LayerShape(24, 8, bias=i % 2 == 0) for i in range(11)},
    **{f"blocks.{i}.proj": LayerShape(8, 8) for i in range(11)},
}


@pytest.mark.parametrize("tie", ["layer", "kind", "block", "model"])
@pytest.mark.parametrize("by", GROUPINGS)
@settings(max_examples=20)
@given(data=st.data())
def test_counts_are_those_of_the_architecture(by, tie, data):
    spec = load_search_space("default").model_copy(update={"tie": tie})
    space = SearchSpace(spec, SHAPES)
    params = {d.name: data.draw(st.sampled_from(d.choices)) for d in space.dimensions}
    architecture = space.architecture(params)
    expected: dict[str, int] = {}
    for layer, choices in architecture.items():
        for tensor, choice in zip(TENSORS, choices, strict=True):
            name = group_of(layer, tensor, by)
            expected[name] = expected.get(name, 0) + choice.count(tensor, SHAPES[layer])
    counts = Counts(space, by)
    found = counts(params)
    unpadded = {".".join(p.lstrip("0") or p[:1] for p in k.split(".")): v for k, v in found.items()}
    assert unpadded == expected
    assert sum(found.values()) == architecture.count(SHAPES) == space.count(params)
    assert found.keys() == counts.distributions.keys()
    for name, distribution in counts.distributions.items():
        assert distribution._contains(found[name])


def test_group_names_sort_by_number():
    names = list(Counts(SearchSpace(load_search_space("default"), SHAPES)).distributions)
    assert names == [*(f"blocks.{i:02}" for i in range(11)), "stem"]


def test_counts_include_fixed_choices():
    spec = load_search_space("default")
    fixed = spec.choices.model_copy(update={"E": ("vector",)})
    space = SearchSpace(spec.model_copy(update={"choices": fixed}), SHAPES)
    counts = Counts(space, "tensor")
    params = {d.name: "none" for d in space.dimensions}
    assert counts(params) == {
        **dict.fromkeys("ABCD", 0),
        "E": sum(shape.out_features for shape in SHAPES.values()),
    }


def test_counts_of_incomplete_parameters_are_empty():
    space = made_space()
    first = space.dimensions[0]
    assert Counts(space)({}) == {}
    assert Counts(space)({first.name: first.choices[0]}) == {}


@pytest.mark.parametrize("params", [{"x": 1.0}, {"blocks.0.attn.qkv.A": "lora-3"}])
def test_counts_of_foreign_parameters_raise(params):
    with pytest.raises(ValueError, match="`params` must be in the search space, got "):
        Counts(made_space())(params)


def test_check_grouping_of_an_unknown_name_raises():
    assert [check_grouping(by) for by in GROUPINGS] == list(GROUPINGS)
    with pytest.raises(
        ReportError, match="`by` must be one of block, kind, tensor, layer, got 'depth'"
    ):
        check_grouping("depth")


def test_foreign_study_has_no_projection():
    project = project_study("block")
    other = optuna.create_study()
    assert project(other) is None
    study = begin_study(optuna.storages.InMemoryStorage())
    assert project(study) is project(study)
    settings = study.user_attrs["glora:settings"]
    recipe = {**settings["recipe"], "of_a_later_version": 1}
    study.set_user_attr("glora:settings", {**settings, "recipe": recipe})
    assert project(study) is None
    study.set_user_attr("glora:format", FORMAT)
    assert project(study) is None


def test_attributes_are_described_in_words():
    study, space = made_study()
    add_trials(study, space, 1)
    best = finish(study, space)
    study.set_user_attr("foreign", 3)
    shown = Counts(space).describe(study.user_attrs)
    budget = study.user_attrs["glora:settings"]["budget"]
    assert shown["budget"] == f"{budget:,} trainable parameters"
    assert (
        shown["search space"] == "8 layers, 40 parameters, shown as trainable parameters per block"
    )
    assert shown["selected"].startswith(f"trial {best.number}, ")
    assert shown["test accuracy in %, BitFit"] == "–"
    assert shown["foreign"] == 3
