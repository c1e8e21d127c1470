"""A recipe: everything that a study is made of, in one TOML file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, cast

from optuna.distributions import BaseDistribution
from pydantic import Field

from glora_automl import _declarations
from glora_automl._declarations import MAX_DEPTH, MAX_TEXT, Declaration, Int
from glora_automl._messages import short
from glora_automl.architecture import Architecture
from glora_automl.backbones import AUTO, LISTS, BackboneSettings, BackboneSource, in_folder
from glora_automl.budget import Budget
from glora_automl.errors import ArchitectureError, RecipeError
from glora_automl.presets import check_architecture, is_preset, read_architecture
from glora_automl.recipes._settings import SearchSettings, SelectionSettings, SupernetSettings
from glora_automl.recipes._tuning import TuneSettings, nested
from glora_automl.search_space import SearchSpaceSpec, check_choices, load_search_space
from glora_automl.tasks import TaskSettings
from glora_automl.training import MetricName, ObjectiveName, TrainingSettings

__all__ = ["NAME", "Recipe", "list_recipes", "load_recipe", "parse_recipe"]


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Names of recipes and studies: they name folders."""

NAME_RULE = "up to 100 letters, digits, '.', '_' and '-', with a letter or digit first"
"""The pattern in words."""

Name = Annotated[str, Field(pattern=NAME, description=NAME_RULE)]

_WEIGHTS = ("pretrained", "checkpoint", "pretraining")
"""Settings of a backbone that exclude each other."""

_AUTO = tuple(LISTS)
"""Names of lists of candidates, which stand in place of a model."""


class Recipe(Declaration):
    """Task, backbone, search space, budget, training, search and selection of a study.

    Attributes:
        name: Name of the study, if none is given.
        description: One line for ``glora recipes``.
        seed: Seed of all randomness.
        budget: The most trainable adapter parameters: ``12000``, ``"12k"``, ``"0.3M"`` or
            ``"1%"`` of the backbone's parameters without its classifier.
        metric: What a good adapter is: ``accuracy``, ``balanced_accuracy`` (the mean accuracy over
            the classes), ``macro_f1``, ``auroc`` (each class against the rest), ``log_loss`` or
            ``kappa`` (with quadratic weights, for ordered classes). It stands beside the accuracy
            in all tables, and with held-out images it selects among trained adapters. The search
            minimizes the loss all the same, unless ``search.objectives`` is ``["metric"]``.
        task: Source of the images.
        backbone: The model that is adapted.
        search_space: Layers and choices.
        architecture: A preset or a printed architecture that is trained without a search and
            without baselines. Presets adapt the layers of the search space: ``lora-r``, ``lora``
            with the highest rank that fits the budget (in attention alone where rank 1 in all
            layers does not), ``bitfit``, ``ssf`` and ``probe``, which trains only the head.
        training: How every adapter is trained: supernet, winner and baselines.
        tune: Which of these settings short trainings choose.
        supernet: How weights are shared.
        search: How architectures are searched.
        selection: How the final adapter is selected and trained.

    Example:
        >>> recipe = load_recipe("digits").replace(budget="8k", search={"n_trials": 100})
        >>> str(recipe.budget), recipe.search.n_trials
        ('8k', 100)
    """

    name: Name
    description: str = Field(default="", max_length=1000)
    seed: Int = Field(default=0, ge=0, lt=2**32)
    budget: Budget
    metric: MetricName = "accuracy"
    task: TaskSettings
    backbone: BackboneSettings
    search_space: SearchSpaceSpec
    architecture: str | None = Field(default=None, max_length=MAX_TEXT)
    training: TrainingSettings
    tune: TuneSettings = TuneSettings()
    supernet: SupernetSettings = SupernetSettings()
    search: SearchSettings = SearchSettings()
    selection: SelectionSettings = SelectionSettings()

    def replace(self, **changes: Any) -> Recipe:
        """Return a copy with changed settings; the value of a section is a table of changes.

        ``search_space`` may be a name, as in a recipe's file. Paths are relative to the working
        directory.

        Raises:
            RecipeError: If a key is unknown or a value is out of its range.
            SearchSpaceError: If the search space does not exist.
        """
        return self.replace_all([changes])

    def replace_all(self, changes: Iterable[Mapping[str, Any]]) -> Recipe:
        """Return a copy with several tables of changes, applied in order and checked together.

        Raises:
            RecipeError: As :meth:`replace`.
            SearchSpaceError: As :meth:`replace`.
        """
        table = self.model_dump(mode="json")
        for change in changes:
            table = _changed(table, change)
        return parse_recipe(table, f"recipe {self.name}")

    @property
    def objective(self) -> ObjectiveName:
        """The first objective of the search: ``loss`` or the name of a metric."""
        first = self.search.objectives[0]
        return self.metric if first == "metric" else cast(ObjectiveName, first)

    @property
    def needs_holdout(self) -> str | None:
        """The setting that needs held-out validation images; None if there is none."""
        reasons = {
            "architecture": self.architecture is not None,  # its trial has a value
            "selection.refit = false": not self.selection.refit,
            "selection.margin": self.selection.margin is not None,
            f'search.objectives = ["{self.search.objectives[0]}"]': self.objective != "loss",
            'supernet.paths = "uniform"': self.supernet.paths == "uniform",
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def epochs(self, ratio: float) -> int:
        """Return the epochs of a multiple of ``training.epochs``; at least 1 of any training."""
        return max(1, round(ratio * self.training.epochs)) if ratio and self.training.epochs else 0

    def _tuned_values(self) -> dict[str, Any]:
        flat = _flatten(self.model_dump(mode="json", include={"training", "backbone"}))
        return {key: flat[key] for key in self.tune.tuned_keys()}

    def tuning_space(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distributions of the settings that the study chooses; none without."""
        return self.tune.distributions(self._tuned_values()) if self.tune.n_trials else {}

    def tuning_proposals(self) -> list[dict[str, Any]]:
        """Return the settings that a tuning tries first."""
        return self.tune.proposals(self._tuned_values())

    def identity(self) -> dict[str, Any]:
        """Return the settings that a study must keep, as flat keys.

        Texts, places of files and the number of trials are left out.
        """
        flat = _flatten(self.model_dump(mode="json"))
        if self.architecture is not None and not is_preset(self.architecture):
            flat["architecture"] = repr(Architecture.parse(self.architecture))
        free = (
            "name",
            "description",
            "search_space.description",
            "search.n_trials",
            "task.root",
            "task.path",  # the study keeps the digest of the images
            "task.download",
            "task.memory",
            "task.num_workers",
            "training.checkpoint_every",
            "backbone.checkpoint",  # the study keeps its sha256
            "backbone.pretraining.checkpoint_every",
        )
        flat["backbone.candidates"] = [
            {key: value for key, value in candidate.items() if key != "checkpoint"}
            for candidate in flat["backbone.candidates"]
        ]
        return {key: value for key, value in flat.items() if key not in free}


def _changed(table: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of a recipe with changes."""
    changes = dict(changes)
    if "search_space" in changes:
        changes["search_space"] = _space(changes["search_space"], Path())
    own, other = table["backbone"], changes.get("backbone")
    if isinstance(own, Mapping) and isinstance(other, Mapping):
        table = {**table, "backbone": {**own, **_replaced(own, other)}}
    return _merge(table, _plain(changes))


def _plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return a value with Python's numbers in place of others, such as numpy's."""
    if not depth:
        return value  # the validation refuses it
    if isinstance(value, Mapping):
        return {key: _plain(inner, depth - 1) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(inner, depth - 1) for inner in value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _replaced(own: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return defaults for the settings of a backbone that changes replace as a whole.

    One model replaces candidates, candidates replace the model, and a source of weights replaces
    other ones.
    """
    model, candidates = changes.get("model"), changes.get("candidates")
    is_auto = own.get("model") in _AUTO
    keys: set[str] = set()
    values: dict[str, Any] = {}
    if candidates or model in _AUTO:
        keys = set(BackboneSource.model_fields) - {"model"} | {"pretraining"}
        values = {"model": AUTO}
        if not candidates and not (is_auto and model == AUTO):
            keys.add("candidates")
    elif model is not None and is_auto:
        keys = {"candidates", "max_params", "max_latency_ms"}
    if any(changes.get(key) for key in _WEIGHTS):
        keys |= {"sha256"} | {key for key in _WEIGHTS if not changes.get(key)}
    fields = BackboneSettings.model_fields
    return values | {key: fields[key].get_default(call_default_factory=True) for key in keys}


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    if changes.get("source", base.get("source")) != base.get("source"):
        return dict(changes)  # a task of another kind has other keys
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def list_recipes() -> list[str]:
    """Return the names of the shipped recipes.

    Example:
        >>> "digits" in list_recipes()
        True
    """
    return _declarations.names("studies")


def load_recipe(name: str | Path) -> Recipe:
    """Read a shipped recipe by name, or a TOML file by its path.

    ``search_space`` is a name, a path or a table. A table with the key ``base`` changes the search
    space of that name. The paths ``search_space``, ``backbone.checkpoint``, ``task.path`` and
    ``architecture``, and those of ``backbone.candidates``, are relative to the folder of the file,
    in a shipped recipe to the working directory.

    Raises:
        RecipeError: If the recipe is not found or invalid.
        ArchitectureError: If its architecture is invalid.
        SearchSpaceError: If its search space is not found or invalid.
    """
    stem, table = _declarations.read("studies", name, RecipeError)
    is_file = str(name).endswith(".toml")
    folder = Path(os.path.expanduser(name)).parent if is_file else Path()
    table.setdefault("name", stem)
    for section, key in (("backbone", "checkpoint"), ("task", "path")):
        settings = table.get(section)
        if isinstance(settings, Mapping) and isinstance(settings.get(key), str):
            path = str(folder / os.path.expanduser(settings[key]))
            table[section] = {**settings, key: path}
    backbone = table.get("backbone")
    if isinstance(backbone, Mapping) and isinstance(entries := backbone.get("candidates"), list):
        candidates = [in_folder(entry, folder) for entry in entries]
        table["backbone"] = {**backbone, "candidates": candidates}
    if isinstance(given := table.get("architecture"), str):
        table["architecture"] = read_architecture(given, folder)
    table["search_space"] = _space(table.get("search_space", "default"), folder)
    with _declarations.of_file():
        return parse_recipe(table, f"recipe {stem}")


def _space(space: object, folder: Path) -> object:
    """Return the table of a named or changed search space; a whole table stays as it is."""
    if isinstance(space, str):
        path = str(folder / space) if space.endswith(".toml") else space
        return load_search_space(path).model_dump(mode="json")
    if isinstance(space, Mapping) and isinstance(base := space.get("base"), str):
        changes = {key: value for key, value in space.items() if key != "base"}
        return _merge(cast(dict[str, Any], _space(base, folder)), changes)
    return space


def parse_recipe(table: object, where: str) -> Recipe:
    """Validate a parsed table.

    Args:
        table: The table.
        where: Prefix of error messages.

    Raises:
        RecipeError: If a key or value is invalid.
        SearchSpaceError: If a choice is invalid.
        BudgetError: If the budget is invalid.
        ArchitectureError: If the architecture is invalid.
    """
    recipe = _declarations.validate(Recipe, table, where, RecipeError)
    check_choices(recipe.search_space, where)
    reason = recipe.needs_holdout
    if recipe.selection.holdout is False and reason is not None:
        raise RecipeError(
            f"{where}: selection.holdout must be true with {reason}, got false. Leave out "
            "`selection.holdout`, or that setting."
        )
    _check_tuning(recipe, where)
    try:
        if recipe.architecture is not None:
            check_architecture(recipe.architecture)
    except ArchitectureError as error:
        raise ArchitectureError(f"{where}: architecture: {error}") from None
    return recipe


def _check_tuning(recipe: Recipe, where: str) -> None:
    """Check every value that the tuning may give to a setting.

    Raises:
        RecipeError: If a key is unknown or a value out of its range.
    """
    if not recipe.tune.tuned_keys():
        return
    known = set(_flatten(recipe.model_dump(mode="json", include={"training", "backbone"})))
    for key in recipe.tune.tuned_keys():
        if key not in known:
            options = sorted(name for name in known if name.startswith("training."))
            raise RecipeError(
                f"{where}: tune.choices must name settings, got {short(key)}. "
                f"{_declarations.suggest(key, options)}"
            )
    table = recipe.model_dump(mode="json") | {"tune": {}}
    proposals = recipe.tuning_proposals() if recipe.tune.n_trials else []
    for settings in (*recipe.tune.extremes(), *proposals):
        _declarations.validate(
            Recipe,
            _merge(table, nested(settings)),
            f"{where}: tune.choices",
            RecipeError,
            hint="Correct `tune.choices`.",
        )
    if recipe.tune.n_trials:
        recipe.tuning_space()  # whose ranges must hold the recipe's own values
