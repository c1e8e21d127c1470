import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glora_automl.architecture import TENSORS, LayerShape
from glora_automl.errors import ReportError
from glora_automl.report import GROUPINGS, Counts, check_grouping, group_of, project_study
from glora_automl.search_space import SearchSpace, load_search_space
from tests.report.studies import add_trials, begin_study, finish, made_space, made_study

SHAPES = {
    "stem": LayerShape(8, 16),
    **{f"blocks.{i}.qkv": LayerShape(24, 8, bias=i % 2 == 0) for i in range(11)},
    **{f"blocks.{i}.proj": LayerShape(8, 8) for i in range(11)},
}


@pytest.mark.parametrize("share", ["layer", "kind", "block", "model"])
@pytest.mark.parametrize("by", GROUPINGS)
@settings(max_examples=20)
@given(data=st.data())
def test_counts_are_those_of_the_architecture(by, share, data):
    spec = load_search_space("default").model_copy(update={"share": share})
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


def test_names_sort_as_numbers_do():
    names = list(Counts(SearchSpace(load_search_space("default"), SHAPES)).distributions)
    assert names == [*(f"blocks.{i:02}" for i in range(11)), "stem"]


def test_fixed_choices_count_too():
    spec = load_search_space("default")
    fixed = spec.choices.model_copy(update={"E": ("vector",)})
    space = SearchSpace(spec.model_copy(update={"choices": fixed}), SHAPES)
    counts = Counts(space, "tensor")
    params = {d.name: "none" for d in space.dimensions}
    assert counts(params) == {
        **dict.fromkeys("ABCD", 0),
        "E": sum(shape.out_features for shape in SHAPES.values()),
    }


def test_a_trial_without_all_parameters_is_not_counted_yet():
    space = made_space()
    first = space.dimensions[0]
    assert Counts(space)({}) == {}
    assert Counts(space)({first.name: first.choices[0]}) == {}


@pytest.mark.parametrize("params", [{"x": 1.0}, {"blocks.0.attn.qkv.A": "lora-3"}])
def test_other_parameters_are_refused(params):
    with pytest.raises(ValueError, match="not in the search space"):
        Counts(made_space())(params)


def test_a_wrong_grouping_is_told():
    assert [check_grouping(by) for by in GROUPINGS] == list(GROUPINGS)
    with pytest.raises(ReportError, match="block, kind, tensor, layer, got 'depth'"):
        check_grouping("depth")


def test_studies_that_cannot_be_counted_have_no_projection():
    project = project_study("block")
    other = optuna.create_study()
    assert project(other) is None
    study = begin_study(optuna.storages.InMemoryStorage())
    assert project(study) is project(study)
    settings = study.user_attrs["glora:settings"]
    recipe = {**settings["recipe"], "of_a_later_version": 1}
    study.set_user_attr("glora:settings", {**settings, "recipe": recipe})
    assert project(study) is None
    study.set_user_attr("glora:format", 1)
    assert project(study) is None


def test_attributes_are_told_in_words():
    study, space = made_study()
    add_trials(study, space, 1)
    best = finish(study, space)
    study.set_user_attr("mine", 3)
    shown = Counts(space).describe(study.user_attrs)
    budget = study.user_attrs["glora:settings"]["budget"]
    assert shown["budget"] == f"{budget:,} trainable parameters"
    assert shown["search space"] == "8 layers, 40 parameters, here counted by block"
    assert shown["selected"].startswith(f"trial {best.number}, ")
    assert shown["test accuracy in %, BitFit"] == "–"
    assert shown["mine"] == 3
