"""Copy the sampler into the OptunaHub package, which needs numpy and Optuna alone.

python optunahub/copy_sampler.py
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "glora_automl" / "samplers"
TARGET = ROOT / "optunahub" / "package" / "samplers" / "glora_evolution"
MODULES = ("_evolution", "_history", "_ranking", "_region", "_values")


def copies() -> dict[Path, str]:
    """Return the texts of the package's modules by path."""
    return {
        TARGET / f"{name}.py": (SOURCE / f"{name}.py")
        .read_text(encoding="utf-8")
        .replace("from glora_automl.samplers.", "from .")
        for name in MODULES
    }


if __name__ == "__main__":
    for path, text in copies().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
