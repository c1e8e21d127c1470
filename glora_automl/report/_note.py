"""What a study is and found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glora_automl.report._cost import cost_table
from glora_automl.report._snapshot import Snapshot
from glora_automl.report._tables import RESULT_COLUMNS, TextTable, result_lines
from glora_automl.study import CONSTRAINT, Row, get_attribute, get_setting, stage_costs

__all__ = ["facts", "front_table", "markdown_note", "markdown_study"]


def facts(snapshot: Snapshot) -> list[tuple[str, str]]:
    """What a study is and how far it is, as names and texts."""
    recipe, states = snapshot.recipe, [t.state.name for t in snapshot.trials]
    told = ", ".join(f"{states.count(s):,} {s.lower()}" for s in sorted(set(states))) or "none yet"
    lines = [
        ("recipe", f"{recipe.name}: {recipe.description}"),
        ("backbone", recipe.backbone.model),
        ("budget", f"{snapshot.budget:,} trainable parameters"),
        ("trials", f"{told}; {get_setting(snapshot.study, 'target'):,} are wanted"),
        ("sampler", f"{recipe.search.sampler}, seed {recipe.seed}"),
    ]
    if snapshot.ranked:
        best = snapshot.ranked[0]
        value = f"{best.values[0]:.1%}" if snapshot.is_share else f"{best.values[0]:.4g}"
        count = best.user_attrs.get(CONSTRAINT)
        size = "" if count is None else f" with {count:,} parameters"
        lines.append(("best trial", f"{best.number}, {snapshot.objective} {value}{size}"))
    elif snapshot.complete:
        lines.append(("best trial", f"none within the budget of {snapshot.budget:,}"))
    if (selection := snapshot.selection) is not None:
        chosen = f"{selection.origin} with {selection.n_params:,} parameters"
        lines.append(("selected", chosen))
    return lines


def front_table(snapshot: Snapshot, most: int = 12) -> TextTable:
    """The front of the first objective against parameters, the best first; no lines without it."""
    lines: list[tuple[str, ...]] = [
        (str(t.number), f"{t.user_attrs[CONSTRAINT]:,}", snapshot.value_text(t.values[0]))
        for t in snapshot.front[::-1][:most]
    ]
    return TextTable(("trial", "parameters", snapshot.value_title), lines)


def markdown_study(snapshot: Snapshot, *, name_workers: bool = True) -> list[str]:
    """What a study is, found and cost, as paragraphs of Markdown.

    Args:
        snapshot: The study.
        name_workers: Whether workers are called by their names, which tell those of machines, or
            by numbers.
    """
    parts = ["\n".join(f"- **{key}**: {text}" for key, text in facts(snapshot))]
    rows = [Row.from_json(row) for row in get_attribute(snapshot.study, "result") or ()]
    if rows:
        parts += ["## Result", "Accuracy in %.", _table(RESULT_COLUMNS, result_lines(rows))]
    front = front_table(snapshot)
    if front.lines:
        parts += ["## Front", _table(*front)]
    spent = stage_costs(snapshot.study)
    if not name_workers:
        names = dict.fromkeys(cost.worker for cost in spent)
        numbers = {name: f"worker {number}" for number, name in enumerate(names, 1)}
        spent = [cost._replace(worker=numbers[cost.worker]) for cost in spent]
    costs = cost_table(spent)
    if costs.lines:
        parts += ["## Cost", _table(*costs)]
    return parts


def markdown_note(snapshot: Snapshot) -> str:
    """The note that optuna-dashboard shows with a study."""
    name = snapshot.study.study_name
    parts = [
        f"# {name}",
        *markdown_study(snapshot),
        "## Go on",
        f"```bash\nglora resume {name} --storage ...\nglora show {name} --storage ...\n"
        f"glora report {name} --storage ... --out {name}.html\n```",
        f"A finished study has its adapter in `{name}/winner.json` of each machine's runs folder, "
        "and among its artifacts.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rule, *lines))
