"""Ray's Jobs API over HTTP, as far as a run needs it. Imports no Ray: whoever submits only plans.

The token goes into a header of requests to this address alone; redirects do not carry it on.
"""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any
from urllib.parse import quote, urlsplit

from orchestrator.engine.code_package import CodePackage
from orchestrator.engine.ray_token import HOW, find_token
from orchestrator.errors import ClusterError, UsageError

TIMEOUT_S = 30.0
UPLOAD_TIMEOUT_S = 300.0
AGENT_WAIT_S = 60.0
"""A head that has just begun answers before the part of it that takes jobs does."""

JOB_IS_OVER = ("SUCCEEDED", "FAILED", "STOPPED")
LOG_TAIL_BYTES = 64 * 2**10
PYTHON_VERSIONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class JobState:
    """A job as the cluster knows it. `status` is Ray's word, "" where it knows no such job."""

    status: str
    message: str = ""

    @property
    def is_over(self) -> bool:
        return self.status in ("", *JOB_IS_OVER)


class Jobs:
    """The jobs of the cluster at an address such as http://head:8265. Methods raise ClusterError where it does not answer."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f'--address "{address}" is no address of jobs', next_step="--address http://HEAD:8265")
        if parts.username or parts.password or parts.query:
            raise UsageError("--address must hold no user, password or query; the token is found by itself", next_step=HOW)
        self.address = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        proxies = [urllib.request.ProxyHandler({})] if parts.hostname in ("localhost", "127.0.0.1", "::1") else []
        self._opener = urllib.request.build_opener(*proxies)

    def check(self) -> None:
        """Raises ClusterError unless the cluster answers, lets us in, and runs a Ray and a Python that this code knows."""
        mode = self._json("GET", "/api/authentication_mode", without_token=True, missing_is={}).get("authentication_mode")
        if mode == "token" and not find_token():
            raise ClusterError(f"{self.address} asks for a token, and there is none here", next_step=HOW)
        ours, theirs = metadata.version("ray"), str(self._json("GET", "/api/version").get("ray_version", ""))
        if ours.split(".")[:2] != theirs.split(".")[:2]:
            raise ClusterError(
                f"the cluster at {self.address} runs Ray {theirs or 'of an unknown version'}, and this is written for {ours}",
                next_step=f"pip install ray=={ours} in the cluster's image (cluster/Dockerfile), or use a cluster that has it",
            )
        found = re.search(r"/python(3\.[0-9]+)/", str(self._head.get("cmdline", "")))
        if found is not None and found[1] not in PYTHON_VERSIONS:
            raise ClusterError(
                f"the cluster at {self.address} runs Python {found[1]}; expected one of {', '.join(PYTHON_VERSIONS)}",
                next_step="an image with one of them: cluster/Dockerfile",
            )

    def hosts(self) -> list[str]:
        """Host names of the machines that are there now."""
        return [node["hostname"] for node in self._nodes if node.get("hostname")]

    def interpreter(self) -> str:
        """The Python that runs Ray on the head, whose packages a job needs; "python" where the cluster does not tell.

        A job's own PATH may well lead to another one.
        """
        for word in self._head.get("cmdline") or []:
            if word.startswith("--python_worker_command="):
                return str(word.removeprefix("--python_worker_command=").split(" ", 1)[0])
        return "python"

    def ray_address(self) -> str:
        """Where the cluster's Ray is, seen from its head; "" where the cluster does not tell.

        A job is told an address by Ray, too: that of any Ray on the head, where there are several.
        """
        found = re.search(r"--gcs-address=([^\s']+)", " ".join(self._head.get("cmdline") or []))
        return found[1] if found is not None else ""

    def upload(self, package: CodePackage) -> str:
        """Send code where the cluster has not got it yet; returns its URI."""
        path = f"/api/packages/gcs/{package.name}"
        if self._send("GET", path, missing_is=b"missing") == b"missing":
            self._send("PUT", path, data=package.data, timeout_s=UPLOAD_TIMEOUT_S)
        return f"gcs://{package.name}"

    def submit(self, job: str, *, command: str, runtime_env: Mapping[str, Any], labels: Mapping[str, str]) -> None:
        """Begin a job under an id of ours. A second request with the same id, after a lost answer, begins nothing."""
        body = {"entrypoint": command, "submission_id": job, "runtime_env": runtime_env, "metadata": labels}
        until_s = time.monotonic() + AGENT_WAIT_S
        while True:
            try:
                self._json("POST", "/api/jobs/", data=json.dumps(body).encode())
            except ClusterError as error:
                if self.state(job).status:
                    return
                if "No available agent" not in error.message or time.monotonic() > until_s:
                    raise
                time.sleep(1.0)
            else:
                return

    def state(self, job: str) -> JobState:
        """Where a job stands."""
        found = self._json("GET", f"/api/jobs/{quote(job)}", missing_is={})
        return JobState(str(found.get("status", "")), str(found.get("message") or ""))

    def stop(self, job: str) -> None:
        """Ask the cluster to end a job's process; quiet where there is none."""
        self._json("POST", f"/api/jobs/{quote(job)}/stop", missing_is={})

    def last_lines(self, job: str, *, count: int = 15) -> list[str]:
        """The end of what a job's own process has printed."""
        text = str(self._json("GET", f"/api/jobs/{quote(job)}/logs", missing_is={}).get("logs", ""))
        return text[-LOG_TAIL_BYTES:].rstrip().splitlines()[-count:]

    @cached_property
    def _nodes(self) -> list[dict[str, Any]]:
        """The machines that live, as they describe themselves: a head that has just begun takes ten seconds to do so."""
        until_s = time.monotonic() + AGENT_WAIT_S
        while True:
            content = self._json("GET", "/nodes?view=summary", missing_is={})
            nodes = content.get("data", {}).get("summary") or []
            alive = [node for node in nodes if node.get("raylet", {}).get("state", "ALIVE") == "ALIVE"]
            has_head = any(_is_head(node) and "hostname" in node for node in alive)
            if has_head or not content or time.monotonic() > until_s:
                return alive
            time.sleep(1.0)

    @property
    def _head(self) -> dict[str, Any]:
        return next((node for node in self._nodes if _is_head(node)), {})

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        missing = options.pop("missing_is", None)
        answer = self._send(method, path, missing_is=None if missing is None else json.dumps(missing).encode(), **options)
        try:
            content = json.loads(answer)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ClusterError(
                f"{self.address}{path} answered something else than Ray's API: {answer[:80]!r}",
                next_step="--address must be that of Ray's dashboard, such as http://HEAD:8265",
            )
        return content

    def _send(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        timeout_s: float = TIMEOUT_S,
        missing_is: bytes | None = None,
        without_token: bool = False,
    ) -> bytes:
        request = urllib.request.Request(f"{self.address}{path}", data=data, method=method)  # noqa: S310 - http(s), see above
        request.add_header("Content-Type", "application/octet-stream" if method == "PUT" else "application/json")
        token = "" if without_token else find_token()
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing_is is not None:
                return missing_is
            raise self._refused(error, path, has_token=bool(token)) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ClusterError(
                f"no answer from the cluster at {self.address}: {reason}",
                next_step="look whether its head runs and this machine reaches it (on Kubernetes: kubectl port-forward)",
            ) from error

    def _refused(self, error: urllib.error.HTTPError, path: str, *, has_token: bool) -> ClusterError:
        if error.code in (401, 403):
            why = "does not accept the token that is here" if has_token else "asks for a token, and there is none here"
            return ClusterError(f"{self.address} {why} (HTTP {error.code})", next_step=HOW)
        said = error.read(2000).decode(errors="replace").strip().splitlines()
        return ClusterError(
            f"{self.address}{path} answered {error.code}: {said[-1] if said else error.reason}",
            next_step="the log of the cluster's head says more",
        )


def _is_head(node: Mapping[str, Any]) -> bool:
    return bool(node.get("raylet", {}).get("isHeadNode"))
