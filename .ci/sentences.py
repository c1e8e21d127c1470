"""Print the mean length of the sentences in README and documentation, longest pages first.

The aim is at most 14 words on average. Code, tables, headings and generated pages are left out.

    python .ci/sentences.py
    python .ci/sentences.py --longest 10
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CODE_OF_CONDUCT")]
PAGES += [ROOT / "benchmarks/README.md", ROOT / "examples/README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
GENERATED = {"commands.md", "recipe.md", "study.md", "exit-codes.md", "environment.md"}
AIM = 14


def sentences(text: str) -> list[str]:
    """Return the sentences of a page's prose."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    found = []
    for block in re.split(r"\n\s*\n|\n(?=[-*] |\d+\. )", text):
        if re.match(r"\s*(\||#|:::|--8<--|    )", block):
            continue
        plain = re.sub(r"^\s*([-*]|\d+\.) |\*\*|\*", "", " ".join(block.split()))
        found += [s for s in re.split(r"(?<=[.!?:])\s+(?=[A-Z\"'(]|code)", plain) if s.strip()]
    return found


def main() -> None:
    """Print a line per page, and the mean of all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--longest", type=int, default=0, help="sentences to print")
    arguments = parser.parse_args()
    lengths: list[tuple[int, str, Path]] = []
    rows = []
    for page in PAGES:
        if page.name in GENERATED or not page.is_file():
            continue
        own = [(len(s.split()), s, page) for s in sentences(page.read_text(encoding="utf-8"))]
        if own:
            rows.append((fmean(n for n, _, _ in own), len(own), page))
            lengths += own
    for mean, count, page in sorted(rows, reverse=True):
        print(f"{mean:5.1f}  {count:4}  {page.relative_to(ROOT)}")
    for count, sentence, page in sorted(lengths, reverse=True)[: arguments.longest]:
        print(f"{count:5}  {page.relative_to(ROOT)}: {sentence}")
    print(f"{fmean(n for n, _, _ in lengths):5.1f}  words per sentence, aim {AIM}")


if __name__ == "__main__":
    main()
