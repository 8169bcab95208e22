"""A cluster's HTTP side as far as a submit meets it, in a thread: it keeps jobs, runs none, and can misbehave."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from typing import Any

TOKEN = "stub-token"


class ClusterStub:
    """What it was asked for stands in `jobs`, `packages` and `headers`; attributes say how it answers."""

    def __init__(self) -> None:
        self.ray_version = metadata.version("ray")
        self.python = "3.11"
        self.hosts = [""]
        self.mode = "token"
        self.loses_answers = False
        self.beginnings: list[list[dict[str, Any]]] = []  # what is said of the machines before they are known
        self.job_status = "PENDING"
        self.jobs: dict[str, Any] = {}
        self.packages: dict[str, bytes] = {}
        self.headers: list[tuple[str, str | None]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.answer(self, b"")

            def do_PUT(self) -> None:
                stub.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            do_POST = do_PUT  # noqa: N815 - the standard library's name

            def log_message(self, *_args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = request.path
        self.headers.append((path, request.headers.get("Authorization")))
        if path == "/api/authentication_mode":
            self._say(request, 200, {"authentication_mode": self.mode})
        elif self.mode == "token" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say(request, 403 if request.headers.get("Authorization") else 401, {})
        elif path == "/api/version":
            self._say(request, 200, {"ray_version": self.ray_version})
        elif path.startswith("/nodes"):
            self._say(request, 200, {"data": {"summary": self.beginnings.pop(0) if self.beginnings else self._nodes()}})
        elif path.startswith("/api/packages/"):
            self._package(request, path.rpartition("/")[2], body)
        else:
            self._job(request, path.removeprefix("/api/jobs/"), body)

    def _nodes(self) -> list[dict[str, Any]]:
        return [self._node(host) for host in self.hosts]

    def _node(self, host: str) -> dict[str, Any]:
        command = [
            f"/opt/lib/python{self.python}/site-packages/ray/raylet",
            "--python_worker_command=/opt/bin/python x.py --gcs-address=head:6379",
        ]
        return {"hostname": host, "cmdline": command, "raylet": {"isHeadNode": host == self.hosts[0], "state": "ALIVE"}}

    def _package(self, request: BaseHTTPRequestHandler, name: str, body: bytes) -> None:
        if request.command == "PUT":
            self.packages[name] = body
        self._say(request, 200 if name in self.packages else 404, {})

    def _job(self, request: BaseHTTPRequestHandler, rest: str, body: bytes) -> None:
        if request.command == "POST" and not rest:
            job = json.loads(body)
            known = job["submission_id"] in self.jobs
            self.jobs.setdefault(job["submission_id"], job)
            self._say(request, 500 if known or self.loses_answers else 200, {"submission_id": job["submission_id"]})
        elif rest.partition("/")[0] not in self.jobs:
            self._say(request, 404, {})
        elif rest.endswith("/logs"):
            self._say(request, 200, {"logs": "first line\nlast line\n"})
        else:
            self._say(request, 200, {"status": self.job_status, "message": "stubbed"})

    def _say(self, request: BaseHTTPRequestHandler, code: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        request.send_response(code)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
