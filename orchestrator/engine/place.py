"""On which Ray a run is to go: one of its own on this machine, or one that is there already."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RayPlace:
    """`address` is "" for a Ray of the run's own, else what `ray.init` takes: "auto", or host:port of the head.

    `num_cpus` and `dashboard` are about the run's own Ray. `store_is_shared` says that a folder store is mounted at the same
    path on every machine. `ships_code` sends our packages to the machines, which a job's own environment has done already.
    """

    address: str = ""
    num_cpus: int | None = None
    dashboard: bool = False
    store_is_shared: bool = False
    ships_code: bool = True
