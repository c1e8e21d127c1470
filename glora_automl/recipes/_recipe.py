"""A recipe: everything that a study is made of, in one TOML file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from glora_automl import _declarations
from glora_automl._declarations import Bool, Declaration, Float, Int
from glora_automl.architecture import Architecture
from glora_automl.backbones import BackboneSettings
from glora_automl.budget import parse_budget
from glora_automl.errors import ArchitectureError, BudgetError, RecipeError
from glora_automl.presets import check_architecture, is_preset, read_architecture
from glora_automl.search_space import SearchSpaceSpec, check_choices, load_search_space
from glora_automl.tasks import TaskSettings
from glora_automl.training import SupernetSettings

__all__ = ["Recipe", "SearchSettings", "SelectionSettings", "list_recipes", "load_recipe"]


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names of recipes and studies: they name folders."""


class SearchSettings(Declaration):
    """The search; by default an evolution with smaller generations than GLoRA's 50 with 10 parents.

    Those ask for 1,050 trials, and with fewer of them the smaller ones find better architectures.

    Attributes:
        n_trials: Trials to reach. It may be raised while the study is open.
        population_size: Trials a generation.
        n_parents: Best trials that become parents.
        mutation_fraction: Share of each generation that is mutated; the rest is crossed over.
        mutation_prob: Chance of each choice of a mutated architecture to change.
        objectives: What a trial is judged by: on the validation images, ``accuracy``, which is
            maximised, or cross-entropy ``loss``, which is minimised. ``n_params`` after either
            makes a search for the whole trade-off, with as few trainable parameters as possible.
        sampler: ``evolution``, or one of Optuna's with proposals that are repaired into the
            budget: ``tpe``, ``nsga2``, ``random``. Population is TPE's number of random trials,
            too.
        initial_presets: Whether the first generation of the evolution begins with what people would
            try first, such as LoRA of one rank: what fits and is in the search space, at most half
            of it.
        min_budget_fraction: Smallest size of a random architecture, as a fraction of the budget. 0
            spreads them over all sizes, as several objectives do in any case.
        precision: Type in which trials are scored: ``float32``, ``bfloat16``, or ``auto``, which is
            bfloat16 on CUDA and float32 on a CPU. Candidates of the selection are scored in
            float32, and so is the winner.
        compile: Whether the model that scores trials is compiled, on CUDA with CUDA graphs. It
            takes a minute or so, once a worker, which pays for long searches.
    """

    n_trials: Int = Field(default=1050, ge=1)
    population_size: Int = Field(default=20, ge=1)
    n_parents: Int = Field(default=5, ge=1)
    mutation_fraction: Float = Field(default=0.5, ge=0, le=1)
    mutation_prob: Float = Field(default=0.2, ge=0, le=1)
    objectives: tuple[Literal["accuracy", "loss", "n_params"], ...] = ("accuracy",)
    sampler: Literal["evolution", "tpe", "nsga2", "random"] = "evolution"
    initial_presets: Bool = True
    min_budget_fraction: Float = Field(default=0.5, ge=0, le=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Bool = False

    @field_validator("objectives")
    @classmethod
    def _check_objectives(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        if objectives[:1] not in (("accuracy",), ("loss",)) or objectives[1:] not in (
            (),
            ("n_params",),
        ):
            raise ValueError(
                "must be ['accuracy'] or ['loss'], either with 'n_params' behind it for the "
                f"trade-off, got {list(objectives)}."
            )
        return objectives

    @property
    def metric(self) -> Literal["accuracy", "loss"]:
        """What tells how good a trial is, whatever its size."""
        return "loss" if self.objectives[0] == "loss" else "accuracy"

    @property
    def is_multi_objective(self) -> bool:
        """Whether few parameters are an objective, too."""
        return len(self.objectives) > 1


class SelectionSettings(Declaration):
    """What happens after the search.

    Attributes:
        n_candidates: Best architectures that are scored again before one is chosen.
        n_splits: Parts of the validation images for a cross-validation of the candidates: each is
            trained on with the fitted images and all parts but one, and scored on that one. 0
            scores them as they are. For small validation sets.
        rounds: How many candidates are trained alone, from the backbone, in each round of a
            contest; the best of a round go on to the next, which is twice as long, the last one as
            long as a control's training. Where several take part, half of them are the best of the
            adapters that were picked by hand for the first generation. Without any, the best
            candidate is chosen as it is and trained on.
        lrs: Peak learning rates that what is trained alone is trained at, one after the other, to
            keep what validates best: controls, and the winner of a contest, whose candidates are
            trained at the supernet's if that is one of them, else at the last. Without any, the
            supernet's alone.
        refit: Whether the adapters that are tested are trained once more with the validation
            images among those to fit, as they were trained before.
        finetune_epochs: Epochs for which the winner is trained on; 0 keeps inherited weights. What
            is trained alone is trained for those of the supernet and for these.
        finetune_lr: Peak learning rate of that; None takes the supernet's.
        baselines: Whether linear probe, LoRA (where no rank fits in all layers, in attention alone)
            and BitFit are trained for comparison. The winner of a contest has to beat them.
    """

    n_candidates: Int = Field(default=10, ge=1)
    n_splits: Int = Field(default=0, ge=0)
    rounds: tuple[Int, ...] = ()
    lrs: tuple[Float, ...] = ()
    refit: Bool = False
    finetune_epochs: Int = Field(default=20, ge=0)
    finetune_lr: Float | None = Field(default=None, gt=0)
    baselines: Bool = True

    @model_validator(mode="after")
    def _train_on(self) -> SelectionSettings:
        falling = (self.n_candidates + 1, *self.rounds, 0)
        if any(after >= before for before, after in pairwise(falling)):
            raise ValueError(
                f"rounds must fall, from at most the {self.n_candidates} candidates to at least 1, "
                f"got {list(self.rounds)}."
            )
        if not all(0 < rate < math.inf for rate in self.lrs):
            raise ValueError(f"lrs must be above 0, got {list(self.lrs)}.")
        if self.n_splits == 1:
            raise ValueError("folds must be 0 or at least 2, got 1.")
        if (self.n_splits or (self.refit and not self.rounds)) and not self.finetune_epochs:
            raise ValueError(
                "folds need finetune_epochs of at least 1, and refit those or rounds, got 0; leave "
                "them out."
            )
        return self


class Recipe(Declaration):
    """Task, backbone, search space, budget, training, search and selection of a study.

    Attributes:
        name: Name of the study, if none is given.
        description: One line for ``glora recipes``.
        seed: Seed of all randomness.
        budget: The most trainable adapter parameters: ``12000``, ``"12k"``, ``"0.3M"`` or
            ``"1%"`` of the backbone's parameters without its classifier.
        task: Where the images come from.
        backbone: Which model is adapted.
        search_space: Which layers and choices.
        architecture: An architecture that is trained alone, without a search and without controls,
            for as many epochs as supernet and winner together: as it is printed, or a ready one
            in the layers of the search space. Those are ``lora-r``, ``lora`` with the highest rank
            that fits the budget, ``bitfit``, ``ssf`` and ``probe``, which trains only the head.
        training: How the supernet is trained.
        search: How architectures are searched.
        selection: What is done with the best.

    Example:
        >>> recipe = load_recipe("digits").replace(budget="8k", search={"n_trials": 100})
        >>> recipe.budget, recipe.search.n_trials
        ('8k', 100)
    """

    name: str = Field(pattern=NAME)
    description: str = ""
    seed: Int = Field(default=0, ge=0, lt=2**32)
    budget: int | str
    task: TaskSettings
    backbone: BackboneSettings
    search_space: SearchSpaceSpec
    architecture: str | None = None
    training: SupernetSettings
    search: SearchSettings = SearchSettings()
    selection: SelectionSettings = SelectionSettings()

    @field_validator("budget", mode="before")
    @classmethod
    def _check_budget(cls, budget: object) -> object:
        if isinstance(budget, bool) or not isinstance(budget, int | str):
            raise ValueError(f"must be a count or a text such as '12k' or '1%', got {budget!r}.")
        return budget

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some settings changed; the value of a section is a table of changes.

        A search space may be named, as in a recipe's file; paths are from the working directory.

        Raises:
            RecipeError: If a key is unknown or a value is out of its range.
            SearchSpaceError: If there is no such search space.
        """
        if "search_space" in changes:
            changes["search_space"] = _space(changes["search_space"], Path())
        return parse_recipe(_merge(self.model_dump(mode="json"), changes), f"recipe {self.name}")

    @property
    def standalone_epochs(self) -> int:
        """Epochs for which an architecture is trained alone: those of supernet and fine-tuning."""
        return self.training.epochs + self.selection.finetune_epochs

    def identity(self) -> dict[str, Any]:
        """What makes a study this recipe's, as flat keys: all but texts and the trial target."""
        flat = _flatten(self.model_dump(mode="json"))
        if self.architecture is not None and not is_preset(self.architecture):
            flat["architecture"] = repr(Architecture.parse(self.architecture))
        free = (
            "name",
            "description",
            "search_space.description",
            "search.n_trials",
            "task.path",  # the digest of the images tells whether they are the same
            "task.download",
            "task.memory",
            "task.workers",
            "training.checkpoint_every",
            "backbone.checkpoint",  # its sha256 says what it is
            "backbone.pretraining.checkpoint_every",
        )
        return {key: value for key, value in flat.items() if key not in free}


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
    """Names of the recipes that ship.

    Example:
        >>> "digits" in list_recipes()
        True
    """
    return _declarations.names("studies")


def load_recipe(name: str) -> Recipe:
    """Read a shipped recipe by name, or one of the user's by the path of its TOML file.

    ``search_space`` in the file is a name, a path (from the file's folder) or a table. A table
    with the key ``base`` changes the search space of that name. ``backbone.checkpoint``,
    ``task.path`` and an ``architecture`` that is a file are paths from the file's folder, too, in a
    shipped recipe from the working directory.

    Raises:
        RecipeError: If it is not found or misspelt.
        ArchitectureError: If its architecture is.
        SearchSpaceError: If its search space is not found or misspelt.
    """
    stem, table = _declarations.read("studies", name, RecipeError)
    folder = Path(name).parent if name.endswith(".toml") else Path()
    table.setdefault("name", stem)
    for section, key in (("backbone", "checkpoint"), ("task", "path")):
        settings = table.get(section)
        if isinstance(settings, Mapping) and isinstance(settings.get(key), str):
            path = str(folder / os.path.expanduser(settings[key]))
            table[section] = {**settings, key: path}
    if isinstance(given := table.get("architecture"), str):
        table["architecture"] = read_architecture(given, folder)
    table["search_space"] = _space(table.get("search_space", "default"), folder)
    return parse_recipe(table, f"recipe {stem}")


def _space(space: object, folder: Path) -> object:
    """The table of a search space that is named, or changes one that is; others stay."""
    if isinstance(space, str):
        path = str(folder / space) if space.endswith(".toml") else space
        return load_search_space(path).model_dump(mode="json")
    if isinstance(space, Mapping) and isinstance(base := space.get("base"), str):
        changes = {key: value for key, value in space.items() if key != "base"}
        return _merge(cast(dict[str, Any], _space(base, folder)), changes)
    return space


def parse_recipe(table: object, where: str) -> Recipe:
    """Check a parsed table.

    Raises:
        RecipeError: If a key or value is wrong, with ``where`` in front; likewise
        SearchSpaceError: if a choice is.
        BudgetError: if the budget is.
        ArchitectureError: if the architecture is.
    """
    recipe = _declarations.validate(Recipe, table, where, RecipeError)
    check_choices(recipe.search_space, where)
    try:
        if recipe.architecture is not None:
            check_architecture(recipe.architecture)
    except ArchitectureError as error:
        raise ArchitectureError(f"{where}: architecture: {error}") from None
    try:
        parse_budget(recipe.budget, 0)
    except BudgetError as error:
        raise BudgetError(f"{where}: {error}") from None
    return recipe
