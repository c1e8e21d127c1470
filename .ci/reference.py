"""Write the reference pages that are generated from the code.

Run ``python .ci/reference.py`` after a change of commands, recipe keys, records or errors. A test
compares the pages with what this script returns.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from glora_automl import errors, study
from glora_automl.budget import Budget
from glora_automl.cli import EXIT_CODES, app
from glora_automl.recipes import Range, Recipe
from glora_automl.search_space import SearchSpaceSpec, TensorChoices
from glora_automl.study import Settings
from glora_automl.study._attributes import RECORDS, TrialAttributes
from glora_automl.tasks import LabelledSettings, ReadingSettings, TaskSettings

ROOT = Path(__file__).parents[1]

ENVIRONMENT = {
    "WORLD_SIZE": "torchrun: number of processes. Two or more train the supernet together.",
    "RANK": "torchrun: number of this process; process 0 prints.",
    "LOCAL_RANK": "torchrun: number of this process on its machine, which is its GPU.",
    "MLFLOW_EXPERIMENT_NAME": "`--track mlflow`: the experiment, by default `glora_automl`.",
    "WANDB_PROJECT": "`--track wandb`: the project, by default `glora_automl`.",
}
"""Variables that the package itself reads, beside those of options."""

SHARED: dict[type[BaseModel], str] = {
    LabelledSettings: "labelled images",
    ReadingSettings: "reading of files",
}
"""Keys that several sources of images have."""

OTHERS = {
    "OMP_NUM_THREADS": "torch: threads of a process. Set 1 for several workers on one machine.",
    "CUDA_VISIBLE_DEVICES": "CUDA: GPUs that a process may use.",
    "HF_HOME": "huggingface_hub: folder of downloaded weights.",
    "HF_HUB_OFFLINE": "huggingface_hub: `1` uses downloaded weights alone.",
    "HF_TOKEN": "huggingface_hub: access to private models.",
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY": "boto3: access to artifacts in S3.",
    "AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL": "boto3: address of another service than Amazon's.",
    "MLFLOW_TRACKING_URI": "mlflow: address of the server.",
    "WANDB_MODE": "wandb: `offline` needs no server.",
    "PGPASSFILE": "PostgreSQL: file of passwords, which then stay out of the command.",
    "NO_COLOR": "rich: no colours on the terminal.",
}
"""Variables of the packages below, which users of this one often need."""


SPACE = 'search_space = { base = "lean", layers = ["blocks.*.attn.*"], tie = "block" }'
"""A table that changes a search space."""


def prose(text: str) -> str:
    """Return reST as Markdown on one line, safe in a table."""
    text = re.sub(r":(?:\w+:)?\w+:`~?([^`]+)`", r"`\1`", text)
    text = re.sub(r"(?<=[,;] )None (?=\w)", "no value ", text)
    text = re.sub(r"\bNone (?=\w)", "No value ", text.replace("``", "`"))  # as in TOML
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def summary(item: object) -> str:
    """Return the first paragraph of a docstring."""
    return prose(inspect.cleandoc(item.__doc__ or "").partition("\n\n")[0])


def sections(item: object, title: str = "Attributes:") -> dict[str, str]:
    """Return the texts of a docstring's section by name."""
    lines = inspect.cleandoc(item.__doc__ or "").splitlines()
    found: dict[str, str] = {}
    name = ""
    for line in lines[lines.index(title) + 1 :] if title in lines else []:
        if line and not line.startswith(" "):
            break
        if match := re.match(r"    (\w+): (.*)", line):
            name, found[match[1]] = match[1], match[2]
        elif name:
            found[name] += f" {line.strip()}"
    return {key: prose(text) for key, text in found.items()}


def table(*columns: str, rows: Iterator[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def kind(annotation: Any) -> str:
    """Return a type in the words of TOML."""
    if hasattr(annotation, "__metadata__"):
        return kind(get_args(annotation)[0])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(kind(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"list of {kind(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, dict):
        return "table"
    names = {int: "integer", float: "number", bool: "true or false", str: "text", Budget: "count"}
    if annotation in names:
        return names[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return "count" if "ByteSize" in str(annotation) else "value"


def bounds(field: FieldInfo) -> str:
    """Return the limits of a number."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(rule, name):,}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    return f", {', '.join(found)}" if found else ""


def default(field: FieldInfo) -> str:
    """Return a default as TOML has it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        value = list(value)
    return "" if value is None else f"`{json.dumps(value)}`"


def keys(model: type[BaseModel], *, leave_out: tuple[str, ...] = ()) -> str:
    """Return the table of a declaration's keys."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        texts |= sections(base)
    hints = get_type_hints(model)
    return table(
        "key",
        "value",
        "default",
        "meaning",
        rows=(
            (
                f"`{name}`",
                kind(hints[name]) + bounds(field),
                default(field),
                texts.get(name, ""),
            )
            for name, field in model.model_fields.items()
            if name not in leave_out
        ),
    )


def recipe_page() -> str:
    """Return the page of recipe keys."""
    fields = Recipe.model_fields
    sub = {name: f.annotation for name, f in fields.items() if name not in ("task", "search_space")}
    tables = {
        name: kind
        for name, kind in sub.items()
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    }
    parts = [
        "# Recipe keys",
        "A recipe is a TOML file. Its keys are those below. `--set section.key=value` changes "
        "any of them for one study. An unknown key is refused.",
        "## At the top",
        keys(Recipe, leave_out=(*tables, "task", "search_space")),
        "`search_space` is a name of `glora spaces`, the path of a TOML file or a table, such as "
        f"`{SPACE}`.",
    ]
    sources = get_args(get_args(TaskSettings)[0])
    parts.append("## [task]")
    parts.append(
        "`source` names the kind of images. "
        "[Lay out your images](../how-to/images.md) describes the files."
    )
    for source in sources:
        (name,) = get_args(get_type_hints(source)["source"])
        bases = [base for base in SHARED if issubclass(source, base)]
        shared = tuple(key for base in bases for key in base.model_fields)
        parts += [f'### source = "{name}"', summary(source), keys(source, leave_out=shared)]
        if bases:
            parts.append(f"It also has the keys of {' and '.join(SHARED[b] for b in bases)}.")
    for base, title in SHARED.items():
        parts += [f"### {title[0].upper()}{title[1:]}", summary(base), keys(base)]
    for name, model in tables.items():
        parts += [f"## [{name}]", summary(model), keys(model)]
    parts += [
        "## [tune.choices]",
        "Each key is a list of values or a range:",
        keys(Range),
        "## [search_space]",
        "A file in `search_spaces/` has these keys at the top. In a recipe, `base` names the "
        "search space that the other keys change.",
        keys(SearchSpaceSpec, leave_out=("choices",)),
        "### [search_space.choices]",
        summary(TensorChoices) + " Choices are `none`, `scalar`, `vector` and `lora-r`.",
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def commands_page() -> str:
    """Return the page of the command line."""
    group = typer.main.get_command(app)
    parts = [
        "# Commands",
        "`glora COMMAND --help` prints the same. Results go to standard output, progress and "
        "errors to standard error. [Exit codes](exit-codes.md) tells how a command ends.",
    ]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        usage = " ".join([f"glora {name}", *map(_metavar, arguments)])
        parts += [f"## glora {name}", command.help.strip(), f"```text\n{usage} [OPTIONS]\n```"]
        if arguments:
            rows = ((f"`{_metavar(p)}`", prose(p.help or "")) for p in arguments)
            parts.append(table("argument", "meaning", rows=rows))
        if options:
            parts.append(table("option", "default", "meaning", rows=map(_option, options)))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _metavar(param: Any) -> str:
    name = param.name.upper() + ("..." if param.nargs == -1 else "")
    return name if param.required else f"[{name}]"


def _option(param: Any) -> tuple[str, str, str]:
    flag = ", ".join(f"`{name}`" for name in param.opts)
    shown = "" if param.default in (None, False, ()) else f"`{param.default}`"
    if param.required:
        shown = "required"
    more = f" Variable `{param.envvar}`." if param.envvar else ""
    return flag, shown, prose(param.help or "") + more


def study_page() -> str:
    """Return the page of what a study keeps."""
    settings = sections(Settings)
    parts = [
        "# Study attributes",
        "A study is an Optuna study. Everything below can be read by `optuna` alone. The format "
        f"is version {study.FORMAT}; another version is refused.",
        "## Of the study",
        "The names begin with `glora:`.",
        table(
            "attribute",
            "value",
            rows=((f"`glora:{name}`", _attribute(name)) for name in get_args(study.Attribute)),
        ),
        "### glora:settings",
        table("key", "value", rows=((f"`{k}`", text) for k, text in settings.items())),
    ]
    for name, record in RECORDS.items():
        if found := sections(record):
            rows = ((f"`{k}`", text) for k, text in found.items())
            parts += [f"### glora:{name}", summary(record), table("key", "value", rows=rows)]
    parts += [
        "## Of a trial",
        "A trial has one categorical parameter per support tensor, such as "
        "`blocks.0.attn.qkv.A`. Its values are choices. The budget is the constraint "
        f"`{study.CONSTRAINT}`: the count minus the budget, feasible up to 0.",
        table(
            "attribute",
            "value",
            rows=((f"`{k}`", text) for k, text in sections(TrialAttributes).items()),
        ),
        "## Stages",
        "The Optuna study `<study>/stages` has one trial per attempt at a stage. Its attributes "
        "are `stage`, `worker`, `key`, `cost`, `checkpoint` and, once done, `outcome`.",
        table(
            "stage",
            "position",
            rows=((f"`{s.value}`", str(i)) for i, s in enumerate(study.Stage, 1)),
        ),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _attribute(name: str) -> str:
    if name in RECORDS:
        return summary(RECORDS[name])
    return {
        "format": "Version of the format.",
        "settings": summary(Settings),
        "data": summary(study.DataSummary),
        "result": "Rows of the result table. " + summary(study.Row),
    }[name]


def exit_page() -> str:
    """Return the page of exit codes and errors."""
    classes = [getattr(errors, name) for name in errors.__all__]
    parts = [
        "# Exit codes and errors",
        table(
            "code",
            "meaning",
            rows=((f"`{code}`", text) for code, text in EXIT_CODES.items()),
        ),
        "## Errors in Python",
        "Every error is a `GLoRAError`. Its message is one line: what must hold, what was given, "
        "and the way out.",
        table("class", "meaning", rows=((f"`{c.__name__}`", summary(c)) for c in classes)),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def environment_page() -> str:
    """Return the page of environment variables."""
    group = typer.main.get_command(app)
    options: dict[str, list[str]] = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for param in command.params:
            if param.envvar:
                options.setdefault(str(param.envvar), []).append(f"`{name} {param.opts[0]}`")
    own = {name: f"Default of {', '.join(uses)}." for name, uses in options.items()} | ENVIRONMENT
    parts = [
        "# Environment variables",
        "## Read by glora_automl",
        table("variable", "meaning", rows=((f"`{k}`", prose(v)) for k, v in own.items())),
        "## Read by packages below it",
        table("variable", "meaning", rows=((f"`{k}`", prose(v)) for k, v in OTHERS.items())),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def benchmarks_page() -> str:
    """Return the index of benchmarks with the table of their last results."""
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(f"{BEGIN}\n")
    _, _, after = rest.partition(END)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from _results import results_table

    return f"{before}{BEGIN}\n{results_table()}\n{END}{after}"


BEGIN, END = "<!-- results -->", "<!-- end of results -->"

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/commands.md": commands_page,
    "docs/reference/recipe.md": recipe_page,
    "docs/reference/study.md": study_page,
    "docs/reference/exit-codes.md": exit_page,
    "docs/reference/environment.md": environment_page,
    "benchmarks/README.md": benchmarks_page,
}
"""Generated pages by path."""


def main() -> None:
    """Write the pages."""
    for path, page in PAGES.items():
        (ROOT / path).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
