"""Projection of a trial on few numbers: trainable parameters per group."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import optuna
from optuna.distributions import IntDistribution

from glora_automl.architecture import Choice
from glora_automl.errors import GLoRAError, ReportError
from glora_automl.report._tables import accuracy_text
from glora_automl.search_space import Dimension, SearchSpace, group
from glora_automl.study import FORMAT, Row, Selection, check_settings, get_attribute, read_space

__all__ = ["GROUPINGS", "Counts", "Grouping", "check_grouping", "group_of", "project_study"]

Grouping = Literal["block", "kind", "tensor", "layer"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)


def check_grouping(text: str) -> Grouping:
    """Check the name of a grouping.

    Raises:
        ReportError: If the name is unknown.
    """
    for grouping in GROUPINGS:
        if text == grouping:
            return grouping
    raise ReportError(
        f"`by` must be one of {', '.join(GROUPINGS)}, got {text!r}. Choose another `by`."
    )


def group_of(layer: str, tensor: str, by: Grouping) -> str:
    """Return the group of a support tensor of a layer.

    Example:
        >>> [group_of("blocks.3.attn.qkv", "B", by) for by in GROUPINGS]
        ['blocks.3', 'attn.qkv', 'B', 'blocks.3.attn.qkv']
    """
    if by == "tensor":
        return tensor
    if by == "block":
        return group(layer, "block").removesuffix(".*")
    if by == "kind":
        return group(layer, "kind").rpartition("*.")[2]
    return layer


class Counts:
    """Trainable parameters per block, kind of layer, support tensor or layer.

    Counts add up to the trial's ``trainable_params``, which the budget limits. A choice in a large
    layer weighs more than in a small one. Grouped by block, a ViT-B has 12 counts.

    Args:
        space: Search space of the trials.
        by: Grouping.

    Attributes:
        distributions: Range of each count, by group. Indices are padded so that names sort.

    Example:
        >>> from glora_automl.architecture import LayerShape
        >>> from glora_automl.search_space import load_search_space
        >>> shapes = {f"blocks.{i}.fc1": LayerShape(16, 16) for i in range(11)}
        >>> space = SearchSpace(load_search_space("lora-ranks"), shapes)
        >>> counts = Counts(space, "block")
        >>> list(counts.distributions)[:2], counts.distributions["blocks.10"].high
        (['blocks.00', 'blocks.01'], 512)
        >>> params = {d.name: "lora-2" if "10" in d.name else "none" for d in space.dimensions}
        >>> counts(params)["blocks.10"]
        64
    """

    def __init__(self, space: SearchSpace, by: Grouping = "block") -> None:
        self._space = space
        self._padded = _padder(tuple(space.shapes))
        self._by = by
        most: dict[str, int] = {}
        self._fixed: dict[str, int] = {}
        self._costs: dict[str, dict[str, dict[str, int]]] = {}
        for dimension in space.all_dimensions:
            costs = {choice: self._cost(dimension, choice) for choice in dimension.choices}
            for name in costs[dimension.choices[0]]:
                highest = max(cost[name] for cost in costs.values())
                most[name] = most.get(name, 0) + highest
            if len(dimension.choices) > 1:
                self._costs[dimension.name] = costs
            else:
                for name, cost in costs[dimension.choices[0]].items():
                    self._fixed[name] = self._fixed.get(name, 0) + cost
        order = sorted(name for name, highest in most.items() if highest)
        self.distributions = {name: IntDistribution(0, most[name]) for name in order}

    def _cost(self, dimension: Dimension, choice: str) -> dict[str, int]:
        """Return the trainable parameters of a choice by group."""
        cost: dict[str, int] = {}
        for layer in dimension.layers:
            name = group_of(self._padded(layer), dimension.tensor, self._by)
            effective = self._space.effective(Choice.parse(choice), dimension.tensor, layer)
            count = effective.count(dimension.tensor, self._space.shapes[layer])
            cost[name] = cost.get(name, 0) + count
        return cost

    def __call__(self, params: Mapping[str, Any]) -> dict[str, int]:
        """Return the counts by group, or an empty dict for incomplete ``params``.

        Raises:
            ValueError: If a parameter or choice is not in the search space.
        """
        counts = dict.fromkeys(self.distributions, 0)
        counts.update({name: cost for name, cost in self._fixed.items() if name in counts})
        try:
            costs = [self._costs[name][choice] for name, choice in params.items()]
        except (KeyError, TypeError) as error:
            raise ValueError(f"`params` must be in the search space, got {error}.") from None
        if len(costs) < len(self._costs):
            return {}
        for cost in costs:
            for name, count in cost.items():
                if count:
                    counts[name] += count
        return counts

    def describe(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes of a study in readable form, and foreign attributes as they are."""
        own = {k.partition(":")[2]: v for k, v in attributes.items() if k.startswith("glora:")}
        settings = own["settings"]
        recipe = settings["recipe"]
        shown = {
            "recipe": f"{recipe['name']}: {recipe['description']}",
            "budget": f"{settings['budget']:,} trainable parameters",
            "search space": f"{len(settings['layers'])} layers, {len(self._costs)} parameters, "
            f"shown as trainable parameters per {self._by}",
            "target trials": settings["target"],
        }
        if own.get("selection"):
            selection = Selection.from_json(own["selection"])
            shown["selected"] = f"{selection.origin}, {selection.n_params:,} parameters"
        for row in map(Row.from_json, own.get("result") or ()):
            shown[f"test accuracy in %, {row.name}"] = accuracy_text(row.test)
        rest = {k: v for k, v in attributes.items() if not k.startswith("glora:")}
        return {**shown, **rest}


def _padder(layers: tuple[str, ...]) -> Callable[[str], str]:
    """Return a function that pads the indices of layer names, so that names sort."""
    widths: dict[int, int] = {}
    for layer in layers:
        for place, part in enumerate(layer.split(".")):
            if part.isdigit():
                widths[place] = max(widths.get(place, 0), len(part))

    @functools.cache
    def padded(layer: str) -> str:
        parts = enumerate(layer.split("."))
        return ".".join(p.zfill(widths[i]) if p.isdigit() else p for i, p in parts)

    return padded


def project_study(by: Grouping) -> Callable[[optuna.Study], Counts | None]:
    """Return the ``project`` function of :class:`glora_automl.storages.StudyView`.

    Returns:
        A function from a study to its projection. It returns the same object while the study's
        settings stay the same, and None for a foreign study or another format.
    """
    cache: dict[str, tuple[Any, Counts]] = {}

    def project(study: optuna.Study) -> Counts | None:
        if get_attribute(study, "format") != FORMAT:
            return None
        settings = get_attribute(study, "settings")
        if study.study_name in cache and cache[study.study_name][0] == settings:
            return cache[study.study_name][1]
        try:
            check_settings(study)
            counts = Counts(read_space(study), by)
        except GLoRAError:  # altered, or of a later version with more settings
            return None
        cache[study.study_name] = settings, counts
        return counts

    return project
