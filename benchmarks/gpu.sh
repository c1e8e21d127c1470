#!/usr/bin/env bash
# Run benchmarks/gpu.py on a machine with a GPU and without a network.
#
#   benchmarks/gpu.sh collect FOLDER   here, with a network: download what the machine lacks
#   benchmarks/gpu.sh run FOLDER ...   there: install it beside the machine's packages, and measure
#
# The machine has Python and torch already (PYTHON_VERSION, by default 3.12). torch, NumPy and what
# only CUDA needs are never downloaded. HAVE names further packages of the machine, for a smaller
# folder: HAVE="scipy scikit-learn" benchmarks/gpu.sh collect wheels
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
command=$1 folder=$2
shift 2
python=${PYTHON:-python3}

case $command in
collect)
    mkdir -p "$folder"
    wanted=$("$python" - ${HAVE:-} <<'PYTHON'
import re, sys, tomllib
have = {"torch", "numpy", *sys.argv[1:]}
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extra = project["optional-dependencies"]
wanted = [*project["dependencies"], *extra["distributed"], *extra["peft"]]
wanted += ["pytest", "pytest-xdist", "hypothesis", "nvidia-ml-py"]
wanted += [r for r in extra["test"] if r.startswith(("pixeltable", "psycopg"))]
names = {re.split(r"[\[<>=]", r)[0]: r for r in wanted}
print("\n".join(requirement for name, requirement in names.items() if name not in have))
PYTHON
)
    # torch's own dependencies are there with it; the others are looked up one level at a time.
    printf '%s\n' "$wanted" > "$folder/requirements.txt"
    excluded=$(mktemp)
    trap 'rm -f "$excluded"' EXIT
    "$python" -m pip download --quiet --dest "$folder" --only-binary :all: \
        --python-version "${PYTHON_VERSION:-3.12}" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --requirement "$folder/requirements.txt"
    rm -f "$folder"/torch-* "$folder"/nvidia_c* "$folder"/nvidia_n[ac]* "$folder"/nvidia_nv* \
        "$folder"/cuda_* "$folder"/triton-* "$folder"/numpy-*
    for name in ${HAVE:-}; do rm -f "$folder/${name//-/_}"-*; done
    du -sh "$folder"
    ;;
run)
    target=$folder/installed
    if [ ! -e "$target/.complete" ]; then
        rm -rf "$target"
        "$python" -m pip install --quiet --no-index --no-deps --target "$target" "$folder"/*.whl
        touch "$target/.complete"
    fi
    # At the end of the path: what the machine has comes first.
    export PYTHONPATH="$PWD"
    "$python" - "$target" <<'PYTHON'
import importlib, sys
sys.path.append(sys.argv[1])
for name in ("torch", "torchvision", "timm", "optuna", "sklearn", "scipy", "pydantic", "typer"):
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(f"{name} must be importable, got {type(error).__name__}: {error}. Collect it anew.")
import torch
print(f"torch {torch.__version__}, {torch.cuda.device_count()} GPU(s)")
PYTHON
    export PYTHONPATH="$PWD:$target"
    exec "$python" benchmarks/gpu.py "$@"
    ;;
*) usage ;;
esac
