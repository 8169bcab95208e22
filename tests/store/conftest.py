"""Stores of every kind: a folder, and a prefix of its own on each S3 server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import BUCKET, NAMES, Server, environment, opened_store, started

from orchestrator.store.base import Store
from orchestrator.store.s3_client import S3Client


@pytest.fixture(params=NAMES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server, with the environment that leads to it and a cache of this test alone."""
    found = started(request.param)
    with environment({**found.variables, "ORCHESTRATOR_CACHE": str(tmp_path / "cache")}):
        yield found


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[Server]:
    """The server that is always there."""
    found = started("moto")
    with environment({**found.variables, "ORCHESTRATOR_CACHE": str(tmp_path / "cache")}):
        yield found


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of all requests that are sent from here on; threads that earlier tests left may write meanwhile."""
    sent = []
    call = S3Client.call

    def counted(self, operation, path="", **arguments):
        if threading.current_thread().name not in ("lease-beat", "s3-logs", "checkpoints"):
            sent.append(operation)
        return call(self, operation, path, **arguments)

    monkeypatch.setattr(S3Client, "call", counted)
    return sent


@pytest.fixture
def place() -> str:
    """The address of a store that nobody has used."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", *NAMES])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of every kind."""
    with opened_store(request.param, tmp_path) as found:
        yield found
