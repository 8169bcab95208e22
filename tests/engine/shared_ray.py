"""One Ray for the runs of a whole module: to start one takes longer than most of what is tested on it."""

from __future__ import annotations

from typing import Any

from orchestrator.engine import cluster
from orchestrator.engine.executors.ray import RayExecutor
from orchestrator.store.base import Store


class SharedRay(RayExecutor):
    """An executor on a Ray that outlives it; it takes only its own hosts away."""

    def __init__(self, store: Store, run: str, ray: Any) -> None:
        super().__init__(store, run=run)
        self._ray = ray
        self._services = cluster.services(ray)
        self.num_hosts = 0

    def _new_actor(self, wanted: Any) -> Any:
        self.num_hosts += 1
        return super()._new_actor(wanted)

    def close(self) -> None:
        for host in self._hosts():
            self._retire(host)
        self._idle.clear()
        self._busy.clear()
