"""A Ray of the run's own: a private cluster on this machine that lives as long as the run. `attached` uses one of others."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ClusterError
from orchestrator.store.processes import host_identity, process_is_alive, process_started

NAMESPACE = "orchestrator"
_MAX_PASSES = 40
_SESSION_VARIABLE = "ORCHESTRATOR_RAY_SESSION"
OBJECT_STORE_BYTES = 256 * 2**20  # messages are small JSON; artifacts never pass through the object store


def choose_own_token() -> None:
    """Before Ray is imported, for whatever: it reads the mode once, then. The token is this process's own; no file holds it."""
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def start_local(*, num_cpus: int, dashboard: bool = False, metadata: Mapping[str, str] | None = None) -> Any:
    """Start Ray on this machine and return the module. Raises ClusterError with the reason.

    `dashboard` takes some seconds and about 1 GB of memory more; `metadata` is shown with the job there.

    `address="local"` never attaches to a cluster that happens to run here. The authentication mode is read once, when ray
    is imported, so the variables are set before. Everything is kept below a short folder of our own (paths of Unix sockets
    are limited to 107 bytes), which `stop` removes.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a stage that asks for no GPU sees none
    choose_own_token()
    if "RAY_AUTH_MODE" not in os.environ:
        raise ClusterError(
            "ray was imported by this process before it had chosen how to authenticate, and cannot change that any more",
            next_step="import orchestrator.engine.cluster and call choose_own_token() first; or set RAY_AUTH_MODE before",
        )
    folder = _session_folder()
    os.environ[_SESSION_VARIABLE] = str(folder)  # for the processes that Ray begins now, and for no later child of ours
    try:
        import ray

        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            job_config=ray.job_config.JobConfig(metadata=dict(metadata or {})),
            namespace=NAMESPACE,
            logging_level="ERROR",
            log_to_driver=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
        )
    except Exception as error:  # Ray raises whatever its parts raise
        _end_session(folder)
        raise ClusterError(
            f"Ray did not start on this machine: {type(error).__name__}: {error}",
            next_step="orchestrator doctor; or run without Ray: --executor inline",
        ) from error
    finally:
        del os.environ[_SESSION_VARIABLE]
    _keep_stdout_clean(ray)
    return ray


def dashboard(ray: Any) -> tuple[str, str]:
    """Address of the dashboard of a Ray that `start_local` began, "" without one; and the file with the token it asks for."""
    address = getattr(getattr(getattr(ray, "_private", None), "worker", None), "get_dashboard_url", str)()
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not address or os.environ.get("RAY_AUTH_MODE") != "token" or not token:
        return (f"http://{address}" if address else ""), ""
    file = _session_folder() / "dashboard-token"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(token)
    return f"http://{address}", str(file)


@dataclass(frozen=True)
class Service:
    """One of the processes that Ray on this machine cannot do without."""

    name: str
    process_id: int
    started: str


def services(ray: Any) -> tuple[Service, ...]:
    """The scheduler and the control store of the Ray that `start_local` began; empty where Ray no longer tells."""
    return tuple(
        Service(name, process_id, process_started(process_id))
        for name, process_id in _own_processes(ray)
        if name in ("raylet", "gcs_server")
    )


def _own_processes(ray: Any) -> list[tuple[str, int]]:
    """Name and number of each process that `ray.init` has begun itself."""
    node = getattr(getattr(getattr(ray, "_private", None), "worker", None), "_global_node", None)
    processes = getattr(node, "all_processes", None) or {}
    return [(name, info.process.pid) for name, infos in processes.items() for info in infos]


def _keep_stdout_clean(ray: Any) -> None:
    """Ray prints the end of its scheduler's log to our standard output when that dies, whatever `log_to_driver` says."""
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_args, **_kwargs: None


def dead_service(watched: Iterable[Service]) -> str:
    """Name of one that has died, else "". Ray itself takes a quarter of a minute to notice, or never does."""
    return next((service.name for service in watched if not process_is_alive(service.process_id, service.started)), "")


def stop(ray: Any) -> None:
    """Stop this run's Ray and remove its files."""
    with suppress(Exception):
        ray.shutdown()
    _end_session(_session_folder())


def sweep_sessions() -> None:
    """End what is left of runs that were killed, and remove their files; Ray itself never deletes its session folders."""
    prefix = f"orc{_host_tag()}-"
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        process = folder.name.removeprefix(prefix)
        if process.isdigit() and not process_is_alive(int(process)):
            _end_session(folder)


def _end_session(folder: Path) -> None:
    """End all processes of a session and remove its files.

    Two of Ray's agents outlive a killed driver or control store by a minute and more, orphaned and renamed: only the variable
    that they were started with tells whose they are.
    """
    for _ in range(_MAX_PASSES):  # what dies may have begun another process since the look
        if not _kill_all(folder):
            break
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def _kill_all(folder: Path) -> int:
    num_killed = 0
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if _belongs_to(place, folder):
                os.kill(int(place.name), signal.SIGKILL)
                num_killed += 1
    return num_killed


def _belongs_to(process: Path, folder: Path) -> bool:
    """Whether it was started with the session's variable; or, since a Ray process that renames itself overwrites its first
    variables, is one that has a file of the session open.
    """
    if f"{_SESSION_VARIABLE}={folder}\0".encode() in (process / "environ").read_bytes():
        return True
    if not (process / "comm").read_bytes().startswith(b"ray::"):
        return False
    return any(str(descriptor.readlink()).startswith(f"{folder}/") for descriptor in (process / "fd").iterdir())


def _session_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"orc{_host_tag()}-{os.getpid()}"


def _host_tag() -> str:
    return host_identity()[-6:]
