"""The settings of a study: its attributes; created, found again and checked."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy

from glora_automl._messages import short
from glora_automl.architecture import LayerShape
from glora_automl.errors import GLoRAError, RecipeError, StudyError
from glora_automl.presets import resolve_architecture
from glora_automl.recipes import Recipe, parse_recipe
from glora_automl.search_space import SearchSpace
from glora_automl.study._attributes import check_attributes, check_stage_trials
from glora_automl.study._ranking import directions_of, done_trials, name_objectives
from glora_automl.workers import stage_study_name

__all__ = [
    "FORMAT",
    "Attribute",
    "Settings",
    "check_study",
    "create_study",
    "get_attribute",
    "get_setting",
    "is_glora_study",
    "kept_settings",
    "load_study",
    "read_recipe",
    "read_space",
    "refuse_foreign",
    "set_attribute",
    "study_key",
]

FORMAT = 2
"""Version of what is written into a study: parameter names, values and attributes."""

Attribute = Literal[
    "format",
    "settings",
    "data",
    "backbone",
    "supernet",
    "selection",
    "ladder",
    "result",
    "classes",
    "comparison",
]
"""Attributes of a study; the storage has them as ``glora:<name>``."""

AFTER_SEARCH: tuple[Attribute, ...] = ("result", "selection", "ladder", "classes", "comparison")
"""Attributes that are written after the search."""

Setting = Literal[
    "recipe",
    "budget",
    "target",
    "digests",
    "versions",
    "heartbeat",
    "artifacts",
    "store",
    "initial",
    "layers",
    "key",
    "ranking",
    "reopened",
]
"""Keys of the attribute ``settings``, which is written when a study is created."""


def get_attribute(study: optuna.Study | FrozenStudy, key: Attribute) -> Any:
    """Return an attribute; None if it is not set."""
    return study.user_attrs.get(f"glora:{key}")


def set_attribute(study: optuna.Study, key: Attribute, value: Any) -> None:
    """Set an attribute to a JSON value; equal values are not written again."""
    if get_attribute(study, key) != value:
        study.set_user_attr(f"glora:{key}", value)


def kept_settings(study: optuna.Study) -> dict[str, Any]:
    """Return the settings that a study was created with.

    Raises:
        StudyError: If it has none: another process has deleted it since it was loaded.
    """
    found: dict[str, Any] | None = get_attribute(study, "settings")
    if found is None:
        raise StudyError(
            f"The study {study.study_name!r} must have its settings, but another process has "
            "deleted it or begun it again. Repeat the call, or choose another `name`."
        )
    return found


def get_setting(study: optuna.Study, key: Setting) -> Any:
    """Return one of the settings that a study was created with.

    Raises:
        StudyError: If it has none.
    """
    return kept_settings(study)[key]


def load_study(storage: BaseStorage, name: str, *, argument: str = "name") -> optuna.Study:
    """Load a study of this package; messages name the ``argument`` that has its name.

    Raises:
        StudyError: If it does not exist, belongs to another program, has another format, or holds
            something that this package did not write.
    """
    known = optuna.get_all_study_names(storage)
    if name not in known:
        names = ", ".join(sorted(n for n in known if "/" not in n)[:8]) or "none"
        raise StudyError(
            f"{argument} must be a study of the storage ({names}), got {short(name)}. Choose "
            f"another `{argument}`."
        )
    study = optuna.load_study(study_name=name, storage=storage)
    version = get_attribute(study, "format")
    if version is None:
        raise _foreign(name)
    if version != FORMAT:
        raise StudyError(
            f"The study {name!r} must have format {FORMAT}, got {short(version)}. Use the "
            "glora-automl that created it, or choose another `name`."
        )
    check_study(study)
    return study


def check_study(study: optuna.Study) -> None:
    """Check everything that is read from a study: a shared storage has many writers.

    Raises:
        StudyError: If something was altered; the message names it.
    """
    name = study.study_name
    try:
        check_attributes(study, study.get_trials(deepcopy=False))
        read_space(study)
        stages = stage_study_name(name)
        if stages in optuna.get_all_study_names(study._storage):
            attempts = optuna.load_study(study_name=stages, storage=study._storage)
            check_stage_trials(name, attempts.get_trials(deepcopy=False))
    except StudyError:
        raise
    except GLoRAError as error:
        raise StudyError(
            f"The study {short(name)} must be as glora_automl wrote it, got: {error} Restore it, "
            "or choose another `name`."
        ) from None


def _foreign(name: str) -> StudyError:
    return StudyError(
        f"name must be a study that glora_automl created, got {name!r}. Choose another `name`."
    )


def is_glora_study(storage: BaseStorage, name: str) -> bool:
    """Return whether a study of this package exists and was created completely."""
    if name not in optuna.get_all_study_names(storage):
        return False
    study = optuna.load_study(study_name=name, storage=storage)
    return get_attribute(study, "format") is not None


def read_recipe(study: optuna.Study) -> Recipe:
    """Return the recipe of a study."""
    return parse_recipe(get_setting(study, "recipe"), f"study {study.study_name}")


def read_space(study: optuna.Study) -> SearchSpace:
    """Return the search space of a study's trials, without its model."""
    shapes = {n: LayerShape(*shape) for n, shape in get_setting(study, "layers").items()}
    recipe = read_recipe(study)
    if recipe.architecture is not None:
        budget = int(get_setting(study, "budget"))
        architecture = resolve_architecture(recipe.architecture, shapes, shapes, budget)
        return SearchSpace.of(architecture, shapes)
    # The kept layers are the selected ones: patterns would look for the others, too.
    spec = recipe.search_space.model_copy(update={"layers": ("*",), "exclude": ()})
    return SearchSpace(spec, shapes)


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
        store: Name of a mark among its files, which tells a moved store from another one.
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
    store: str = field(default_factory=lambda: secrets.token_hex(8))

    def new_key(self, study: optuna.Study) -> str:
        """Return the key of a study: a digest of what it must keep, then a random part.

        A study that was deleted and begun again has another key, so nothing of the first one
        counts. Without a change of what it must keep, a study without results keeps its key.
        """
        text = json.dumps([self.recipe.identity(), self.digests], sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        kept = str((get_attribute(study, "settings") or {}).get("key", ""))
        return kept if kept.startswith(digest) else digest + secrets.token_hex(4)

    def write(self, study: optuna.Study) -> None:
        """Write the settings into a study, the format last.

        Settings are one attribute: a worker may be killed between two of them.
        """
        name_objectives(study, self.recipe)
        set_attribute(
            study,
            "settings",
            {
                **self.__dict__,
                "recipe": self.recipe.model_dump(mode="json"),
                "initial": list(self.initial),
                "key": self.new_key(study),
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
        began = kept_settings(study).get("warm_start")
        if self.warm_start not in (None, began):
            raise RecipeError(
                f"warm_start must be {began!r}, as in the study {name!r}, got "
                f"{self.warm_start!r}. Leave out `warm_start`, or choose another `name`."
            )
        old, new = read_recipe(study).identity(), self.recipe.identity()
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                raise RecipeError(
                    f"{key} must be {short(old.get(key))}, as in the study {name!r}, got "
                    f"{short(new.get(key))}. Choose another `name`."
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
        before, now = kept["recipe"]["search"]["n_trials"], self.recipe.search.n_trials
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


def study_key(study: optuna.Study) -> str:
    """Return the :meth:`Settings.new_key` that a study was created with."""
    return str(get_setting(study, "key"))


def refuse_foreign(storage: BaseStorage, name: str) -> None:
    """Refuse to change a study of another program.

    Raises:
        StudyError: If there is one of that name.
    """
    if name in optuna.get_all_study_names(storage) and not is_glora_study(storage, name):
        study = optuna.load_study(study_name=name, storage=storage)
        begun = all(key.startswith("glora:") for key in study.user_attrs)
        if not begun or study.get_trials(deepcopy=False):
            raise _foreign(name)


def create_study(storage: BaseStorage, name: str, settings: Settings) -> optuna.Study:
    """Create the study of a recipe, or overwrite the settings of one without any results.

    A study has no results while its creation was interrupted, or its supernet is not trained:
    after a mistake, the corrected recipe starts over under the same name.

    Raises:
        StudyError: If the study exists with other directions.
    """
    directions = directions_of(settings.recipe)
    study = optuna.create_study(
        study_name=name, storage=storage, directions=directions, load_if_exists=True
    )
    if study.directions != directions:
        raise StudyError(
            f"search.objectives must match the study {name!r} ({_text(study.directions)}), got "
            f"{_text(directions)}. Choose another `name`."
        )
    settings.write(study)
    return study


def _text(directions: Sequence[StudyDirection]) -> str:
    return ", ".join(direction.name.lower() for direction in directions)
