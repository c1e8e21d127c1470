"""optuna-dashboard over a view of the storage that it can show."""

from __future__ import annotations

import errno
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import optuna_dashboard
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial
from optuna_dashboard import _app

from glora_automl.commands import random_study_name
from glora_automl.errors import GLoRAError, ReportError, StorageError
from glora_automl.report._projection import Grouping, project_study
from glora_automl.storages import Artifacts, StudyView
from glora_automl.study import get_attribute, get_setting, is_ours
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
) -> _App:
    """optuna-dashboard as a WSGI application.

    A study of ours is shown with the parameters that each block, kind of layer, support tensor or
    layer takes (:class:`~glora_automl.report.Counts`), its infeasible trials are marked, and its
    best trial is the best feasible one. The studies of its stages and of its random search are
    left out: they are bookkeeping, and what they know is in the report. Other studies are as
    optuna-dashboard shows them.

    Args:
        storage: Where the studies are.
        by: What parameters are counted by.
        artifacts: Opens an artifact store by its location; without it no artifacts are shown.
        location: The store of all studies; by default the one that each study names.
        write: Whether notes, trial attributes and artifacts may be added.

    Raises:
        StorageError: If ``location`` cannot be opened.
    """

    view = StudyView(storage, project_study(by), hides=_is_bookkeeping, writable=write)
    store = None if artifacts is None else _StudyArtifacts(storage, artifacts, location)
    # Its front has infeasible trials, too; without constraints all are feasible.
    _app.get_pareto_front_trials = _feasible_front
    app: _App = optuna_dashboard.wsgi(view, artifact_store=store)
    return _guarded(app, write)


def _is_bookkeeping(study: FrozenStudy, by_name: Mapping[str, FrozenStudy]) -> bool:
    """Whether a study holds the stages of one of ours, or the random search beside it."""
    owner = by_name.get(study.study_name.rpartition("/")[0])
    if owner is None or get_attribute(owner, "format") is None:
        return False
    key = get_attribute(owner, "settings").get("key", "")
    name = owner.study_name
    return study.study_name in (stage_study_name(name), random_study_name(name, key))


_stock_front = _app.get_pareto_front_trials


def _feasible_front(
    trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]
) -> list[FrozenTrial]:
    """The dashboard's Pareto front, of the feasible trials; of all if there are none."""
    feasible = [t for t in trials if all(value <= 0 for value in t.constraints.values())]
    front: list[FrozenTrial] = _stock_front(feasible or trials, directions)
    return front


_WRITABLE = re.compile(r"/api/(studies/\d+(/\d+)?/note|trials/\d+/user-attrs|artifacts/\d+(/\d+)?)")
"""Of these nothing is lost: a study that is deleted or renamed here would lose its stages."""


def _guarded(app: _App, write: bool) -> _App:
    """Answer what is not allowed with a reason that the dashboard shows, before it is begun."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].rstrip("/")
        if method in ("GET", "HEAD"):
            return app(environ, start_response)
        if write and method in ("PUT", "POST") and _WRITABLE.fullmatch(path):
            return app(environ, start_response)
        reason = "This dashboard only reads; start it with: glora dashboard --write"
        if write:
            reason = "Here notes, trial attributes and artifacts can be added, nothing else."
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": reason}).encode()]

    return guarded


class _StudyArtifacts:
    """The artifact stores that the studies name, as one that Optuna knows how to read."""

    def __init__(
        self, storage: BaseStorage, artifacts: Callable[[str], Artifacts], location: str | None
    ) -> None:
        self._storage = storage
        self._open = artifacts
        self._opened: dict[str, Artifacts] = {}
        self._location = location
        if location is not None:
            self._at(location)

    def _at(self, location: str) -> Artifacts:
        if location not in self._opened:
            self._opened[location] = self._open(location)
        return self._opened[location]

    def _stores(self) -> Iterable[Any]:
        if self._location is not None:
            yield self._at(self._location).backend
            return
        names = optuna.get_all_study_names(self._storage)
        studies = [
            optuna.load_study(study_name=name, storage=self._storage)
            for name in names
            if is_ours(self._storage, name)
        ]
        for location in dict.fromkeys(str(get_setting(study, "artifacts")) for study in studies):
            try:
                yield self._at(location).backend
            except GLoRAError:
                continue  # of another machine

    def open_reader(self, artifact_id: str) -> Any:
        """See Optuna's artifact stores; the names of artifacts are unique."""
        for store in self._stores():
            try:
                return store.open_reader(artifact_id)
            except ArtifactNotFound:
                continue
        raise ArtifactNotFound(f"No store that a study names here has {artifact_id!r}.")

    def write(self, artifact_id: str, content_body: Any) -> None:
        """Write into the first store."""
        for store in self._stores():
            store.write(artifact_id, content_body)
            return
        raise StorageError("There is no artifact store to write to; name one with --artifacts.")


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass  # a line for each poll of each browser


class DashboardServer(ThreadingMixIn, WSGIServer):
    """A server for a few people, with a thread for each request."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Browsers leave in the middle of an answer; what goes wrong in the app is logged there."""

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        host = str(self.server_address[0])
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.server_address[1]}/"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback


def open_server(app: _App, host: str, port: int) -> DashboardServer:
    """Listen for browsers.

    Args:
        app: What answers.
        host: Name or address to listen at.
        port: Port; 0 takes a free one.

    Raises:
        ReportError: If that is not possible.
    """
    try:
        return make_server(host, port, app, server_class=DashboardServer, handler_class=_Handler)
    except (OSError, OverflowError) as error:
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        reason = getattr(error, "strerror", None) or str(error)
        raise ReportError(
            f"The dashboard must have a port of its own, {host}:{port} "
            + ("is taken" if taken else f"cannot be had ({reason})")
            + "; choose another with --port or --host."
        ) from None
