from collections.abc import Mapping
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError

from glora_automl._rules import find_fault, find_place, rule_of


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(default=9, ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str = Field(pattern="^[a-z]+$", description="small letters")


def _kind(value):
    return "pair" if isinstance(value, list) else "table"


class Zoo(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    sizes: Literal["small"] | tuple[float, ...] = "small"
    by_name: dict[str, Cat] = {}
    either: Annotated[
        Annotated[tuple[int, int], Tag("pair")] | Annotated[Cat, Tag("table")],
        Discriminator(_kind),
    ] = (0, 0)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (int, "an integer"),
        (float | None, "a number"),
        (int | float, "a number"),
        (bool | int | float | str, "true or false, a number or text"),
        (Annotated[int, Field(ge=0, lt=10)], "an integer from 0 to 9"),
        (Annotated[float, Field(gt=0, lt=1)], "a number above 0 and below 1"),
        (Annotated[float, Field(ge=1e-6, le=2_000.0)], "a number from 1e-06 to 2,000"),
        (Annotated[int, Field(ge=0)], "an integer of at least 0"),
        (Annotated[str, Field(max_length=1000)], "text of at most 1,000 characters"),
        (Literal["a"], "'a'"),
        (Literal["a", "b", "c"] | None, "'a', 'b' or 'c'"),
        (Annotated[tuple[int, ...], Field(min_length=2)], "a list of at least 2 integers"),
        (tuple[float, float], "a list of 2 numbers"),
        (tuple[Cat, ...], "a list of tables"),
        (Literal["none"] | tuple[str, ...], "'none' or a list of texts"),
        (dict[str, int], "a table"),
        (Mapping[str, int], "a table"),
        (Cat, "a table"),
        (Cat | Dog, "a table"),
        (list[tuple[int, ...]], "a list of lists of integers"),
        (Annotated[str, Field(pattern="^a", description="what begins with a")],
         "what begins with a"),
        (object, ""),
    ],
)  # fmt: skip
def test_rule_of_type_is_in_words(kind, rule):
    assert rule_of(kind) == rule


@pytest.mark.parametrize(
    ("table", "keys", "option", "rule"),
    [
        ({"pet": 3}, "pet", "pet", "a table"),
        ({"pet": {"kind": "cat", "lives": 0}}, "pet.lives", "pet.lives", "an integer from 1 to 9"),
        ({"pet": {"kind": "dog", "name": "1"}}, "pet.name", "pet.name", "small letters"),
        ({"sizes": [1, "a"]}, "sizes", "sizes", "'small' or a list of numbers"),
        ({"by_name": {"a": {"kind": "cat", "lives": []}}}, "by_name.a.lives", "by_name",
         "an integer from 1 to 9"),
        ({"by_name": {"a": 1}}, "by_name.a", "by_name", "a table"),
        ({"either": 3}, "either", "either", "a list of 2 integers or a table"),
        ({"either": [1, "a"]}, "either.1", "either", "an integer"),
        ({"either": {"kind": "cat", "lives": []}}, "either.lives", "either.lives",
         "an integer from 1 to 9"),
        ([], "", "", "a table"),
    ],
)  # fmt: skip
def test_find_place_of_fault_names_key_and_rule(table, keys, option, rule):
    with pytest.raises(ValidationError) as caught:
        Zoo.model_validate(table)
    place = find_place(Zoo, find_fault(caught.value.errors())["loc"])
    assert (".".join(place.keys), ".".join(place.option), place.rule) == (keys, option, rule)


def test_find_place_of_unknown_key_has_the_table_of_its_tag():
    class Strict(Cat, extra="forbid"):
        pass

    class Home(BaseModel):
        pet: Annotated[Strict | Dog, Field(discriminator="kind")]

    with pytest.raises(ValidationError) as caught:
        Home.model_validate({"pet": {"kind": "cat", "live": 3}})
    assert find_place(Home, caught.value.errors()[0]["loc"]).owner is Strict
