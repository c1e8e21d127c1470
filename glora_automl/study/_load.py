"""A study of this package in a storage: its attributes, found, read and checked."""

from __future__ import annotations

from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from optuna.study._frozen import FrozenStudy

from glora_automl._messages import short
from glora_automl.architecture import LayerShape
from glora_automl.errors import GLoRAError, StudyError
from glora_automl.presets import resolve_architecture
from glora_automl.recipes import Recipe, parse_recipe
from glora_automl.search_space import SearchSpace
from glora_automl.study._attributes import check_attributes, check_stage_trials
from glora_automl.workers import stage_study_name

__all__ = [
    "FORMAT",
    "Attribute",
    "check_study",
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

FORMAT = 3
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
    "warm_start",
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
