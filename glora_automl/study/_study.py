"""The Optuna study of a recipe: its attributes; created, found again and checked."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy

from glora_automl.architecture import LayerShape
from glora_automl.errors import RecipeError, StudyError
from glora_automl.presets import resolve_architecture
from glora_automl.recipes import Recipe, SearchSettings, parse_recipe
from glora_automl.search_space import SearchSpace
from glora_automl.study._ranking import CONSTRAINT

__all__ = [
    "FORMAT",
    "Settings",
    "create_study",
    "get_attribute",
    "get_setting",
    "is_ours",
    "load_study",
    "name_objectives",
    "read_recipe",
    "read_space",
    "refuse_foreign",
    "set_attribute",
    "study_key",
]

FORMAT = 1
"""Version of what is written into a study: parameter names, values and attributes."""

Attribute = Literal[
    "format", "settings", "backbone", "supernet", "selection", "result", "comparison"
]
"""What a study keeps besides its trials; the storage has it as ``glora:<name>``."""

Setting = Literal[
    "recipe",
    "budget",
    "target",
    "digests",
    "versions",
    "heartbeat",
    "artifacts",
    "initial",
    "layers",
    "key",
]
"""What is written at once, as the attribute ``settings``, when a study is created."""


def get_attribute(study: optuna.Study | FrozenStudy, key: Attribute) -> Any:
    """One of our study attributes, or None."""
    return study.user_attrs.get(f"glora:{key}")


def set_attribute(study: optuna.Study, key: Attribute, value: Any) -> None:
    """Write one of our study attributes, if it is not so already; ``value`` must be JSON."""
    if get_attribute(study, key) != value:
        study.set_user_attr(f"glora:{key}", value)


def get_setting(study: optuna.Study, key: Setting) -> Any:
    """One of the settings that a study was created with."""
    return get_attribute(study, "settings")[key]


def load_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Find a study of ours.

    Raises:
        StudyError: If it is not there, not ours, or of another format.
    """
    known = optuna.get_all_study_names(storage)
    if name not in known:
        names = ", ".join(sorted(n for n in known if "/" not in n)[:8]) or "none"
        raise StudyError(f"The storage has no study {name!r}; there are: {names}.")
    study = optuna.load_study(study_name=name, storage=storage)
    version = get_attribute(study, "format")
    if version is None:
        raise StudyError(
            f"The study {name!r} is not one of GLoRA's; choose another name with --name."
        )
    if version != FORMAT:
        raise StudyError(
            f"The study {name!r} has format {version}, this version reads format {FORMAT}; use the "
            "glora-automl that made it, or start another with --name."
        )
    return study


def is_ours(storage: BaseStorage, name: str) -> bool:
    """Whether a study is there that has been created to the end, of whatever format."""
    if name not in optuna.get_all_study_names(storage):
        return False
    study = optuna.load_study(study_name=name, storage=storage)
    return get_attribute(study, "format") is not None


def read_recipe(study: optuna.Study) -> Recipe:
    """The recipe that a study keeps."""
    return parse_recipe(get_setting(study, "recipe"), f"study {study.study_name}")


def read_space(study: optuna.Study) -> SearchSpace:
    """The search space that a study's trials are of, without its model."""
    shapes = {n: LayerShape(*shape) for n, shape in get_setting(study, "layers").items()}
    recipe = read_recipe(study)
    if recipe.architecture is not None:
        budget = int(get_setting(study, "budget"))
        return SearchSpace.of(
            resolve_architecture(recipe.architecture, shapes, shapes, budget), shapes
        )
    # Those that were chosen: patterns would look for the others, too.
    spec = recipe.search_space.model_copy(update={"layers": ("*",), "exclude": ()})
    return SearchSpace(spec, shapes)


def name_objectives(study: optuna.Study, search: SearchSettings) -> None:
    """Tell Optuna what the values of a study's trials are."""
    names = [f"validation_{search.metric}", CONSTRAINT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(names[: len(study.directions)])


@dataclass(frozen=True)
class Settings:
    """What a study is created with.

    Attributes:
        recipe: Its recipe.
        budget: The budget as a plain count.
        target: Complete trials to reach: the recipe's, or all architectures if there are fewer.
        digests: Of images and search space.
        versions: Of the packages, for the record.
        heartbeat: Seconds between heartbeats of its workers.
        artifacts: Where its files are.
        layers: Shapes of the adapted layers, so that parameters can be counted without the model.
        warm_start: Study whose best architectures the search begins with, if any.
        initial: Those architectures, as parameters of trials.
    """

    recipe: Recipe
    budget: int
    target: int
    digests: dict[str, str]
    versions: dict[str, str]
    heartbeat: float
    artifacts: str
    layers: Mapping[str, LayerShape]
    warm_start: str | None = None
    initial: tuple[dict[str, str], ...] = ()

    @property
    def key(self) -> str:
        """A digest of what may not change while there are trials.

        A study keeps the one that it was created with: a later version of the package that knows
        more settings would compute another one for the same study.
        """
        text = json.dumps([self.recipe.identity(), self.digests], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def directions(self) -> list[StudyDirection]:
        """For each objective whether it is maximised."""
        return [
            StudyDirection.MAXIMIZE if objective == "accuracy" else StudyDirection.MINIMIZE
            for objective in self.recipe.search.objectives
        ]

    def write(self, study: optuna.Study) -> None:
        """Write everything into a study; the format last, which makes it one of ours.

        What belongs together is one attribute: a worker may be killed between two of them.
        """
        name_objectives(study, self.recipe.search)
        set_attribute(
            study,
            "settings",
            {
                **self.__dict__,
                "recipe": self.recipe.model_dump(mode="json"),
                "initial": list(self.initial),
                "key": self.key,
                "layers": {name: list(shape) for name, shape in self.layers.items()},
            },
        )
        set_attribute(study, "format", FORMAT)

    def check(self, study: optuna.Study) -> None:
        """Refuse a study with other settings.

        Raises:
            RecipeError: If its recipe is another one; the message names the first difference.
            StudyError: If its images or its search space are others.
        """
        name = study.study_name
        began = get_attribute(study, "settings").get("warm_start")
        if self.warm_start not in (None, began):
            raise RecipeError(
                f"The study {name!r} has begun with a warm start from {began!r}, got "
                f"{self.warm_start!r}; leave out --warm-start, or choose another name with --name."
            )
        old, new = read_recipe(study).identity(), self.recipe.identity()
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                raise RecipeError(
                    f"The study {name!r} exists with {key} = {old.get(key)!r}, this recipe has "
                    f"{new.get(key)!r}; choose another name with --name."
                )
        digests = get_setting(study, "digests")
        for key, digest in self.digests.items():
            if digests.get(key) != digest:
                raise StudyError(
                    f"The {key} of the study {name!r} must have the digest {digests.get(key)}, "
                    f"here it is {digest}; use the same data and versions, or another name with "
                    "--name."
                )

    def raise_target(self, study: optuna.Study, is_closed: Callable[[], bool]) -> None:
        """Give a study more trials, if the recipe has more of them.

        Args:
            study: The study.
            is_closed: Tells whether its best trials are being chosen or have been.

        Raises:
            RecipeError: If it is closed, or the recipe has fewer.
        """
        kept = get_attribute(study, "settings")
        before, now = kept["recipe"]["search"]["n_trials"], self.recipe.search.n_trials
        if before == now:
            return
        if now < before:
            raise RecipeError(
                f"The trials of the study {study.study_name!r} may be raised, from {before} on, "
                f"got {now}; stop its workers if it has had enough, or start another with --name."
            )
        recipe = self.recipe.model_dump(mode="json")
        if not is_closed():
            set_attribute(study, "settings", {**kept, "recipe": recipe, "target": self.target})
            # Whoever chooses looks at the target after it has said that it does; whoever raises
            # it looks whether somebody chooses after it has been written. One sees the other.
            if not is_closed():
                return
            set_attribute(study, "settings", kept)
        raise RecipeError(
            f"The study {study.study_name!r} has chosen its best of search.n_trials = {before} "
            f"and takes no other number, got {now}; start another with --name."
        )


def study_key(study: optuna.Study) -> str:
    """The :attr:`Settings.key` that a study was created with."""
    return str(get_setting(study, "key"))


def refuse_foreign(storage: BaseStorage, name: str) -> None:
    """Refuse to touch a study that somebody made for something else.

    Raises:
        StudyError: If there is one of that name.
    """
    if name in optuna.get_all_study_names(storage) and not is_ours(storage, name):
        study = optuna.load_study(study_name=name, storage=storage)
        begun = all(key.startswith("glora:") for key in study.user_attrs)
        if not begun or study.get_trials(deepcopy=False):
            raise StudyError(
                f"The study {name!r} is not one of GLoRA's; choose another name with --name."
            )


def create_study(storage: BaseStorage, name: str, settings: Settings) -> optuna.Study:
    """Create the study of a recipe, or write other settings into one on which nothing hangs yet.

    It is then new, its creation was interrupted, or its supernet was never trained to the end:
    after a mistake in the recipe, the mended one starts over under the same name.

    Raises:
        StudyError: If the study exists with other directions.
    """
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=settings.directions,
        load_if_exists=True,
    )
    if study.directions != settings.directions:
        raise StudyError(
            f"The study {name!r} exists with other objectives, "
            f"{_text(study.directions)} instead of {_text(settings.directions)}; choose another "
            "name with --name."
        )
    settings.write(study)
    return study


def _text(directions: Sequence[StudyDirection]) -> str:
    return ", ".join(direction.name.lower() for direction in directions)
