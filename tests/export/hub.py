"""A stand-in for the Hugging Face hub: its HTTP interface for models, in memory."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Repositories and what was asked.

    Attributes:
        files: Bytes by repository and file name.
        private: Repositories that were created as private.
        tokens: Tokens of the requests that wrote.
        url: Address of the server.
    """

    def __init__(self):
        self.files = {}
        self.private = set()
        self.tokens = set()
        self.lfs = {}
        self.url = ""


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def _body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _send(self, status=200, value=None, data=None, headers=None):
            data = json.dumps(value or {}).encode() if data is None else data
            self.send_response(status)
            for name, text in (headers or {"Content-Type": "application/json"}).items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_POST(self):
            path, body = self.path.partition("?")[0], self._body()
            hub.tokens.add(self.headers.get("Authorization"))
            if self.headers.get("Authorization") == "Bearer refused":
                self._send(401, {"error": "Invalid username or password."})
            elif path == "/api/repos/create":
                table = json.loads(body)
                owner = table.get("organization") or "me"
                repo = f"{owner}/{table['name']}"
                hub.files.setdefault(repo, {})
                hub.private |= (
                    {repo}
                    if table.get("private") or table.get("visibility") == "private"
                    else set()
                )
                self._send(200, {"url": f"{hub.url}/{repo}", "id": repo})
            elif path == "/api/validate-yaml":
                self._send(200, {"errors": [], "warnings": []})
            elif path.endswith("/preupload/main"):
                # Weights go to the large file storage, texts into the commit.
                files = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for f in json.loads(body)["files"]
                ]
                self._send(200, {"files": files})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {
                        **o,
                        "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}", "header": {}}},
                    }
                    for o in json.loads(body)["objects"]
                ]
                self._send(200, {"transfer": "basic", "objects": objects})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
                repo = hub.files[match[1]]
                for line in body.splitlines():
                    entry = json.loads(line)
                    value = entry["value"]
                    if entry["key"] == "file":
                        repo[value["path"]] = base64.b64decode(value["content"])
                    elif entry["key"] == "lfsFile":
                        repo[value["path"]] = hub.lfs[value["oid"]]
                commit = f"{hub.url}/{match[1]}/commit/{'a' * 40}"
                self._send(200, {"success": True, "commitOid": "a" * 40, "commitUrl": commit})
            else:
                self._send(404, {"error": path})

        def do_PUT(self):
            oid, data = self.path.rpartition("/")[2], self._body()
            assert hashlib.sha256(data).hexdigest() == oid
            hub.lfs[oid] = data
            self._send(200)

        def do_GET(self):
            path = self.path.partition("?")[0]
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                data = hub.files.get(match[1], {}).get(match[2])
                if data is None:
                    self._send(404, headers={"X-Error-Code": "EntryNotFound"}, data=b"")
                    return
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                headers = {"ETag": etag, "X-Repo-Commit": "a" * 40, "Accept-Ranges": "bytes"}
                self._send(headers=headers, data=data)
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(/revision/[^/]+)?", path):
                names = [{"rfilename": name} for name in hub.files.get(match[1], {})]
                self._send(200, {"id": match[1], "sha": "a" * 40, "siblings": names})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+", path):
                files = hub.files.get(match[1], {})
                entries = [
                    {"type": "file", "path": n, "size": len(d), "oid": "b" * 40}
                    for n, d in files.items()
                ]
                self._send(200, data=json.dumps(entries).encode())
            else:
                self._send(404, {"error": path})

        do_HEAD = do_GET

    return Handler


@contextmanager
def serve_hub():
    """Serve an empty hub on this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
