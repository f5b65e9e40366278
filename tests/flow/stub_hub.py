"""A Hugging Face hub of this process, as far as pushing a model needs one; it keeps repositories as git would."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_thisIsTheTokenThatNobodyMayPrint"


@dataclass
class Repository:
    """What a repository holds on its only branch, the messages of its commits, and its tags."""

    is_private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return f"{len(self.commits):040x}"


class StubHub:
    """The server; `uploads` are large files by their SHA-256, `requests` the method and path of everything asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                hub.answer(self)

            do_GET = do_HEAD = do_POST = do_PUT = handle_any

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append(f"{request.command} {path}")
        if request.command == "PUT":  # a signed address: no token
            digest = path.rsplit("/", 1)[-1]
            assert hashlib.sha256(body).hexdigest() == digest
            self.uploads[digest] = body
            return _reply(request, 200, b"")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _reply(request, 401, json.dumps({"error": "Invalid credentials"}).encode())
        for pattern, act in _ROUTES:
            if found := re.fullmatch(pattern, path):
                status, content, headers = act(self, body, *found.groups())
                return _reply(request, status, content, headers)
        return _reply(request, 404, b"{}")

    def create(self, body: bytes) -> Any:
        asked = json.loads(body)
        name = "/".join(filter(None, [asked.get("organization") or "me", asked["name"]]))
        status = 409 if name in self.repositories else 200
        self.repositories.setdefault(name, Repository(asked.get("visibility") == "private"))
        return _json({"url": f"{self.address}/{name}", "id": name}, status)

    def tree(self, _body: bytes, name: str) -> Any:
        files = self.repositories[name].files
        entries = [
            {"type": "file", "path": path, "oid": _git_oid(data), "size": len(data)} for path, data in files.items()
        ]
        return _json(entries)

    def resolve(self, _body: bytes, name: str, path: str) -> Any:
        repository = self.repositories[name]
        content = repository.files[path]
        return 200, content, {"ETag": f'"{_git_oid(content)}"', "X-Repo-Commit": repository.head}

    def preupload(self, body: bytes, name: str) -> Any:
        there, found = self.repositories[name].files, []
        for item in json.loads(body)["files"]:
            is_large = item["path"].endswith(".safetensors")
            content = there.get(item["path"])
            oid = None if content is None else hashlib.sha256(content).hexdigest() if is_large else _git_oid(content)
            mode = "lfs" if is_large else "regular"
            found.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return _json({"files": found})

    def batch(self, body: bytes, _name: str) -> Any:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self.address}/upload/{item['oid']}"}}}
            for item in json.loads(body)["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def commit(self, body: bytes, name: str) -> Any:
        repository = self.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                del repository.files[value["path"]]
        url = f"{self.address}/{name}/commit/{repository.head}"
        return _json({"commitUrl": url, "commitOid": repository.head, "success": True})

    def info(self, _body: bytes, name: str) -> Any:
        return _json({"id": name, "sha": self.repositories[name].head, "siblings": [], "tags": [], "private": True})

    def tag(self, body: bytes, name: str, revision: str) -> Any:
        tags, asked = self.repositories[name].tags, json.loads(body)["tag"]
        status = 409 if asked in tags else 200
        tags.setdefault(asked, revision)
        return _json({}, status)

    def validate(self, _body: bytes) -> Any:
        return _json({"errors": [], "warnings": []})


_NAME = r"([\w-]+/[\w-]+)"
_ROUTES = [
    ("/api/repos/create", StubHub.create),
    ("/api/validate-yaml", StubHub.validate),
    (f"/api/models/{_NAME}/tree/main", StubHub.tree),
    (f"/api/models/{_NAME}/preupload/main", StubHub.preupload),
    (f"/api/models/{_NAME}/commit/main", StubHub.commit),
    (f"/api/models/{_NAME}/tag/(.+)", StubHub.tag),
    (f"/api/models/{_NAME}/revision/main", StubHub.info),
    (f"/api/models/{_NAME}", StubHub.info),
    (f"/{_NAME}.git/info/lfs/objects/batch", StubHub.batch),
    (f"/{_NAME}/resolve/main/(.+)", StubHub.resolve),
]


def _json(value: Any, status: int = 200) -> Any:
    return status, json.dumps(value).encode(), {"Content-Type": "application/json"}


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _reply(request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
