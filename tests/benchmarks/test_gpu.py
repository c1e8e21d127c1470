import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def gpu(benchmark_script, monkeypatch):
    module = benchmark_script("gpu")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmarks/gpu.py", *map(str, arguments)])
        module.main()

    module.run = run
    return module


def read(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


class Programs:
    """Stands for the programs that sections start, which take ten seconds to import torch."""

    def __init__(self, gpu):
        self.gpu, self.commands = gpu, []

    def run(self, command, **options):
        self.commands.append(command)
        if "pytest" in command:
            return SimpleNamespace(
                returncode=1, stdout="FAILED a.py::b\n1 failed, 2 passed in 3s\n"
            )
        for index in range(2):
            path = Path(command[command.index("--out") + 1]) / f"{index}.json"
            self.gpu.write_document(path, self.gpu._gpu.train_in_group(torch.device("cpu")))
        return SimpleNamespace(returncode=0)


def test_gpu_in_small_mode_runs_every_section(gpu, tmp_path, monkeypatch, capsys):
    programs = Programs(gpu)
    monkeypatch.setattr(gpu._gpu, "subprocess", programs)
    monkeypatch.setattr(
        gpu, "run_apart", lambda section, arguments, seconds: gpu.run_here(section, arguments)
    )
    gpu.run("--small", "--device", "cpu", "--out", tmp_path)
    found = read(tmp_path)
    errors = {name: document.get("error") for name, document in found.items()}
    assert found.keys() == {*gpu.SECTIONS, "summary"}
    assert set(errors.values()) == {None}
    assert {found[name]["status"] for name in gpu.SECTIONS} == {"done"}
    tests = found["tests"]["figures"]
    assert (tests["counts"], tests["failed"]) == ({"failed": 1, "passed": 2}, ["FAILED a.py::b"])
    assert {"limit", "supernet", "reference"} <= found["steps"]["figures"]["test, bfloat16"].keys()
    assert {"plain", "merged"} <= found["evaluation"]["figures"]["test, 8 images"].keys()
    assert 0 < found["search"]["figures"]["test, SQLite"]["evaluation_fraction"] < 1
    assert found["tasks"]["figures"]["smoke, cpu"]["n_params"] > 0
    assert found["together"]["figures"]["test, 2 architectures"]["together"]["ratio"] > 0
    assert "supernet, compiled" in found["compiled"]["figures"]["test, steps"]
    processes = found["processes"]["figures"]
    assert processes["equal_weights"]
    assert processes["largest_difference_to_one_process"] == 0
    assert "figures or error" in capsys.readouterr().out


def finish(gpu, folder, section, seconds):
    gpu.write_document(gpu.path_of(folder, section), {"status": "done", "small": False})


def test_gpu_skips_sections_that_are_done_and_goes_on_after_failed_ones(gpu, tmp_path, monkeypatch):
    ran = []

    def apart(section, arguments, seconds):
        ran.append(section)
        if section == "evaluation":
            return "ended with code -9"
        return finish(gpu, tmp_path, section, seconds)

    monkeypatch.setattr(gpu, "run_apart", apart)
    sections = ["steps", "evaluation", "search"]
    gpu.run("--out", tmp_path, "--sections", *sections)
    gpu.run("--out", tmp_path, "--sections", *sections)
    assert ran == [*sections, "evaluation"]
    assert read(tmp_path)["evaluation"]["error"] == "ended with code -9"
    gpu.run("--out", tmp_path, "--sections", "steps", "--again")
    assert ran[-1] == "steps"
    gpu.run("--out", tmp_path, "--sections", "tests", "--minutes", "0.01")
    assert ran[-1] == "steps"


def test_gpu_section_that_fails_keeps_its_figures(gpu, tmp_path, monkeypatch):
    def fails(job):
        job.save({"first": 1})
        raise RuntimeError("no kernel image is available")

    monkeypatch.setitem(gpu.SECTIONS, "steps", gpu.Section(fails, 9))
    monkeypatch.setattr(
        gpu, "run_apart", lambda section, arguments, seconds: gpu.run_here(section, arguments)
    )
    gpu.run("--device", "cpu", "--out", tmp_path, "--sections", "steps")
    found = read(tmp_path)["steps"]
    assert (found["status"], found["figures"]) == ("failed", {"first": 1})
    assert found["error"] == "RuntimeError: no kernel image is available"


def test_gpu_section_is_ended_after_its_time_with_its_processes(gpu, tmp_path, monkeypatch):
    child = tmp_path / "child.py"
    child.write_text(
        "import pathlib, subprocess, sys, time\n"
        "if len(sys.argv) > 2:\n"
        "    subprocess.Popen([sys.executable, __file__, sys.argv[4]])\n"
        "    time.sleep(60)\n"
        "while True:\n"
        "    (pathlib.Path(sys.argv[1]) / 'alive').write_text(str(time.monotonic()))\n"
        "    time.sleep(0.02)\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(child))
    gpu.write_document(gpu.path_of(tmp_path, "steps"), {"status": "partial", "figures": {"a": 1}})
    monkeypatch.setitem(gpu.SECTIONS, "steps", gpu.Section(gpu.SECTIONS["steps"].run, 2))
    gpu.run("--device", "cpu", "--out", tmp_path, "--sections", "steps")
    found = read(tmp_path)["steps"]
    assert (found["status"], found["figures"]) == ("failed", {"a": 1})
    assert found["error"] == "took more than 2 seconds"
    alive = tmp_path / "alive"
    assert alive.exists()  # the section had started a process
    before = alive.read_text()
    time.sleep(0.2)
    assert alive.read_text() == before


def test_utilisation_averages_the_samples_of_a_period(gpu):
    values = iter([10.0] * 3 + [90.0] * 1000)
    with gpu._gpu.Utilisation(lambda: next(values)) as utilisation:
        time.sleep(0.15)
        begin = time.perf_counter()
        time.sleep(0.1)
    assert utilisation.mean(begin, time.perf_counter()) == 90
    with gpu._gpu.Utilisation(None) as nothing:
        pass
    assert nothing.mean(0, time.perf_counter()) is None
    assert gpu._gpu.nvml_reader(torch.device("cpu")) is None
