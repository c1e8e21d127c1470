"""Report of a study as one HTML file, and its pictures as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import optuna
import plotly.io
import plotly.offline

from glora_automl._files import check_output, user_path, write_atomic
from glora_automl._messages import short
from glora_automl.errors import ReportError
from glora_automl.report._classes import class_table, classes_title, confusion_table
from glora_automl.report._cost import cost_table
from glora_automl.report._gallery import pictures
from glora_automl.report._ladder import LADDER_NOTE, ladder_lines
from glora_automl.report._matplotlib import save_png
from glora_automl.report._note import facts, front_table
from glora_automl.report._plotly import to_figure
from glora_automl.report._snapshot import Snapshot
from glora_automl.report._tables import result_texts
from glora_automl.study import Row, get_attribute, get_setting, read_data, stage_costs

__all__ = ["save_pictures", "save_report"]

_MARK = '<meta name="generator" content="glora_automl">'
"""Mark of a report, which may be replaced by a newer one."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1000px; padding: 0 1em;
  color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border-bottom: 1px solid #ddd; padding: .25em .8em; text-align: right }
th:first-child, td:first-child { text-align: left }
th { background: #f5f5f5 }
dt { font-weight: 600; float: left; clear: left; width: 9em }
dd { margin-left: 9.5em }
figure { margin: 1.5em 0 } figcaption { color: #555 }
pre { background: #f5f5f5; padding: 1em; overflow-x: auto }
"""


def save_report(study: optuna.Study, path: Path) -> None:
    """Write a study's tables and pictures into one HTML file, which includes plotly.js.

    Raises:
        ReportError: If something else than a report is at the path.
        StorageError: If the file cannot be written.
    """
    path = user_path(path, "out", ReportError)
    check_output(path, "out", ReportError, _MARK.encode())
    text = _page(Snapshot.of(study))
    write_atomic(path, lambda file: file.write_text(text, encoding="utf-8"))


def save_pictures(study: optuna.Study, folder: Path) -> list[Path]:
    """Write a study's pictures as PNG files.

    Raises:
        ReportError: If matplotlib is not installed, or the path is one of a picture.
        StorageError: If a file cannot be written.
    """
    folder = user_path(folder, "png", ReportError)
    if folder.suffix.lower() == ".png":
        raise ReportError(
            f"png must be a folder for all pictures, got {short(str(folder))}. Correct `png`."
        )
    return [save_png(picture, folder) for picture in pictures(Snapshot.of(study))]


def _page(snapshot: Snapshot) -> str:
    study = snapshot.study
    name = escape(study.study_name)
    terms = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts(snapshot))
    parts = [f"<h1>{name}</h1>", f"<dl>{terms}</dl>"]
    rows = [Row.from_json(row) for row in get_attribute(study, "result") or ()]
    if rows:
        parts += ["<h2>Result</h2>", "<p>Accuracy in % (95% interval).</p>"]
        parts.append(_table(*result_texts(rows, snapshot.recipe.metric, snapshot.selected_preset)))
    if (ladder := snapshot.ladder) is not None:
        text = escape(" ".join([*ladder.notes(), LADDER_NOTE]))
        parts += [f"<h2>Smaller adapters</h2><p>{text}</p>", _table(*ladder_lines(ladder))]
    if notes := read_data(study).captions():
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        parts += ["<h2>Images</h2>", f"<ul>{items}</ul>"]
    if (report := snapshot.classes) is not None:
        parts += [f"<h2>{escape(classes_title(report))}</h2>", _table(*class_table(report))]
        confusions = confusion_table(report)
        if confusions.lines:
            parts += ["<h3>Most frequent confusions</h3>", _table(*confusions)]
    shown = pictures(snapshot)
    if shown:
        parts += ["<h2>Pictures</h2>", f"<script>{plotly.offline.get_plotlyjs()}</script>"]
    for picture in shown:
        figure = plotly.io.to_html(
            to_figure(picture),
            include_plotlyjs=False,
            full_html=False,
            div_id=picture.name,
            config={"displaylogo": False, "responsive": True},
        )
        caption = escape(picture.caption)
        parts.append(f"<figure>{figure}<figcaption>{caption}</figcaption></figure>")
    front = front_table(snapshot)
    if front.lines:
        parts += ["<h2>Pareto front</h2>", _table(*front)]
    costs = cost_table(stage_costs(study))
    if costs.lines:
        parts += ["<h2>Cost</h2>", _table(*costs)]
    if snapshot.architecture is not None:
        label, architecture = snapshot.architecture
        parts += [
            f"<h2>Architecture, {escape(label)}</h2>",
            f"<pre>{escape(str(architecture))}</pre>",
        ]
    versions = get_setting(study, "versions") or {}
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    parts.append(f"<h2>Versions</h2><p>{escape(packages) or 'not recorded'}</p>")
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{_MARK}<title>{name}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
