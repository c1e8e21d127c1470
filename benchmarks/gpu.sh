#!/usr/bin/env bash
# Run benchmarks/gpu.py on a machine with a GPU and without a network.
#
#   benchmarks/gpu.sh collect FOLDER   here, with a network: download what the machine lacks
#   benchmarks/gpu.sh run FOLDER ...   there: install it beside the machine's packages, and measure
#
# `collect` takes the versions that are installed here, as wheels for PYTHON_VERSION (by default
# 3.12). The machine has torch, NumPy and what CUDA needs; HAVE names further packages that it has:
# HAVE="scipy scikit-learn torchvision" benchmarks/gpu.sh collect wheels
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 folder=$2
shift 2
python=${PYTHON:-python3}

case $command in
collect)
    mkdir -p "$folder"
    # The closure of what is installed here: pip's own would hold torch with its gigabytes.
    "$python" - ${HAVE:-} > "$folder/requirements.txt" <<'PYTHON'
import sys, tomllib
from importlib.metadata import PackageNotFoundError, distribution
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

have = {canonicalize_name(name) for name in ("torch", "numpy", *sys.argv[1:])}
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extra = project["optional-dependencies"]
todo = [*project["dependencies"], *extra["distributed"], *extra["peft"], "nvidia-ml-py"]
todo += [r for r in extra["test"] if r.startswith(("pytest", "hypothesis", "pixeltable", "psycopg"))]
versions = {}
while todo:
    wanted = Requirement(todo.pop())
    name = canonicalize_name(wanted.name)
    extras = wanted.extras or {""}
    if wanted.marker and not any(wanted.marker.evaluate({"extra": e}) for e in extras):
        continue
    if name in have or name.startswith(("nvidia-cu", "nvidia-n", "cuda-", "triton")) and name != "nvidia-ml-py":
        continue
    if (name, extras := frozenset(extras)) in versions:
        continue
    try:
        found = distribution(name)
    except PackageNotFoundError:
        print(f"{name} is not installed here; left out", file=sys.stderr)
        continue
    versions[name, extras] = found.version
    for text in found.requires or ():
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
            needed.marker = None
            todo.append(str(needed))
print("\n".join(sorted({f"{name}=={version}" for (name, _), version in versions.items()})))
PYTHON
    "$python" -m pip download --quiet --no-deps --dest "$folder" --only-binary :all: \
        --python-version "${PYTHON_VERSION:-3.12}" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        --requirement "$folder/requirements.txt"
    du -sh "$folder"
    ;;
run)
    target=$folder/installed
    if [ ! -e "$target/.complete" ]; then
        rm -rf "$target"
        "$python" -m pip install --quiet --no-index --no-deps --target "$target" "$folder"/*.whl
        touch "$target/.complete"
    fi
    export PYTHONPATH="$PWD:$target"
    "$python" - <<'PYTHON'
import importlib, sys

for name in ("torch", "torchvision", "timm", "optuna", "sklearn", "scipy", "pydantic", "typer"):
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{name} must be importable, got {type(error).__name__}: {error}. Collect it anew.")
import torch

print(f"torch {torch.__version__}, {torch.cuda.device_count()} GPU(s)")
PYTHON
    exec "$python" benchmarks/gpu.py "$@"
    ;;
*) usage ;;
esac
