"""Requests that the dashboard refuses."""

from __future__ import annotations

import io
import ipaddress
import json
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

__all__ = ["guard_requests"]

_App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_WRITABLE = re.compile(r"/api/(studies/\d+(/\d+)?/note|trials/\d+/user-attrs|artifacts/\d+(/\d+)?)")
"""Paths that may be written; a deleted or renamed study would lose its stages."""

_MAX_BODY = 64 * 2**20
"""Most bytes of a request: an artifact as base64."""


class _Refused(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        reason: Shown by the dashboard.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def guard_requests(app: _App, *, write: bool, hosts: Sequence[str] = ()) -> _App:
    """Return a WSGI application that refuses forbidden requests with a reason.

    A website can let a browser send requests to this machine. Its own name, resolved to this
    machine's address (DNS rebinding), would let it read the answers. A form would let it write.

    Args:
        app: The application.
        write: Whether notes, trial attributes and artifacts may be written, as JSON.
        hosts: Further names of this machine.
    """
    known = {name.lower() for name in ("localhost", socket.gethostname(), *hosts)}

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            _check_host(environ, known)
            if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
                _check_writing(environ, write)
                _check_body(environ)
        except _Refused as refused:
            start_response(refused.status, [("Content-Type", "application/json")])
            return [json.dumps({"reason": str(refused)}).encode()]
        return app(environ, start_response)

    return guarded


def _check_host(environ: dict[str, Any], known: set[str]) -> None:
    """Check that the page of a request is of this server, and that its name is this machine's."""
    host = environ.get("HTTP_HOST") or ""
    name = _host_name(f"//{host}")
    if name is None or not (name in known or _is_address(name)):
        raise _Refused(
            "403 Forbidden",
            f"The host must be an address or a name of this machine, got {host[:80]!r}. Restart "
            "the dashboard with this name as `host`.",
        )
    origin = environ.get("HTTP_ORIGIN")
    site = environ.get("HTTP_SEC_FETCH_SITE", "same-origin")
    foreign = origin is not None and _location(origin) != host.lower()
    if foreign or (site == "cross-site" and environ["REQUEST_METHOD"] not in ("GET", "HEAD")):
        raise _Refused(
            "403 Forbidden",
            "The request must come from the dashboard itself, not from another website.",
        )


def _location(url: str) -> str | None:
    """Return host and port of a URL in lower case; None if it has none."""
    try:
        return urlsplit(url).netloc.lower() or None
    except ValueError:
        return None


def _host_name(url: str) -> str | None:
    """Return the host of a URL without its port; None if it is malformed."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        return None if "@" in parts.netloc or parts.path else parts.hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    """Return whether a host is an address, which no website can let a browser resolve."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_writing(environ: dict[str, Any], write: bool) -> None:
    path = environ["PATH_INFO"].rstrip("/")
    if write and environ["REQUEST_METHOD"] in ("PUT", "POST") and _WRITABLE.fullmatch(path):
        return
    reason = "The dashboard is read-only. Restart it with `write` to add notes and artifacts."
    if write:
        reason = "The dashboard adds notes, trial attributes and artifacts, nothing else."
    raise _Refused("403 Forbidden", reason)


def _check_body(environ: dict[str, Any]) -> None:
    """Check that the body is a JSON object, which no form of another website can send."""
    kind = str(environ.get("CONTENT_TYPE", "")).partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _Refused(
            "415 Unsupported Media Type", f"The body must be application/json, got {kind[:80]!r}."
        )
    length = str(environ.get("CONTENT_LENGTH") or "0")
    if not re.fullmatch(r"[0-9]{1,12}", length) or int(length) > _MAX_BODY:
        raise _Refused("413 Content Too Large", f"The body must have at most {_MAX_BODY:,} bytes.")
    body = environ["wsgi.input"].read(int(length))
    try:
        is_object = isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise _Refused("400 Bad Request", "The body must be a JSON object.")
    environ["wsgi.input"] = io.BytesIO(body)
