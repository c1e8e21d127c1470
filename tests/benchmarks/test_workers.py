import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_small_mode_prints_a_table_and_writes_json(tmp_path):
    # A process of its own: the workers that it starts import it by its path.
    out = tmp_path / "workers.json"
    command = [sys.executable, "benchmarks/workers.py", "--small", "--out", str(out)]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "of linear" in ran.stdout
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [(row["database"], row["workers"]) for row in rows] == [("sqlite", 1), ("sqlite", 2)]
    for row in rows:
        (run,) = row["runs"]
        assert sum(run["share"]) == run["trials"] == 4 * row["workers"]
