"""Malformed inputs to every reader: TOML, .npz, tables, images, exports, studies, arguments.

A small study is run and exported. Inputs are then generated from its files and from the shipped
recipes: values of other types and sizes, removed and added keys, damaged bytes, deep nesting, paths
that no file can have. A reader must take an input or refuse it by a `GLoRAError`, whose message is
one printable line of at most 300 characters, within ten seconds of computation, a minute and a
gibibyte. Numbers outside their documented bounds must be refused.

    python benchmarks/bad_inputs.py --inputs 6000 --out benchmarks/results/bad-inputs.json
    python benchmarks/bad_inputs.py --small
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _junk
import numpy as np
from _document import MACHINE, command_line, write_document
from PIL import Image
from rich.console import Console
from rich.table import Table

from glora_automl import export, recipes
from glora_automl._messages import LIMIT
from glora_automl.architecture import Architecture
from glora_automl.budget import Budget
from glora_automl.cli import main as command
from glora_automl.commands import search
from glora_automl.errors import GLoRAError
from glora_automl.estimator import GLoRAClassifier
from glora_automl.pipeline import Workspace
from glora_automl.presets import read_architecture
from glora_automl.recipes import Recipe, load_recipe, load_suite
from glora_automl.report import save_report
from glora_automl.search_space import load_search_space
from glora_automl.storages import open_artifacts, open_storage, storage_errors
from glora_automl.study import list_studies, load_study, summarize
from glora_automl.tasks import load_task

SECONDS, WAIT, MIB = 10, 60, 1024
"""Bounds of one input: computation, waiting on a busy machine, memory."""

Case = tuple[Callable[[], object], bool]
"""A reader of one input, and whether it must refuse the input."""
Generate = Callable[[random.Random], Case]


class TookTooLong(BaseException):
    """Raised in a reader that exceeds its time."""


class Inputs:
    """Generators of inputs, by reader.

    Args:
        folder: Folder for a study, its exports and the generated files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        settings = {"search": {"n_trials": 3}, "training": {"epochs": 2}}
        recipe = load_recipe("smoke").replace(selection={"n_candidates": 1}, **settings)
        self.recipe = recipe
        workspace = Workspace(runs=self.runs)
        search(recipe, workspace=workspace)
        for kind in ("adapter", "backbone", "timm"):
            export.export_model("smoke", kind, folder / kind, workspace=workspace)
        self.database = sqlite3.connect(self.runs / "studies.db")
        self.attributes = [
            (table, row, text)
            for table in ("study_user_attributes", "trial_user_attributes")
            for row, text in self.database.execute(
                f"SELECT {table[:-1]}_id, value_json FROM {table}"
            )
        ]
        self._images()
        self._classifier()
        self.bounded = list(_bounds())
        self.n = 0

    def _images(self) -> None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (30, 8, 8), dtype=np.uint8)
        np.savez(self.folder / "a.npz", x_train=pixels, y_train=np.arange(30) % 3)
        for name in ("cat", "dog"):
            (self.folder / "photos" / name).mkdir(parents=True)
            for i in range(6):
                Image.fromarray(pixels[i]).save(self.folder / f"photos/{name}/{i}.png")

    def _classifier(self) -> None:
        rng = np.random.default_rng(0)
        tiny = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
        model = GLoRAClassifier(
            "vit_tiny_patch16_224", pretrained=False, model_kwargs=tiny, budget="20%", epochs=2,
            n_trials=1, random_state=0,
        )  # fmt: skip
        x, y = rng.random((40, 8, 8)), np.arange(40) % 2
        model.fit(x, y).save(self.folder / "classifier")

    def new(self, suffix: str) -> Path:
        """Return the path of a new file."""
        self.n += 1
        return self.folder / f"input-{self.n}{suffix}"

    def readers(self) -> dict[str, Generate]:
        """Return the generator of each reader's inputs."""
        return {
            "recipe": self.toml("studies", load_recipe),
            "search space": self.toml("search_spaces", load_search_space),
            "suite": self.toml("suites", load_suite),
            "recipe, bounds": self.out_of_bounds,
            "settings": self.settings,
            "backbone": self.backbone,
            "budget": lambda rng: _case(Budget.parse, rng.choice([_junk.value, _junk.text])(rng)),
            "architecture": self.architecture,
            "npz": self.npz,
            "table": self.table,
            "folder": self.photos,
            "record": self.record,
            "estimator": self.estimator,
            "study": self.study,
            "storage": self.storage,
            "artifacts": self.artifacts,
            "workspace": self.workspace,
            "command line": self.command_line,
        }

    def toml(self, kind: str, read: Callable[[str], object]) -> Generate:
        """Return a generator of TOML files like the shipped ones."""
        import tomllib

        from glora_automl import _declarations

        files = sorted(_declarations.folder(kind).glob("*.toml"))  # type: ignore[arg-type]

        def generate(rng: random.Random) -> Case:
            data, path = rng.choice(files).read_bytes(), self.new(".toml")
            if rng.random() < 0.5:
                path.write_bytes(_junk.damaged(rng, data))
            else:
                changed = _junk.document(rng, tomllib.loads(data.decode()))
                path.write_text(_junk.toml(changed), encoding="utf-8", errors="surrogatepass")
            return _case(read, rng.choice([str(path), path]))

        return generate

    def out_of_bounds(self, rng: random.Random) -> Case:
        """Generate a number outside of the bounds that a recipe documents."""
        key, wrong = rng.choice(self.bounded)
        change: Any = rng.choice(wrong)
        for part in reversed(key):
            change = {part: change}
        return lambda: self.recipe.replace(**change), True

    def settings(self, rng: random.Random) -> Case:
        """Generate ``--set key=value``."""
        keys = [".".join(key) for key, _ in self.bounded] + ["task.path", "backbone.kwargs", "name"]
        key = rng.choice(keys) if rng.random() < 0.8 else _junk.text(rng)
        text = rng.choice([f"{key}={_junk.text(rng)}", f"{key}={_junk.inline(_junk.value(rng))}"])
        return lambda: recipes.override_recipe("smoke", settings=[text]), False

    def backbone(self, rng: random.Random) -> Case:
        """Generate keyword arguments for timm, of which those that name files are refused."""
        names = ("checkpoint_path", "cache_dir", "pretrained_cfg", "file", "url", "hf_hub_id",
                 "img_size", "depth", "embed_dim", "act_layer",
                 "pretrained_cfg_overlay")  # fmt: skip
        key = rng.choice(names)
        kwargs: dict[str, Any] = {key: _junk.value(rng)}
        if rng.random() < 0.3:
            kwargs = {"pretrained_cfg_overlay": kwargs}
        files = key in names[:6]
        return lambda: self.recipe.replace(backbone={"kwargs": kwargs}), files

    def architecture(self, rng: random.Random) -> Case:
        """Generate printed architectures, and files of them."""
        printed = b"blocks.0.attn.qkv: B=lora-4 E=vector\nblocks.0.attn.proj: none\n"
        text = _junk.damaged(rng, printed).decode(errors="replace")
        kind = rng.randrange(4)
        if kind == 0:
            return _case(Architecture.parse, rng.choice([text, _junk.value(rng)]))
        if kind == 1:
            return _case(read_architecture, _junk.text(rng))
        if kind == 2:
            return _case(self.recipe.replace, architecture=_junk.value(rng))
        path = self.new(".txt")
        path.write_bytes(_junk.damaged(rng, printed))
        return _case(read_architecture, str(path))

    def npz(self, rng: random.Random) -> Case:
        """Generate .npz files: damaged ones, other arrays, headers that declare too much."""
        path = self.new(".npz")
        if rng.random() < 0.6:
            path.write_bytes(_junk.damaged(rng, (self.folder / "a.npz").read_bytes()))
        else:
            shape = tuple(rng.choice([0, 1, 3, 8, 10**4, 10**9]) for _ in range(rng.randrange(5)))
            _write_npz(path, shape, rng.choice(["|u1", "<f8", "|O", "<U9", "<M8[s]", "|V8"]))
        settings = {"source": "npz", "path": str(path)}
        return lambda: load_task(self.recipe.replace(task=settings).task, 0), False

    def table(self, rng: random.Random) -> Case:
        """Generate tables of paths and labels: damaged ones, and ones with junk cells."""
        path = self.new(".csv")
        images = sorted((self.folder / "photos").rglob("*.png"))
        lines = [[str(image), image.parent.name] for image in images]
        kind = rng.randrange(3)
        for line in rng.sample(lines, 2) if kind else ():
            line[rng.randrange(2)] = _junk.text(rng)
        out = io.StringIO(newline="")
        header = ["image", "label"] if rng.random() < 0.8 else [_junk.text(rng), "label"]
        csv.writer(out, lineterminator=rng.choice(["\n", "\r\n"])).writerows([header, *lines])
        data = out.getvalue().encode(rng.choice(["utf-8", "utf-8-sig", "utf-16"]), "surrogatepass")
        path.write_bytes(data if kind else _junk.damaged(rng, data))
        settings = {
            "source": "csv",
            "path": str(path),
            "unreadable": rng.choice(["refuse", "skip"]),
        }
        return lambda: load_task(self.recipe.replace(task=settings).task, 0), False

    def photos(self, rng: random.Random) -> Case:
        """Generate folders with damaged images, pipes and odd names."""
        folder = self.new("")
        shutil.copytree(self.folder / "photos", folder)
        images = sorted(folder.rglob("*.png"))
        for image in rng.sample(images, 3):
            kind = rng.randrange(4)
            if kind == 0:
                image.write_bytes(_junk.damaged(rng, image.read_bytes()))
            elif kind == 1:
                image.rename(image.with_name(rng.choice(["a\nb.png", "[red].png", ".hidden.png"])))
            elif kind == 2:
                image.unlink()
                os.mkfifo(image)
            else:
                image.unlink()
        settings = {"source": "folder", "path": str(folder)}
        return lambda: load_task(self.recipe.replace(task=settings).task, 0), False

    def record(self, rng: random.Random) -> Case:
        """Generate records of exports, and predict with them."""
        kind = rng.choice(["adapter", "timm"])
        folder = self._altered(rng, kind, ())
        backbone = str(self.folder / "backbone") if kind == "adapter" else None
        image = self.folder / "photos/cat/0.png"
        return lambda: export.predict(folder, image, backbone=backbone, num_workers=1), False

    def estimator(self, rng: random.Random) -> Case:
        """Generate files of saved classifiers."""
        folder = self._altered(rng, "classifier", ("about", "classifier"))
        return _case(GLoRAClassifier.load, folder)

    def _altered(self, rng: random.Random, kind: str, keys: tuple[str, ...]) -> Path:
        """Return a copy of an export with an altered record."""
        folder = self.new("")
        shutil.copytree(self.folder / kind, folder)
        path = folder / "glora.json"
        if rng.random() < 0.15:
            path.write_bytes(_junk.damaged(rng, path.read_bytes()))
            return folder
        record = json.loads(path.read_text(encoding="utf-8"))
        owner = record
        for key in keys[:-1]:
            owner = owner[key]
        if keys:
            owner[keys[-1]] = _junk.document(rng, owner[keys[-1]])
        else:
            record = _junk.document(rng, record)
        path.write_text(json.dumps(record), encoding="utf-8")
        return folder

    def study(self, rng: random.Random) -> Case:
        """Generate attributes of a study and of its trials."""
        table, row, text = rng.choice(self.attributes)
        changed = _junk.document(rng, [json.loads(text)])
        new = json.dumps(changed[0] if changed else None)
        if rng.random() < 0.1:
            new = _junk.damaged(rng, text.encode()).decode(errors="replace")

        def read() -> None:
            self._write(table, row, new)
            storage = open_storage(f"sqlite:///{self.runs}/studies.db", create=False, write=False)
            try:
                with storage_errors():
                    list_studies(storage)
                    study = load_study(storage, "smoke")
                    summarize(study)
                    save_report(study, self.folder / "report.html")
            finally:
                storage.engine.dispose()  # type: ignore[attr-defined]
                self._write(table, row, text)

        return read, False

    def _write(self, table: str, row: int, text: str) -> None:
        statement = f"UPDATE {table} SET value_json = ? WHERE {table[:-1]}_id = ?"
        self.database.execute(statement, (text, row))
        self.database.commit()

    def storage(self, rng: random.Random) -> Case:
        """Generate URLs and paths of storages; none of them reaches another machine."""
        scheme = rng.choice(
            [
                "sqlite://",
                "sqlite:///",
                "postgresql+psycopg://",
                "mysql+pymysql://",
                "x://",
                "",
                "://",
            ]
        )
        url = f"{scheme}{_junk.text(rng)}"
        if "+" in scheme:
            url = (
                f"{scheme}me:pass{rng.randrange(10**6)}@localhost:{rng.choice(['1', 'x', '-1'])}/d"
            )
        return lambda: open_storage(url, create=False, patience=0), True

    def artifacts(self, rng: random.Random) -> Case:
        """Generate locations of artifact stores; none of them reaches another machine."""
        location = rng.choice(["", "gs://", "x:", "../", "~"]) + _junk.text(rng)
        cache = self.folder / "cache"
        return _case(open_artifacts, location, cache=cache, create=False)

    def workspace(self, rng: random.Random) -> Case:
        """Generate arguments of a workspace."""
        key = rng.choice(
            ["runs", "storage", "artifacts", "data", "device", "heartbeat", "patience"]
        )
        junk = _junk.value(rng)
        # Folders that junk may name are not created.
        return _case(Workspace, **{key: junk})

    def command_line(self, rng: random.Random) -> Case:
        """Generate arguments of commands; none of them is a search that could begin."""
        commands = {
            "status": ("--storage", "--runs"),
            "show": ("smoke", "--storage", "--runs"),
            "architecture": ("smoke", "--trial", "--runs"),
            "report": ("smoke", "--out", "--png", "--runs"),
            "search": ("smoke", "--set", "--budget", "--n-trials", "--seed", "--name",
                       "--heartbeat", "--patience", "--runs", "--data", "--model", "--sampler",
                       "--timeout", "--metric", "--margin", "--effort", "--warm-start"),
            "train": ("smoke", "--architecture", "--set", "--budget", "--name", "--model"),
            "suite": (str(self.folder), "--n-seeds", "--timeout", "--set", "--data"),
            "resume": ("smoke", "--n-trials", "--timeout", "--patience", "--runs", "--storage"),
            "select": ("smoke", "--budget", "--margin", "--runs"),
            "export": ("smoke", "--to", "--out", "--trial", "--budget"),
            "layers": (_junk.text(rng).replace("\0", "") or "x",),
            "predict": (str(self.folder / "adapter"), "--top", "--batch-size", "--device"),
        }  # fmt: skip
        name = rng.choice(list(commands))
        arguments = [name]
        for option in commands[name]:
            if rng.random() < 0.5:
                arguments.append(option)
                if option.startswith("--"):
                    arguments.append(_junk.text(rng).replace("\0", ""))
        trains = name in ("search", "train", "suite")
        if trains:
            arguments += ["--device", "none"]  # refused before anything is trained
        return lambda: _run_command(arguments, self.folder), trains


def _case(call: Callable[..., object], *arguments: Any, **keywords: Any) -> Case:
    return lambda: call(*arguments, **keywords), False


def _bounds() -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yield the keys of a recipe's sections that have bounds, with values outside of them."""
    for section in ("training", "supernet", "search", "selection"):
        model: Any = Recipe.model_fields[section].annotation
        for key, field in model.model_json_schema()["properties"].items():
            wrong: list[Any] = [10**100, -(10**100)] if field.get("type") == "integer" else []
            if field.get("type") in ("integer", "number"):
                wrong += [float("nan"), float("inf"), "1", True, None]
                for bound in ("minimum", "exclusiveMinimum"):
                    wrong += [field[bound] - 1] if bound in field else []
                wrong += [field["exclusiveMinimum"]] if "exclusiveMinimum" in field else []
                wrong += [field["maximum"] + 1] if "maximum" in field else []
                yield (section, key), wrong


def _write_npz(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Write an archive whose array declares a shape that its content does not have."""
    import zipfile

    header = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", header.getvalue() + b"abc")
        archive.writestr("y_train.npy", b"no array")


def _run_command(arguments: list[str], folder: Path) -> None:
    """Run a command here; a refusal is raised with its line."""
    out, error = io.StringIO(), io.StringIO()
    before, where = sys.argv, Path.cwd()
    sys.argv = ["glora", *arguments]
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            command()
    except SystemExit as stop:
        lines = error.getvalue().splitlines()
        if stop.code == 2:
            raise GLoRAError(lines[-1] if lines else "no line") from None
        if stop.code:
            raise RuntimeError(f"exit code {stop.code}: {lines[-1:]}") from None
    finally:
        sys.argv = before
        os.chdir(where)


def outcome(call: Callable[[], object], must_refuse: bool) -> tuple[str, str]:
    """Return the outcome of one input, and what went wrong."""

    def alarm(number: int, frame: object) -> None:
        raise TookTooLong

    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timers = (
        (signal.SIGPROF, signal.ITIMER_PROF, SECONDS),
        (signal.SIGALRM, signal.ITIMER_REAL, WAIT),
    )
    for number, timer, seconds in timers:
        signal.signal(number, alarm)
        # Again and again, as a finalizer drops what is raised in it.
        signal.setitimer(timer, seconds, 1)
    try:
        call()
        found = ("accepted wrongly", "") if must_refuse else ("accepted", "")
    except GLoRAError as error:
        message = str(error)
        is_line = 0 < len(message) <= LIMIT and message.isprintable()
        found = ("refused", "") if is_line else ("no line", message)
    except TookTooLong:
        found = "hang", traceback.format_exc(limit=-3)
    except Exception:
        found = "traceback", traceback.format_exc(limit=-3)
    finally:
        for _, timer, _ in timers:
            signal.setitimer(timer, 0)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    return ("memory", f"{used:.0f} MiB") if used > MIB else found


OUTCOMES = ("accepted", "refused", "accepted wrongly", "no line", "traceback", "hang", "memory")
WRONG = OUTCOMES[2:]


def measure(n_inputs: int, seed: int) -> dict[str, Any]:
    """Give generated inputs to all readers and count the outcomes."""
    rows, faults = [], []
    with tempfile.TemporaryDirectory(prefix="glora-bad-") as name:
        inputs = Inputs(Path(name))
        readers = inputs.readers()
        share = -(-n_inputs // len(readers))
        for reader, generate in readers.items():
            counts: Counter[str] = Counter()
            begin, longest = time.perf_counter(), 0.0
            for number in range(share):
                rng = random.Random(f"{seed} {reader} {number}")
                call, must_refuse = generate(rng)
                start = time.perf_counter()
                kind, what = outcome(call, must_refuse)
                longest = max(longest, time.perf_counter() - start)
                counts[kind] += 1
                if kind in WRONG:
                    faults.append({"reader": reader, "number": number, "kind": kind, "what": what})
            seconds = time.perf_counter() - begin
            print(f"{reader}: {dict(counts)}, {seconds:.0f} s", file=sys.stderr, flush=True)
            rows.append(
                {"reader": reader, "inputs": share, **{k: counts[k] for k in OUTCOMES},
                 "seconds": round(seconds, 2), "longest": round(longest, 3)}
            )  # fmt: skip
        inputs.database.close()
    return {"rows": rows, "faults": faults}


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return the table of outcomes."""
    table = Table("reader", "inputs", *OUTCOMES, "longest s")
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("reader", "inputs", *OUTCOMES, "longest")))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=6000, help="inputs of all readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="360 inputs")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    found = measure(360 if options.small else options.inputs, options.seed)
    Console(markup=False, width=120).print(table_of(found["rows"]))
    for fault in found["faults"][:20]:
        print(f"{fault['reader']} {fault['number']}: {fault['kind']}\n{fault['what'][-1500:]}")
    if options.out is not None:
        document = {"command": command_line(), "machine": MACHINE, "seed": options.seed, **found}
        write_document(options.out, document)
    if found["faults"]:
        sys.exit(f"{len(found['faults'])} inputs were handled wrongly")


if __name__ == "__main__":
    main()
