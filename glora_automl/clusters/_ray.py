"""Workers as actors of Ray: one per GPU, or per some CPUs."""

from __future__ import annotations

import re
import signal
import socket
import threading
from dataclasses import replace
from importlib import import_module
from typing import Any

from glora_automl._extras import require
from glora_automl._files import user_path
from glora_automl._messages import hide, one_line, short
from glora_automl.commands import SearchResult, search
from glora_automl.errors import GLoRAError, Stopped, StorageError
from glora_automl.pipeline import Workspace
from glora_automl.recipes import Recipe, parse_recipe
from glora_automl.storages import absolute_url, default_url

__all__ = ["search_on_ray"]

PASSED = ("storage", "artifacts", "data", "device", "heartbeat", "patience", "log_format")
"""Fields of a workspace that an actor gets as they are."""


STOP_TIMEOUT = 30.0
"""Seconds until an actor that does not answer is taken for one that was never placed."""


class RayWorker:
    """A worker, in a process of Ray.

    Ray starts the process again after it was killed, and calls :meth:`run` again. The study then
    continues, like that of any worker.
    """

    def __init__(self, recipe: dict[str, Any], name: str | None, fields: dict[str, Any]) -> None:
        self._recipe = parse_recipe(recipe, "recipe")
        self._name = name
        self._fields = fields
        self._stop = threading.Event()

    def run(self) -> str:
        """Take part in the study until it is finished; return its name, or why it ended."""
        workspace = Workspace(stop=self._stop.is_set, publish=_publish, **self._fields)
        try:
            return str(search(self._recipe, name=self._name, workspace=workspace).study.study_name)
        except Stopped:
            return ""

    def stop(self) -> None:
        """Stop at the next safe point."""
        self._stop.set()


def _publish(study: Any) -> None:
    import_module("glora_automl.report").publish(study)


def search_on_ray(
    recipe: Recipe,
    address: str | None = None,
    *,
    name: str | None = None,
    n_workers: int | None = None,
    cpus_per_worker: int = 2,
    workspace: Workspace | None = None,
) -> SearchResult:
    """Search with one worker per GPU of a Ray cluster, or per ``cpus_per_worker`` CPUs without.

    A cluster that scales up shows only the GPUs that it has now. So give ``n_workers``, and the
    device ``cuda`` if it has none: each worker then asks for a GPU, which the autoscaler adds.

    Ray must be initialized, or is by this call. Each worker is an actor that Ray starts again after
    its process was killed. All of them need the storage and the artifact store of the workspace:
    on several machines, a database or a shared folder, and a shared folder or S3.

    Args:
        recipe: The recipe.
        address: Address of the cluster, such as ``ray://head:10001``; None is the initialized one,
            or a new one on this machine.
        name: Name of the study; by default the recipe's.
        n_workers: Number of workers; None is as many as the cluster has GPUs or CPUs for.
        cpus_per_worker: CPUs of a worker without a GPU.
        workspace: The environment, with names of storage and artifacts. With a device ``cuda`` each
            worker has a GPU, with ``cpu`` none.

    Raises:
        GLoRAError: If the input is invalid, Ray is missing or cannot be reached.
        Stopped: If the workspace asked to stop. Finished work is kept.
    """
    ray, place = require("ray", "ray", GLoRAError), _named(workspace or Workspace())
    for argument, value in (
        ("cpus_per_worker", cpus_per_worker),
        ("n_workers", 1 if n_workers is None else n_workers),
    ):
        if not isinstance(value, int) or not 1 <= value <= 1024:
            raise GLoRAError(
                f"`{argument}` must be from 1 to 1,024, got {short(value)}. Correct `{argument}`."
            )
    begun = not ray.is_initialized()
    if begun:
        _connect(ray, address)
    try:
        _check_reach(ray, place)
        workers = _start(ray, recipe, name, n_workers, cpus_per_worker, place)
        _wait(ray, workers, place)
    finally:
        if begun:
            ray.shutdown()
    # All stages are done: this reads the result and writes the files of this machine, which need
    # not have the device of the workers.
    device = "auto" if place.device.startswith("cuda") else place.device
    return search(recipe, name=name, workspace=replace(place, device=device))


def _named(workspace: Workspace) -> Workspace:
    """Return the workspace with places that another process finds, too.

    Raises:
        StorageError: If the storage is an object of this process.
    """
    location = workspace.storage_location
    if not isinstance(location, str):
        raise StorageError(
            "`storage` must be a URL or a path for workers of Ray, got "
            f"{type(location).__name__}. Set `storage`."
        )
    # The processes of Ray have working folders of their own.
    runs = workspace.folder.absolute()
    if workspace.storage is None:
        location = default_url(runs)
    artifacts = None if workspace.artifacts is None else _absolute(workspace.artifacts)
    data = _absolute(workspace.data) if isinstance(workspace.data, str) else workspace.data
    location = absolute_url(_absolute(location))
    return replace(workspace, runs=runs, storage=location, artifacts=artifacts, data=data)


def _absolute(text: str) -> str:
    if "://" in text:
        return text
    return str(user_path(text, "path", StorageError).absolute())


def _check_reach(ray: Any, workspace: Workspace) -> None:
    """Refuse an SQLite file if the cluster has another machine.

    Raises:
        StorageError: If it has.
    """
    location = str(workspace.storage)
    hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    others = hosts - {socket.gethostname()}
    if others and location.startswith("sqlite"):
        raise StorageError(
            f"`storage` must be a database that {short(min(others), 40)} reaches, too, got the "
            f"SQLite file {short(location)}. Set `storage` to the URL of a server, or to a journal "
            "file (.log) on a shared file system."
        )


def _connect(ray: Any, address: str | None) -> None:
    hide(address or "")
    if address is not None and not re.fullmatch(
        r"ray|auto|ray://[\w.:\[\]-]+|[\w.-]+:\d+", address
    ):
        raise GLoRAError(
            f"`workers` must be ray, or the address of a Ray cluster such as ray://head:10001, got "
            f"{short(address)}. Correct `workers`."
        )
    options = {} if address in (None, "ray") else {"address": address}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="error", **options)
    except Exception as error:  # Ray's exceptions have no common class
        raise GLoRAError(
            f"`workers` must be the address of a Ray cluster, got {short(address)}: "
            f"{one_line(error)}. Start one by 'ray start', or correct `workers`."
        ) from None
    finally:
        # Ray's own would end the process at once. One that C has installed is None.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _start(
    ray: Any, recipe: Recipe, name: str | None, count: int | None, cpus: int, workspace: Workspace
) -> list[Any]:
    """Start the actors; those without a place wait until Ray's autoscaler has made one."""
    resources = ray.cluster_resources()
    n_gpus, n_cpus = (int(resources.get(key, 0)) for key in ("GPU", "CPU"))
    device = workspace.device
    on_gpu = device.startswith("cuda") or (device != "cpu" and n_gpus > 0)
    if not on_gpu and count is None and n_cpus < cpus:
        cpus = 1
    n_places = n_gpus if on_gpu else n_cpus // cpus
    count = count or max(1, n_places)
    needs = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": cpus}
    each = "1 GPU" if on_gpu else f"{cpus} CPUs"
    workspace.progress.log(f"Ray: {count} workers, each with {each}.")
    if count > n_places:
        workspace.progress.log(
            f"Ray has a place for {n_places} of them now. The others wait for its autoscaler."
        )
    fields = {key: getattr(workspace, key) for key in PASSED} | {"runs": str(workspace.runs)}
    actor = ray.remote(RayWorker).options(
        # run and stop at once; a killed process is started again and runs again.
        max_concurrency=3, max_restarts=-1, max_task_retries=-1, **needs
    )  # fmt: skip
    table = recipe.model_dump(mode="json")
    return [actor.remote(table, name, fields) for _ in range(count)]


def _wait(ray: Any, workers: list[Any], workspace: Workspace) -> None:
    """Wait until a worker has finished the study, or all have stopped.

    An actor keeps its CPUs until it is killed. One that Ray could not place before starts then, or
    is not needed any more.

    Raises:
        GLoRAError: As a worker raised it.
        Stopped: If the workspace asked to stop.
    """
    running = {worker.run.remote(): worker for worker in workers}
    asked = False
    while running:
        done, _ = ray.wait(list(running), timeout=0.5)
        for result in done:
            is_finished = bool(_check(ray, result))
            ray.kill(running.pop(result))
            if is_finished:
                _end(ray, running)
                return
        if workspace.stop is not None and workspace.stop() and not asked:
            asked = True
            stops = {worker.stop.remote(): result for result, worker in running.items()}
            _, silent = ray.wait(list(stops), num_returns=len(stops), timeout=STOP_TIMEOUT)
            for stop in silent:  # never placed
                ray.kill(running.pop(stops[stop]))
    raise Stopped


def _end(ray: Any, running: dict[Any, Any]) -> None:
    """Let the other workers of a finished study read its result; end those that do not start."""
    if running:
        ray.wait(list(running), num_returns=len(running), timeout=STOP_TIMEOUT)
    for worker in running.values():
        ray.kill(worker)


def _check(ray: Any, result: Any) -> Any:
    """Return what a worker has returned, or raise its error."""
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, GLoRAError):
            raise error.cause from None
        raise
