"""The settings that a study is created with: written, compared and changed."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage

from glora_automl._messages import short
from glora_automl.architecture import LayerShape
from glora_automl.errors import RecipeError, StudyError
from glora_automl.recipes import Recipe
from glora_automl.study._load import (
    FORMAT,
    Attribute,
    get_attribute,
    get_setting,
    kept_settings,
    read_recipe,
    set_attribute,
)
from glora_automl.study._ranking import direction_text, directions_of, done_trials, name_objectives

__all__ = ["Settings", "create_study"]

AFTER_SEARCH: tuple[Attribute, ...] = ("result", "selection", "ladder", "classes", "comparison")
"""Attributes that are written after the search."""


@dataclass(frozen=True)
class Settings:
    """Settings that a study is created with.

    Attributes:
        recipe: Its recipe.
        budget: The most trainable adapter parameters.
        target: Complete trials to reach: those of the recipe, or all architectures if the space
            has fewer.
        digests: Digests of images and search space.
        versions: Versions of the packages, for the record.
        heartbeat: Seconds between heartbeats of its workers.
        artifacts: Place of its files; relative to the folder of a database file that is above it.
        layers: Shapes of the adapted layers, to count parameters without the model.
        warm_start: Name of the study whose best architectures the search begins with.
        initial: First proposals, each as one text (:func:`glora_automl.pipeline.pack_proposals`):
            MySQL has 64 KiB for an attribute.
        ranking: Key of the ranking that chose the backbone; None if the recipe names it.
        reopened: Attempts at stages until the finished study was last given more trials. Of those,
            no selection or test counts any more.
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
    initial: tuple[str, ...] = ()
    ranking: str | None = None
    reopened: int = 0

    def new_key(self, study: optuna.Study) -> str:
        """Return the key of a study: a digest of what it must keep, then a random part.

        A study that was deleted and begun again has another key, so nothing of the first one
        counts. Without a change of what it must keep, a study without results keeps its key.
        """
        kept = [self.recipe.identity(), self.digests, self.artifacts]
        text = json.dumps(kept, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        old = str((get_attribute(study, "settings") or {}).get("key", ""))
        return old if old.startswith(digest) else digest + secrets.token_hex(4)

    def write(self, study: optuna.Study, mark: Callable[[str], object] | None = None) -> None:
        """Write the settings into a study, the format last.

        Settings are one attribute: a worker may be killed between two of them.

        Args:
            study: The study.
            mark: Called with the study's key before others find the study.
        """
        key = self.new_key(study)
        if mark is not None:
            mark(key)
        name_objectives(study, self.recipe)
        set_attribute(
            study,
            "settings",
            {
                **self.__dict__,
                "recipe": self.recipe.model_dump(mode="json"),
                "initial": list(self.initial),
                "key": key,
                "layers": {name: list(shape) for name, shape in self.layers.items()},
            },
        )
        set_attribute(study, "format", FORMAT)

    def check(self, study: optuna.Study) -> None:
        """Refuse a study with other settings.

        Raises:
            RecipeError: If its recipe differs; the message names the first difference.
            StudyError: If its images or its search space differ.
        """
        name = study.study_name
        began = get_setting(study, "warm_start")
        if self.warm_start not in (None, began):
            raise RecipeError(
                f"warm_start must be {began!r}, as in the study {name!r}, got "
                f"{self.warm_start!r}. Leave out `warm_start`, or choose another `name`."
            )
        old, new = read_recipe(study).identity(), self.recipe.identity()
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                raise RecipeError(
                    f"{key} must be {_shown(old.get(key))}, as in the study {name!r}, got "
                    f"{_shown(new.get(key))}. Choose another `name`."
                )
        digests = get_setting(study, "digests")
        for key, digest in self.digests.items():
            if digests.get(key) != digest:
                raise StudyError(
                    f"The {key} must have the digest {str(digests.get(key))[:16]}, as in the study "
                    f"{name!r}, got {digest[:16]}. Use the same data and versions, or choose "
                    "another `name`."
                )

    def change_target(
        self,
        study: optuna.Study,
        attempts: optuna.Study,
        is_closed: Callable[[], bool],
        *,
        n_enqueued: int = 0,
        chosen: bool = False,
    ) -> None:
        """Give a study the number of trials of the recipe, or of those that were enqueued.

        A finished study is opened again for more trials: its supernet and its trials stay, and what
        was selected and tested does not count any more.

        Args:
            study: The study.
            attempts: The study of its stages.
            is_closed: Returns whether the selection runs or is done.
            n_enqueued: Trials that were enqueued after the last one of the study.
            chosen: Whether the number is chosen for this study. It may then be lower, and takes
                the place of the number that a time limit has set.

        Raises:
            RecipeError: If the study is being selected from, or the recipe has fewer trials and is
                not chosen.
        """
        kept = kept_settings(study)
        before, now = read_recipe(study).search.n_trials, self.recipe.search.n_trials
        target = self.target if chosen or before != now else kept["target"]
        n_reached = max(kept["target"], len(done_trials(study)))  # the target may be a lowered one
        if n_enqueued:
            target = max(target, n_reached + n_enqueued)
        if target == kept["target"] and before == now:
            return
        name = study.study_name
        if now < before and not chosen:
            raise RecipeError(
                f"n_trials must be at least {before}, as in the study {name!r}, got {now}. Run "
                f"'glora resume {name}' with `n_trials` to lower it, or choose another `name`."
            )
        recipe = self.recipe.model_dump(mode="json")
        changed = {**kept, "recipe": recipe, "target": target}
        if get_attribute(study, "result") is not None:
            if target <= n_reached:
                return  # it has as many trials
            reopened = len(attempts.get_trials(deepcopy=False))
            set_attribute(study, "settings", {**changed, "reopened": reopened})
            for key in AFTER_SEARCH:
                set_attribute(study, key, None)
            return
        if not is_closed():
            set_attribute(study, "settings", changed)
            # The selection reads the target after it has begun, and this looks for a selection
            # after the target was written: one of them sees the other.
            if not is_closed():
                return
            set_attribute(study, "settings", kept)
        before = kept["target"] if before == now else before
        raise RecipeError(
            f"n_trials must stay {before} while the study {name!r} selects and tests its winner, "
            f"got {now}. Run 'glora resume {name}' to its end first."
        )


def create_study(
    storage: BaseStorage,
    name: str,
    settings: Settings,
    mark: Callable[[str], object] | None = None,
) -> optuna.Study:
    """Create the study of a recipe, or overwrite the settings of one without any results.

    A study has no results while its creation was interrupted, or its supernet is not trained:
    after a mistake, the corrected recipe starts over under the same name.

    Args:
        storage: The storage.
        name: Name of the study.
        settings: Its settings.
        mark: Called with the study's key before others find the study.

    Raises:
        StudyError: If the study exists with other directions.
    """
    recipe = settings.recipe
    directions = directions_of(recipe.objective, recipe.search.is_multi_objective)
    study = optuna.create_study(
        study_name=name, storage=storage, directions=directions, load_if_exists=True
    )
    if study.directions != directions:
        raise StudyError(
            f"search.objectives must match the study {name!r} ({direction_text(study.directions)}),"
            f" got {direction_text(directions)}. Choose another `name`."
        )
    settings.write(study, mark)
    return study


def _shown(value: object) -> str:
    """Return a value as in a recipe's file."""
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else short(value)
