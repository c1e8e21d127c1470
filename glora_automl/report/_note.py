"""Settings, results and cost of a study, as Markdown."""

from __future__ import annotations

from glora_automl._markdown import markdown_table
from glora_automl.report._backbones import ranking_table
from glora_automl.report._cost import cost_table
from glora_automl.report._ladder import LADDER_NOTE, ladder_lines
from glora_automl.report._snapshot import Snapshot
from glora_automl.report._tables import TextTable, metric_title, result_texts
from glora_automl.study import (
    CONSTRAINT,
    Row,
    get_attribute,
    get_setting,
    read_data,
    read_ranking,
    stage_costs,
)

__all__ = ["facts", "front_table", "markdown_note", "markdown_study"]

_STATES = {"FAIL": "failed"}
"""Words for trial states; other states are named as in Optuna."""


def facts(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return the settings and the progress of a study, as names and texts."""
    recipe, states = snapshot.recipe, [t.state.name for t in snapshot.trials]
    counts = [f"{states.count(s):,} {_STATES.get(s, s.lower())}" for s in sorted(set(states))]
    lines = [
        ("recipe", f"{recipe.name}: {recipe.description}"),
        ("backbone", recipe.backbone.public_name),
        ("budget", f"{snapshot.budget:,} trainable parameters"),
        (
            "trials",
            f"{', '.join(counts) or 'none yet'}; target {get_setting(snapshot.study, 'target'):,}",
        ),
        ("sampler", f"{recipe.search.sampler}, seed {recipe.seed}"),
    ]
    if recipe.metric != "accuracy":
        lines.insert(3, ("metric", metric_title(recipe.metric)))
    if snapshot.ranked:
        best = snapshot.ranked[0]
        value = f"{best.values[0]:.1%}" if snapshot.in_percent else f"{best.values[0]:.4g}"
        count = best.user_attrs.get(CONSTRAINT)
        size = "" if count is None else f" with {count:,} parameters"
        lines.append(("best trial", f"{best.number}, {snapshot.objective} {value}{size}"))
    elif snapshot.complete:
        lines.append(("best trial", f"none within the budget of {snapshot.budget:,}"))
    if (selection := snapshot.selection) is not None:
        lines.append(("selected", f"{selection.origin} with {selection.n_params:,} parameters"))
    return lines


def front_table(snapshot: Snapshot) -> TextTable:
    """Return the Pareto front of trainable parameters and the first objective, the best 12."""
    lines: list[tuple[str, ...]] = [
        (str(t.number), f"{t.user_attrs[CONSTRAINT]:,}", snapshot.value_text(t.values[0]))
        for t in snapshot.front[::-1][:12]
    ]
    return TextTable(("trial", "parameters", snapshot.value_title), lines)


def markdown_study(snapshot: Snapshot, *, name_workers: bool = True) -> list[str]:
    """Return the settings, results and cost of a study, as paragraphs of Markdown.

    Args:
        snapshot: The study.
        name_workers: Show workers by name, which includes the machine's name. Otherwise they are
            numbered.
    """
    parts = ["\n".join(f"- **{key}**: {text}" for key, text in facts(snapshot))]
    rows = [Row.from_json(row) for row in get_attribute(snapshot.study, "result") or ()]
    if rows:
        parts += [
            "## Result",
            "Accuracy in % (95% interval).",
            markdown_table(*result_texts(rows, snapshot.recipe.metric, snapshot.selected_preset)),
            *read_data(snapshot.study).accuracy_notes(),
        ]
    if (ranking := read_ranking(snapshot.study)) is not None:
        parts += ["## Backbones", markdown_table(*ranking_table(ranking))]
    if (ladder := snapshot.ladder) is not None:
        parts += [
            "## Smaller adapters",
            " ".join([*ladder.notes(), LADDER_NOTE]),
            markdown_table(*ladder_lines(ladder)),
        ]
    front = front_table(snapshot)
    if front.lines:
        parts += ["## Pareto front", markdown_table(*front)]
    costs = stage_costs(snapshot.study)
    if not name_workers:
        names = dict.fromkeys(cost.worker for cost in costs)
        numbers = {name: f"worker {number}" for number, name in enumerate(names, 1)}
        costs = [cost._replace(worker=numbers[cost.worker]) for cost in costs]
    if costs:
        parts += ["## Cost", markdown_table(*cost_table(costs))]
    return parts


def markdown_note(snapshot: Snapshot) -> str:
    """Return the note that optuna-dashboard shows with a study."""
    name = snapshot.study.study_name
    notes = read_data(snapshot.study).notes()
    parts = [
        f"# {name}",
        *markdown_study(snapshot),
        *(["## Images", "\n".join(f"- {note}" for note in notes)] if notes else []),
        "## Parameters",
        f"The trials have {len(snapshot.space.dimensions):,} parameters. `glora dashboard` counts "
        "them by block, so that their plots and importances stay small.",
        "## Continue",
        f"```bash\nglora resume {name}\nglora show {name}\nglora report {name}\n```",
        "Add the storage unless it is the default. Once the study is finished, the adapter is in "
        f"`{name}/winner.json` in the runs folder of each worker, and among the artifacts.",
    ]
    return "\n\n".join(parts) + "\n"
