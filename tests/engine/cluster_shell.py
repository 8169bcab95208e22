"""A Ray cluster of several nodes on this machine with token authentication, and a shell to type commands in.

The cluster is in a process of its own (`ray_cluster.py`): what is tried is the command line that users type.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from orchestrator import api
from orchestrator.store.lease import Leases

TOKEN = "a-token-that-must-be-in-no-output-0123456789"
DEADLINE_S = 120.0


class Cluster:
    """A head with one core (or as `head` says), and what `add` adds. All nodes and shells have `variables`."""

    def __init__(
        self,
        folder: Path,
        *,
        store: str = "",
        head: Mapping[str, Any] | None = None,
        variables: Mapping[str, str] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.folder = folder
        self.store = store or str(folder / "store")
        self.deadline_s = deadline_s
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {**environment, "ORCHESTRATOR_STORE": self.store, "OMP_NUM_THREADS": "1", **(variables or {})}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "ray_cluster.py"), json.dumps(head or {})],
            env={**self.environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        first = self._answer()
        self.url, self.address = first["url"], first["address"]
        self.raylets = {"head": int(first["raylet"])}
        self.workspace = api.open_workspace(self.store)

    def add(self, name: str, **options: Any) -> None:
        self.raylets[name] = self.tell("add", name, options)["raylet"]

    def kill(self, name: str) -> None:
        del self.raylets[name]
        self.tell("kill", name)

    def restart(self, name: str, **options: Any) -> None:
        self.raylets = {name: self.tell("restart", name, options)["raylet"]}
        self.wait_until(self.answers)

    def restart_head(self) -> None:
        self.raylets["head"] = self.tell("restart_head", "head")["raylet"]
        self.wait_until(self.answers)

    def answers(self) -> bool:
        """Whether its head may be asked over HTTP: that part of it begins last."""
        try:
            urllib.request.urlopen(f"{self.url}/api/authentication_mode", timeout=20).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def begin(self, *arguments: str, token: str | None = TOKEN) -> subprocess.Popen[str]:
        environment = {**self.environment, **({"RAY_AUTH_TOKEN": token} if token else {"HOME": str(self.folder)})}
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def call(self, *arguments: str, token: str | None = TOKEN) -> tuple[int, str]:
        """Exit code of a command, and all that it said."""
        process = self.begin(*arguments, token=token)
        said = "".join(process.communicate(timeout=self.deadline_s))
        assert TOKEN not in said
        return process.returncode, said

    def submit(self, text: str, *arguments: str, **options: Any) -> tuple[int, str]:
        (self.folder / "w.yaml").write_text(text)
        return self.call("submit", "w.yaml", *arguments, **options)

    def detached(self, text: str, *arguments: str) -> str:
        """The id of a run that was submitted and left alone."""
        code, said = self.submit(text, "--address", self.url, "--detach", "--json", *arguments)
        assert code == 0, said
        return str(json.loads(said.splitlines()[-1])["run"])

    def jobs(self) -> list[dict[str, Any]]:
        request = urllib.request.Request(f"{self.url}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())
        return found

    def status(self, run: str) -> api.RunStatus:
        return api.status(run, workspace=self.workspace)

    def happened(self, run: str) -> list[str]:
        """The types of a run's events, in their order."""
        return [event["type"] for event in self.workspace.ledger.events(run)[0]]

    def holder(self, name: str) -> int:
        """The process that holds a lease; 0 where nobody does."""
        holder = Leases(self.workspace.store, run="test").holder(name)
        return holder.process_id if holder is not None else 0

    def machine_of(self, process_id: int) -> str:
        """The node on which a process runs: that of the raylet above it; "" where it has ended or is on none."""
        names = {raylet: name for name, raylet in self.raylets.items()}
        try:
            above = [process_id, *(parent.pid for parent in psutil.Process(process_id).parents())]
        except (psutil.NoSuchProcess, ValueError):
            return ""
        return next((names[each] for each in above if each in names), "")

    def wait_until(self, holds: Callable[[], Any]) -> None:
        until_s = time.monotonic() + self.deadline_s
        while not holds():
            assert time.monotonic() < until_s
            time.sleep(0.1)

    def has_saved(self, run: str, label: str) -> bool:
        """Whether a node that is being made in a folder store has saved a state."""
        place = Path(self.store) / "work" / "checkpoints" / self.status(run).nodes[label].key
        return any(path.name.isdigit() for path in place.glob("*"))

    def tell(self, action: str, name: str = "", options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Have the cluster's process do something (see there); what it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"action": action, "name": name, "options": options or {}}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise AssertionError("the cluster's process has ended")


def digests(workspace: api.Workspace, status: api.RunStatus) -> dict[str, str]:
    """Content digests of a run's nodes, by label."""
    found = {label: workspace.artifacts.find(node.stage, node.key) for label, node in status.nodes.items()}
    return {label: record.content_digest for label, record in found.items() if record is not None}
