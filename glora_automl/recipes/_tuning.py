"""Section ``[tune]`` of a recipe: settings that the study chooses by short trainings."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from glora_automl import _declarations
from glora_automl._declarations import Bool, Declaration, Float, Int
from glora_automl._messages import short
from glora_automl.errors import RecipeError

__all__ = ["Range", "TuneSettings", "load_portfolio", "nested"]

MAX_STEPS = 10**9
"""Most steps of a range."""

Value = bool | int | float | str


class Range(Declaration):
    """A range of numbers.

    Attributes:
        low: Smallest value; an integer gives a range of integers.
        high: Largest value.
        log: Whether values are drawn from the logarithmic scale.
        step: Distance of the values; None is 1 for integers and none for others.
    """

    low: Int | Float
    high: Int | Float
    log: Bool = False
    step: Int | Float | None = None

    @model_validator(mode="after")
    def _check(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low must be at most high, got {self.low} and {self.high}.")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 with log = true, got {self.low}.")
        if self.step is None:
            return self
        if self.log:
            raise ValueError(f"step must be unset with log = true, got {self.step}.")
        if self._has_integers and not isinstance(self.step, int):
            raise ValueError(f"step must be an integer as low and high are, got {self.step}.")
        least = (self.high - self.low) / MAX_STEPS
        if self.step <= 0 or self.step < least:
            bound = f"at least {least:g}" if least else "above 0"
            raise ValueError(f"step must be {bound}, got {self.step}.")
        return self

    @property
    def _has_integers(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution of the range; it ends at the last step below ``high``."""
        high: Any = self.high
        if self.step is not None:  # Optuna warns where the last step does not reach the end
            low, end, step = (Decimal(str(value)) for value in (self.low, high, self.step))
            high = low + (end - low) // step * step
        if self._has_integers:
            steps = 1 if self.step is None else int(self.step)
            return IntDistribution(int(self.low), int(high), log=self.log, step=steps)
        return FloatDistribution(float(self.low), float(high), log=self.log, step=self.step)

    def holds(self, value: object) -> bool:
        """Return whether a value is one that the range may propose.

        Example:
            >>> [Range(low=0, high=2).holds(x) for x in (1, 0.4, 3, "a")]
            [True, False, False, False]
            >>> [Range(low=0.0, high=1.0, step=0.25).holds(x) for x in (0.5, 0.4)]
            [True, False]
        """
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        distribution = self.distribution()
        if distribution.to_external_repr(distribution.to_internal_repr(value)) != value:
            return False  # not an integer
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def __str__(self) -> str:
        is_integer = isinstance(self.distribution(), IntDistribution)
        step = "" if self.step is None else f" in steps of {self.step}"
        return f"{'integers ' if is_integer else ''}{self.low} to {self.high}{step}"


def _kind_of_choices(value: object) -> str:
    return "range" if isinstance(value, Mapping | Range) else "list"


Choices = Annotated[
    Annotated[tuple[Value, ...], Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(_kind_of_choices),
    Field(description="a list of values, or a table with low and high"),
]


class TuneSettings(Declaration):
    """Choice of a recipe's own settings by short trainings of the supernet.

    Each trial trains the wide supernet with other settings on all labelled images but one fold,
    and is judged by that fold. As many trials in a row as there are folds share one fold, so that
    they are compared on the same images.
    The best settings train everything that follows, the baselines included.

    Attributes:
        n_trials: Settings to try; 0 keeps the recipe as it is. The first trial is the recipe
            itself, the next ones are ``portfolio``, the others come from ``sampler``.
        portfolio: Settings of the shipped portfolio to try, in its order.
        choices: Values by key of the recipe, such as ``training.lr``: a list, or a table with
            ``low``, ``high``, ``log`` and ``step``.
        sampler: One of Optuna's samplers: ``tpe``, ``gp`` or ``random``.
        n_folds: Folds of the labelled images.
        epochs_ratio: Steps of a trial, as a multiple of those of ``training.epochs``.
        prune_ratio: Part of a trial's epochs after which Optuna's median pruner may end it, once
            five trials are complete.
    """

    n_trials: Int = Field(default=0, ge=0, le=1_000_000)
    portfolio: Int = Field(default=0, ge=0)
    choices: dict[str, Choices] = Field(default_factory=dict)
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    n_folds: Int = Field(default=4, ge=2, le=100)
    epochs_ratio: Float = Field(default=0.25, gt=0, le=100)
    prune_ratio: Float = Field(default=0.5, gt=0, le=1)

    @field_validator("portfolio")
    @classmethod
    def _check_portfolio(cls, portfolio: int) -> int:
        if portfolio > (n := len(load_portfolio())):
            raise ValueError(
                f"must be at most {n}, the settings of the portfolio, got {portfolio}."
            )
        return portfolio

    @model_validator(mode="after")
    def _check_choices(self) -> TuneSettings:
        if self.n_trials and not (self.choices or self.portfolio):
            raise ValueError(
                f"n_trials must be 0 without choices and portfolio, got {self.n_trials}. Set "
                "`choices` or `portfolio`."
            )
        for key, values in self.choices.items():
            if key.partition(".")[0] != "training" and key != "backbone.head_init":
                raise ValueError(
                    "choices must be keys of [training] or backbone.head_init, got "
                    f"{short(key)}. Correct `choices`."
                )
            if values == ():
                raise ValueError(f"choices of {key} must not be empty. Add values.")
        return self

    def proposals(self, own: Mapping[str, Value]) -> list[dict[str, Value]]:
        """Return the first settings to try: the recipe's own, then those of the portfolio.

        Args:
            own: The recipe's own value of each key that may change.
        """
        chosen = load_portfolio()[: self.portfolio]
        return [dict(own), *(dict(own) | settings for settings in chosen)]

    def extremes(self) -> list[dict[str, Value]]:
        """Return settings that hold each value, or the ends of its range, at least once."""
        return [
            {key: value}
            for key, values in self.choices.items()
            for value in ((values.low, values.high) if isinstance(values, Range) else values)
        ]

    def tuned_keys(self) -> list[str]:
        """Return the keys that may change."""
        chosen = load_portfolio()[: self.portfolio]
        return list(dict.fromkeys([*self.choices, *(key for s in chosen for key in s)]))

    def distributions(self, own: Mapping[str, Value]) -> dict[str, BaseDistribution]:
        """Return Optuna's distributions by key.

        A list of choices also holds the values of the recipe and of the portfolio.

        Args:
            own: The recipe's own value of each key that may change.

        Raises:
            RecipeError: If one of these values is outside of a range.
        """
        found: dict[str, BaseDistribution] = {}
        first = self.proposals(own)
        for key in own:
            choices = self.choices.get(key, ())
            if isinstance(choices, Range):
                found[key] = choices.distribution()
                for settings in first:
                    if not choices.holds(settings[key]):
                        raise RecipeError(
                            f"tune.choices must hold {key} = {short(settings[key])}, the value of "
                            f"the recipe or of its portfolio, got {choices}. Change the range."
                        )
            elif not isinstance(own[key], int | float | str):
                raise RecipeError(
                    f"tune.choices must not have {key}, as the recipe has a list there, got "
                    f"{short(own[key])}. Remove it from `tune.choices`."
                )
            else:
                values = dict.fromkeys([*choices, *(settings[key] for settings in first)])
                found[key] = CategoricalDistribution(tuple(values))
        return found


class _Portfolio(Declaration):
    """A list of settings, most useful first.

    Attributes:
        description: One line.
        settings: Values by key of the recipe.
    """

    description: str = ""
    settings: tuple[dict[str, Value], ...]


@functools.cache
def load_portfolio() -> tuple[dict[str, Value], ...]:
    """Return the settings of the shipped portfolio, most useful first.

    Raises:
        RecipeError: If its file is invalid.
    """
    _stem, table = _declarations.read("portfolios", "default", RecipeError)
    return _declarations.validate(_Portfolio, table, "portfolio", RecipeError).settings


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of tables from dotted keys.

    Example:
        >>> nested({"training.lr": 0.1, "training.mixup": 0.4, "backbone.head_init": "random"})
        {'training': {'lr': 0.1, 'mixup': 0.4}, 'backbone': {'head_init': 'random'}}
    """
    table: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, last = key.split(".")
        inner = table
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return table
