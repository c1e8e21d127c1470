"""Where the parameters of a trial go, as a few numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import optuna
from optuna.distributions import IntDistribution

from glora_automl.architecture import Choice
from glora_automl.errors import RecipeError, ReportError
from glora_automl.report._tables import accuracy_text
from glora_automl.search_space import Dimension, SearchSpace, group
from glora_automl.study import FORMAT, Selection, get_attribute, read_space
from glora_automl.training import Score

__all__ = ["GROUPINGS", "Counts", "Grouping", "check_grouping", "group_of", "project_study"]

Grouping = Literal["block", "kind", "tensor", "layer"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)


def check_grouping(text: str) -> Grouping:
    """Read what parameters are counted by.

    Raises:
        ReportError: If it is nothing of the kind.
    """
    for grouping in GROUPINGS:
        if text == grouping:
            return grouping
    raise ReportError(f"--by must be one of {', '.join(GROUPINGS)}, got {text!r}.")


def group_of(layer: str, tensor: str, by: Grouping) -> str:
    """What a support tensor of a layer is counted with.

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
    """Trainable parameters that each block, kind of layer, support tensor or layer takes.

    Counts, and not choices or ranks: they are what the budget limits, they add up to the trial's
    ``trainable_params``, and a choice in a large layer weighs more than in a small one. By block,
    there are as many as a person compares at a glance (12 for a ViT-B).

    Args:
        space: The search space of the trials.
        by: What is counted together.

    Attributes:
        distributions: From nothing to the most that a group can take; names sort as numbers do.

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
        """Parameters that a choice costs in each group."""
        cost: dict[str, int] = {}
        for layer in dimension.layers:
            name = group_of(self._padded(layer), dimension.tensor, self._by)
            effective = self._space.effective(Choice.parse(choice), dimension.tensor, layer)
            count = effective.count(dimension.tensor, self._space.shapes[layer])
            cost[name] = cost.get(name, 0) + count
        return cost

    def __call__(self, params: Mapping[str, Any]) -> dict[str, int]:
        """Counts by group; nothing if the trial does not have all parameters yet.

        Raises:
            ValueError: If there are other parameters or choices than those of the search space.
        """
        counts = dict.fromkeys(self.distributions, 0)
        counts.update({name: cost for name, cost in self._fixed.items() if name in counts})
        try:
            costs = [self._costs[name][choice] for name, choice in params.items()]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{error} is not in the search space.") from None
        if len(costs) < len(self._costs):
            return {}
        for cost in costs:
            for name, count in cost.items():
                if count:
                    counts[name] += count
        return counts

    def describe(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """A study's own attributes as a person reads them; those of others as they are."""
        ours = {k.partition(":")[2]: v for k, v in attributes.items() if k.startswith("glora:")}
        settings = ours["settings"]
        recipe = settings["recipe"]
        shown = {
            "recipe": f"{recipe['name']}: {recipe['description']}",
            "budget": f"{settings['budget']:,} trainable parameters",
            "search space": f"{len(settings['layers'])} layers, {len(self._costs)} parameters, "
            f"here counted by {self._by}",
            "trials wanted": settings["target"],
        }
        if ours.get("selection"):
            selection = Selection.from_json(ours["selection"])
            shown["selected"] = f"{selection.origin}, {selection.n_params:,} parameters"
        for row in ours.get("result") or ():
            test = row["test"] and Score(**row["test"])
            shown[f"test accuracy in %, {row['name']}"] = accuracy_text(test)
        rest = {k: v for k, v in attributes.items() if not k.startswith("glora:")}
        return {**shown, **rest}


def _padder(layers: tuple[str, ...]) -> Callable[[str], str]:
    """Gives indices as many digits as the longest in their place, so that names sort."""
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
    """What :class:`glora_automl.storages.StudyView` shows of a study.

    Returns:
        A function that gives the projection of a study, the same object as long as its settings
        are the same; None for a study that is not ours, or of another format.
    """
    known: dict[str, tuple[Any, Counts]] = {}

    def project(study: optuna.Study) -> Counts | None:
        if get_attribute(study, "format") != FORMAT:
            return None
        settings = get_attribute(study, "settings")
        if study.study_name in known and known[study.study_name][0] == settings:
            return known[study.study_name][1]
        try:
            counts = Counts(read_space(study), by)
        except RecipeError:  # of a version that knows more settings
            return None
        known[study.study_name] = settings, counts
        return counts

    return project
