"""optuna-dashboard over a view of the storage with few parameters per trial."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec, module_from_spec
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
import optuna
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from glora_automl._messages import short
from glora_automl.commands import random_study_name
from glora_automl.errors import GLoRAError, ReportError, StorageError, StudyError
from glora_automl.report._guard import guard_requests
from glora_automl.report._projection import Grouping, project_study
from glora_automl.samplers import is_feasible, pareto_front, score_trial
from glora_automl.storages import Artifacts, StudyView, full_location
from glora_automl.study import check_settings, get_attribute, is_glora_study
from glora_automl.workers import stage_study_name

__all__ = ["DashboardServer", "dashboard_app", "open_server"]

_App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def dashboard_app(
    storage: BaseStorage,
    *,
    by: Grouping = "block",
    artifacts: Callable[[str], Artifacts] | None = None,
    location: str | None = None,
    write: bool = False,
    hosts: Sequence[str] = (),
) -> _App:
    """Return optuna-dashboard as a WSGI application.

    A study of this package has trainable parameters per group instead of choices
    (:class:`~glora_automl.report.Counts`). Its infeasible trials are marked, and its best trial is
    the best feasible one. The studies of its stages and of its random search are hidden. Other
    studies are shown as in optuna-dashboard.

    Args:
        storage: Storage of the studies.
        by: Grouping of the trainable parameters.
        artifacts: Function that opens an artifact store by its location. Without it no artifacts
            are shown.
        location: Location of the artifact store of all studies. By default each study names one.
        write: Whether users may add notes, trial attributes and artifacts.
        hosts: Names under which browsers may reach the dashboard, besides ``localhost``, the name
            of this machine and all addresses.

    Raises:
        StorageError: If ``location`` cannot be opened.
    """

    view = StudyView(storage, project_study(by), hides=_is_bookkeeping, writable=write)
    store = None if artifacts is None else _StudyArtifacts(storage, artifacts, location)
    app: _App = _own_module().wsgi(view, artifact_store=store)
    return guard_requests(app, write=write, hosts=hosts)


def _own_module() -> Any:
    """Return a copy of optuna-dashboard's application for one storage and grouping.

    Its Pareto front has feasible trials only. Its importances are its own: those of
    optuna-dashboard are kept per process, by the number of the study alone. It is a copy, as other
    dashboards of this process keep the original.
    """
    own, importance = (_copied(f"optuna_dashboard.{name}") for name in ("_app", "_importance"))
    own.get_pareto_front_trials = _feasible_front
    name = "get_param_importance_from_trials_cache"
    setattr(own, name, getattr(importance, name))
    return own


def _copied(name: str) -> Any:
    """Return a new copy of a module, which no import finds."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_bookkeeping(study: FrozenStudy, by_name: Mapping[str, FrozenStudy]) -> bool:
    """Return whether a study holds the stages or the random search of another study."""
    owner = by_name.get(study.study_name.rpartition("/")[0])
    if owner is None or get_attribute(owner, "format") is None:
        return False
    try:
        key = check_settings(owner).key
    except StudyError:
        key = ""
    name = owner.study_name
    return study.study_name in (stage_study_name(name), random_study_name(name, key))


def _feasible_front(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> list[FrozenTrial]:
    """Return the Pareto front of the feasible trials, or of all trials if none is feasible."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    candidates = [t for t in complete if is_feasible(t)] or complete
    losses = np.array([score_trial(t, directions).losses for t in candidates])
    return [candidates[i] for i in np.flatnonzero(pareto_front(losses))]


class _StudyArtifacts:
    """The artifact stores of all studies as one Optuna artifact store."""

    def __init__(
        self, storage: BaseStorage, artifacts: Callable[[str], Artifacts], location: str | None
    ) -> None:
        self._storage = storage
        self._open = artifacts
        self._opened: dict[str, Artifacts] = {}
        self._location = location
        if location is not None:
            self._store(location)

    def _store(self, location: str) -> Artifacts:
        if location not in self._opened:
            self._opened[location] = self._open(location)
        return self._opened[location]

    def _stores(self) -> Iterable[Any]:
        if self._location is not None:
            yield self._store(self._location).backend
            return
        names = optuna.get_all_study_names(self._storage)
        studies = [
            optuna.load_study(study_name=name, storage=self._storage)
            for name in names
            if is_glora_study(self._storage, name)
        ]
        recorded = []
        for study in studies:
            with suppress(StudyError):  # an altered one
                recorded.append(check_settings(study).artifacts)
        for location in dict.fromkeys(full_location(r, self._storage) for r in recorded):
            try:
                yield self._store(location).backend
            except GLoRAError:
                continue  # the store may be a folder of another machine

    def open_reader(self, artifact_id: str) -> Any:
        """Open an artifact in the first store that has it; IDs are unique."""
        for store in self._stores():
            try:
                return store.open_reader(artifact_id)
            except ArtifactNotFound:
                continue
        raise ArtifactNotFound(f"The artifact must be in a store of a study, got {artifact_id!r}.")

    def write(self, artifact_id: str, content_body: Any) -> None:
        """Write an artifact into the first store."""
        for store in self._stores():
            store.write(artifact_id, content_body)
            return
        raise StorageError(
            "`artifacts` must be a store that this machine can open, got none. Set `artifacts`."
        )


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass  # browsers poll every few seconds


class DashboardServer(ThreadingMixIn, WSGIServer):
    """HTTP server with one thread per request."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that disconnect; the application logs its own errors."""

    @property
    def url(self) -> str:
        """URL of the dashboard."""
        host = str(self.server_address[0])
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.server_address[1]}/"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback


def open_server(app: _App, host: str, port: int) -> DashboardServer:
    """Open a server that listens for browsers.

    Args:
        app: WSGI application.
        host: Host name or address of this machine.
        port: Port; 0 takes a free port.

    Raises:
        ReportError: If the address is not free or not of this machine.
    """
    try:
        return make_server(host, port, app, server_class=DashboardServer, handler_class=_Handler)
    except (OSError, OverflowError, TypeError, UnicodeError) as error:  # of a host that is no name
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise ReportError(
            "`host` and `port` must be a free address of this machine, got "
            f"{short(f'{host}:{port}')} ({reason}). Choose another `port` or `host`."
        ) from None
