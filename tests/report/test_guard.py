"""Requests that the dashboard refuses, as other websites could let a browser send them."""

import json
import socket
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glora_automl.report._guard import guard_requests

NOTE = "/api/studies/0/note"


def request(method="GET", path="/api/studies", body=b"", *, write=True, hosts=(), **headers):
    """Return the status of a request, and the body that the application got."""
    got, answers = [], []

    def app(environ, start_response):
        got.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [b""]

    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_HOST": "127.0.0.1:8080",
        "wsgi.input": BytesIO(body),
        **headers,
    }
    guarded = guard_requests(app, write=write, hosts=hosts)
    answer = b"".join(guarded(environ, lambda line, headers: answers.append(line)))
    if not got:
        assert 0 < len(json.loads(answer)["reason"]) <= 300
    return answers[0][:3], b"".join(got)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8080",
        "127.0.0.1",
        "192.168.0.7:8080",
        "[::1]:8080",
        "gpu1.lan",
        socket.gethostname(),
    ],
)
def test_guard_of_a_name_of_this_machine_answers(host):
    assert request(HTTP_HOST=host, hosts=("gpu1.lan",))[0] == "200"
    headers = {"HTTP_HOST": host, "HTTP_ORIGIN": f"http://{host}"}
    assert request("PUT", NOTE, b"{}", hosts=("gpu1.lan",), **headers)[0] == "200"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "user@localhost",
        "localhost:port",
        "localhost/evil",
        "[::1",
        "",
        "x" * 10_000,
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_guard_of_another_name_refuses(host, method):
    assert request(method, NOTE, b"{}", HTTP_HOST=host) == ("403", b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_ORIGIN": "http://evil.example"},
        {"HTTP_ORIGIN": "http://127.0.0.1:9999"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_ORIGIN": ""},
        {"HTTP_ORIGIN": "http://[::1"},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
    ],
)
def test_guard_of_a_write_from_another_website_refuses(headers):
    assert request("PUT", NOTE, b"{}", **headers) == ("403", b"")


def test_guard_of_a_link_from_another_website_answers():
    assert request(HTTP_SEC_FETCH_SITE="cross-site")[0] == "200"


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"]
)
def test_guard_of_a_form_refuses(kind):
    assert request("PUT", NOTE, b"{}", CONTENT_TYPE=kind) == ("415", b"")


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", str(2**40), "9" * 5000, "\u0663"])
def test_guard_of_a_body_of_an_impossible_length_refuses(length):
    assert request("PUT", NOTE, b"{}", CONTENT_LENGTH=length) == ("413", b"")


def test_guard_passes_a_json_object_unchanged():
    body = json.dumps({"body": "h\u00e9llo", "version": 1}).encode()
    kind = "application/json; charset=utf-8"
    assert request("PUT", NOTE, body, CONTENT_TYPE=kind) == ("200", body)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.sampled_from([b"", b"[]", b"1", b"null", b'"x"', b"{", b"[" * 100_000]),
    )
)
def test_guard_of_any_other_body_refuses(body):
    try:
        is_object = isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        assert request("PUT", NOTE, body) == ("400", b"")
