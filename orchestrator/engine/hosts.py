"""Whether the machines of a cluster can all read the store that this process reads."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from orchestrator.errors import ClusterError


def refuse_private_store(store_url: str, hosts: Iterable[str], *, is_shared: bool) -> None:
    """Raises ClusterError where the store is a folder of this machine and the cluster has others. `hosts`: their host names."""
    if is_shared or "://" in store_url.removeprefix("file://"):
        return
    others = sorted(set(hosts) - {socket.gethostname()})
    if others:
        named = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise ClusterError(
            f"the store {store_url.removeprefix('file://')} is a folder of {socket.gethostname()}, and the cluster has other "
            f"machines ({named}), which would each begin an empty one",
            next_step="use a bucket (--store s3://bucket/prefix), or a folder that all of them mount at this path, "
            "with --store-is-shared",
        )
