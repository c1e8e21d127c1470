"""The files in ``deploy/``: linted by their own tools, and their commands run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import pytest

from tests.cli import conftest
from tests.cli.conftest import FAST, flags
from tests.conftest import TINY

glora = conftest.glora
yaml = pytest.importorskip("yaml", reason="needs pyyaml")

DEPLOY = Path(__file__).parents[1] / "deploy"


def tool(name, *arguments):
    """Run a linter; skip where it is missing."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"needs {name}")
    ran = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, cwd=DEPLOY)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("yamllint", "-c", ".yamllint", "."),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"),
        ("hadolint", "Dockerfile"),
        ("shellcheck", "slurm.sh"),
        ("bash", "-n", "slurm.sh"),
    ],
    ids=lambda command: command[0],
)
def test_deploy_files_pass_their_linters(command):
    tool(*command)


def test_ray_cluster_fits_the_schema_of_ray():
    jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")
    pytest.importorskip("ray", reason="needs ray")
    schema = json.loads((resources.files("ray") / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((DEPLOY / "ray.yaml").read_text()), schema)


def documents():
    """Return the objects of the Kubernetes file by kind and name."""
    found = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {(table["kind"], table["metadata"]["name"]): table for table in found}


def pods():
    """Return the pod template of each workload."""
    return {
        key: table["spec"]["template"]
        for key, table in documents().items()
        if key[0] in ("Job", "Deployment", "StatefulSet")
    }


def test_kubernetes_objects_refer_to_each_other():
    found = documents()
    labels = [pod["metadata"]["labels"]["app"] for pod in pods().values()]
    for (kind, name), table in found.items():
        if kind == "Service":
            assert table["spec"]["selector"]["app"] == name
            assert name in labels
        if kind in ("Deployment", "StatefulSet"):
            selector = table["spec"]["selector"]["matchLabels"]
            assert selector == table["spec"]["template"]["metadata"]["labels"]
    storages = []
    for pod in pods().values():
        (container,) = pod["spec"]["containers"]
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])} | {"data"}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
        for source in container.get("envFrom", []):
            names = {("ConfigMap", source.get("configMapRef", {}).get("name")), ("Secret", "glora")}
            assert names & {*found, ("Secret", source.get("secretRef", {}).get("name"))}
        storages += [e["value"] for e in container["env"] if e["name"] == "GLORA_STORAGE"]
    assert len(storages) == 2
    for storage in storages:
        host = storage.partition("@")[2].partition("/")[0]
        assert ("Service", host) in found


def commands():
    """Return the arguments of glora in each file, by its name."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    found = {f"compose {name}": compose[name]["command"] for name in ("worker", "dashboard")}
    for (_, name), pod in pods().items():
        (container,) = pod["spec"]["containers"]
        if "glora" in container["image"]:
            found[f"kubernetes {name}"] = container["args"]
    return found


@pytest.mark.parametrize("place", commands())
def test_commands_have_known_options(place):
    command, *arguments = commands()[place]
    assert {word for word in arguments if word.startswith("--")} <= flags(command)


@pytest.mark.parametrize("place", [place for place in commands() if "dashboard" not in place])
def test_worker_commands_search_with_their_environment(
    place,
    glora,
    tmp_path,
    monkeypatch,
):
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, value in (("STORAGE", "a.log"), ("ARTIFACTS", "files"), ("RUNS", "work")):
        monkeypatch.setenv(f"GLORA_{name}", value)
    _, recipe, *options = commands()[place]
    assert recipe in ("digits", "${GLORA_RECIPE:-digits}")
    code, out, err = glora("search", "tiny.toml", *options, *FAST, "--quiet")
    assert (code, err) == (0, "")
    assert "work/tiny/winner.json" in out


def test_workers_have_as_many_threads_as_cores():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["worker"]
    assert compose["environment"]["OMP_NUM_THREADS"] == "${OMP_NUM_THREADS:-1}"
    (container,) = pods()["Job", "glora-digits"]["spec"]["containers"]
    (threads,) = (e["valueFrom"] for e in container["env"] if e["name"] == "OMP_NUM_THREADS")
    assert threads == {"resourceFieldRef": {"resource": "requests.cpu"}}
    assert "cpu" in container["resources"]["requests"]
    assert 'OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"' in (DEPLOY / "slurm.sh").read_text()


@pytest.fixture
def scheduler(tmp_path):
    """Function that starts a task of the job array as SLURM does; commands are in ``bin``."""
    (tmp_path / "bin").mkdir()

    def script(name, *lines):
        path = tmp_path / "bin" / name
        path.write_text("\n".join(["#!/bin/bash", *lines, ""]), encoding="utf-8")
        path.chmod(0o755)

    def start(task, *arguments):
        text = (DEPLOY / "slurm.sh").read_text(encoding="utf-8")
        directives = [line.split()[1] for line in text.splitlines() if line.startswith("#SBATCH")]
        assert {"--signal=B:TERM@120", "--open-mode=append"} <= {*directives}
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "SLURM_JOB_ID": f"7{task}",
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_CPUS_PER_TASK": "1",
        }
        command = ["bash", str(DEPLOY / "slurm.sh"), *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    script("scontrol", f'echo "$@" >> {tmp_path}/scontrol.out')
    return start, script


@pytest.mark.slow
def test_slurm_array_searches_one_study_together(scheduler, tmp_path):
    start, script = scheduler
    script("glora", f'exec {sys.executable} -m glora_automl "$@"')
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    tasks = [start(task, "tiny.toml", *FAST, "--quiet") for task in (0, 1)]
    for task in tasks:
        out, err = task.communicate(timeout=120)
        assert task.returncode == 0, err
        assert b"winner.json" in out
    assert (tmp_path / "runs/studies.log").is_file()
    assert not (tmp_path / "scontrol.out").exists()
    assert len(list((tmp_path / "runs/tiny/logs").iterdir())) == 2


@pytest.mark.parametrize(("code", "requeued"), [(143, "requeue 70\n"), (2, None)])
def test_slurm_task_that_is_stopped_is_queued_again(scheduler, tmp_path, code, requeued):
    start, script = scheduler
    # A worker that ends at its next safe point.
    script(
        "glora",
        f"trap 'sleep 0.2; exit {code}' TERM",
        f"touch {tmp_path}/started",
        "while true; do sleep 0.05; done",
    )
    task = start(0, "digits")
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    task.send_signal(signal.SIGTERM)
    task.communicate(timeout=30)
    assert task.returncode == code
    written = tmp_path / "scontrol.out"
    assert (written.read_text() if written.exists() else None) == requeued
