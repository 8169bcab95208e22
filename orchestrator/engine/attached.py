"""A Ray that is not ours: it is attached to and left, never started and never stopped."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.engine.cluster import NAMESPACE
from orchestrator.engine.code_package import code_package
from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.ray_token import HOW, choose_mode, find_token
from orchestrator.errors import ClusterError

CONNECT_S = 10.0

MAX_EXPECTED = 64
"""So many machines of one kind are counted with where an autoscaler may start any number."""


def attach(address: str, *, metadata: Mapping[str, str], ships_code: bool) -> Any:
    """Attach to the Ray at `address` ("auto", host:port) and return the module. Raises ClusterError with the reason.

    `ships_code` sends our packages along, so that every machine runs the code that this process runs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    choose_mode(os.environ)
    try:
        import ray

        _refuse_deaf(ray, address)
        with tempfile.TemporaryDirectory(prefix="orchestrator-") as folder:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                job_config=ray.job_config.JobConfig(metadata=dict(metadata)),
                runtime_env={"working_dir": _packed(Path(folder))} if ships_code else None,
                logging_level="ERROR",
                log_to_driver=False,
            )
    except Exception as error:  # Ray raises whatever its parts raise
        raise ClusterError(
            f"cannot use the Ray at {address}: {_reason(error)}", next_step=_next_step(error, address)
        ) from error
    return ray


def detach(ray: Any) -> None:
    """Leave the Ray to whoever it belongs to; actors of this process end with it."""
    with suppress(Exception):
        ray.shutdown()


def host_names(ray: Any) -> list[str]:
    """Of the machines that are there now."""
    return [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]


def machines(ray: Any) -> tuple[MachineShape, ...]:
    """The machines that are there now, by name, and those that an autoscaler may start."""
    alive = [_shape(node["NodeID"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return tuple(sorted(alive, key=lambda shape: shape.name)) + _expected(ray, len(alive))


def _shape(name: str, offers: Mapping[str, float]) -> MachineShape:
    custom = {
        resource: amount
        for resource, amount in offers.items()
        if resource not in ("CPU", "GPU", "memory", "object_store_memory")
        and not resource.startswith(("node:", "accelerator_type:"))
    }
    return MachineShape(
        name=name,
        cpus=offers.get("CPU", 0),
        gpus=offers.get("GPU", 0),
        memory_bytes=int(offers.get("memory", 0)),
        custom=custom,
    )


def _expected(ray: Any, num_alive: int) -> tuple[MachineShape, ...]:
    """Machines that an autoscaler would add for whoever waits: it is told of them by requests that find no room yet.

    Which kind the present ones are of is not known here: of each kind the rest of its greatest number is expected.
    """
    found = None
    with suppress(Exception):  # not a part of Ray's public interface
        found = ray._private.state.state.get_cluster_config()  # noqa: SLF001
    shapes = []
    for group in getattr(found, "node_group_configs", ()):
        most = MAX_EXPECTED if group.max_count < 0 else min(group.max_count, MAX_EXPECTED)
        count = max(1, most - num_alive) if most else 0
        offers = dict(group.resources)
        shapes += [replace(_shape(f"{group.name}-{number}", offers), is_expected=True) for number in range(count)]
    return tuple(shapes)


def _refuse_deaf(ray: Any, address: str) -> None:
    """Raises ConnectionError where nothing listens, or our token is not heard: Ray tries for up to a quarter of an hour."""
    with suppress(Exception):  # not a part of Ray's public interface: where "auto" leads
        address = ray._private.services.canonicalize_bootstrap_address(address) or address  # noqa: SLF001
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            raise ConnectionError(f"nothing answers at {address}: {error.strerror or error}") from error
        try:
            ray._raylet.GcsClient(address=address)  # noqa: SLF001
        except ray.exceptions.AuthenticationError as error:
            has_token = find_token() and os.environ.get("RAY_AUTH_MODE") == "token"
            why = "does not accept the token that is here" if has_token else "asks for a token, and none is used here"
            raise ConnectionError(f"it {why}") from error
        except Exception:  # noqa: BLE001 - Ray's own tries tell what else there is
            return


def _packed(folder: Path) -> str:
    package = code_package()
    file = folder / package.name
    file.write_bytes(package.data)
    return str(file)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Version mismatch" in str(error):
        return " ".join(lines[:3])
    return lines[0] if lines else type(error).__name__


def _next_step(error: Exception, address: str) -> str:
    text = str(error)
    if "Version mismatch" in text:
        version = ".".join(map(str, sys.version_info[:3]))
        return f"the cluster must have the Ray and the Python of this process ({version}); or submit a job: --address http://HEAD:8265"
    if "oken" in text:
        return HOW
    if address == "auto":
        return "start Ray on this machine (ray start --head), or name its address: --address HOST:6379"
    return "look whether its head runs; from another machine submit a job: --address http://HEAD:8265"
