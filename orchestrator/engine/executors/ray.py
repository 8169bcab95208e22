"""Runs nodes in stage-host actors on Ray: a pool keyed by what a host holds, reused because a process that has imported
torch is worth seconds. Retries are the scheduler's; a host that failed, or that Ray lost, is not used again.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.engine import cluster
from orchestrator.engine.admission import Amounts, request_amounts
from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.work import Ending, Outcome, Work
from orchestrator.errors import ClusterError
from orchestrator.store.base import Store
from orchestrator.workflow.spec import Resources

_NODE_LOSS = re.compile(r"its node has died|the actor's node was terminated")
HostKey = tuple[tuple[str, float], ...]


@dataclass
class _Host:
    actor: Any
    key: HostKey
    single_use: bool = False
    began_s: float = 0.0
    ticket: int = 0  # of its present attempt: a cancellation that comes late must not stop the next one
    kill_asked: bool = False


class RayExecutor:
    """A pool of stage hosts on a Ray of this machine's own."""

    name = "ray"
    max_at_once: int | None = None
    dashboard = ("", "")

    def __init__(
        self, store: Store, *, run: str, num_cpus: int | None = None, dashboard: bool = False, workflow: str = ""
    ) -> None:
        self._store_url = store.url
        self._run = run
        self._num_cpus = num_cpus or os.cpu_count() or 1
        self._wants_dashboard = dashboard
        self._metadata = {"orchestrator_run": run, "workflow": workflow, "store": store.url}
        self._metrics: Any = None
        self._ray: Any = None
        self._idle: list[_Host] = []
        self._busy: dict[Any, tuple[_Host, Work]] = {}
        self._numbers = itertools.count(1)
        self._tickets = itertools.count(1)
        self._total: Amounts = {}
        self._services: tuple[cluster.Service, ...] = ()

    def start(self) -> tuple[MachineShape, ...]:
        if self._ray is None:
            cluster.sweep_sessions()
            self._ray = cluster.start_local(num_cpus=self._num_cpus, dashboard=self._wants_dashboard, metadata=self._metadata)
            self.dashboard = cluster.dashboard(self._ray)
            self._services = cluster.services(self._ray)
        from orchestrator.engine.executors.ray_metrics import RunMetrics

        self._metrics = RunMetrics()
        shapes = []
        for node in self._ray.nodes():
            offers = node["Resources"]
            custom = {
                name: amount
                for name, amount in offers.items()
                if name not in ("CPU", "GPU", "memory", "object_store_memory")
                and not name.startswith(("node:", "accelerator_type:"))
            }
            shapes.append(
                MachineShape(
                    cpus=offers.get("CPU", 0),
                    gpus=offers.get("GPU", 0),
                    memory_bytes=int(offers.get("memory", 0)),
                    custom=custom,
                )
            )
        self._total = {}
        for shape in shapes:
            for name, amount in {"CPU": shape.cpus, "GPU": shape.gpus, "memory": shape.memory_bytes, **shape.custom}.items():
                self._total[name] = self._total.get(name, 0.0) + amount
        return tuple(shapes)

    def submit(self, work: Work, resources: Resources) -> None:
        host = self._host(resources)
        host.ticket = next(self._tickets)
        host.began_s = time.monotonic()
        reference = host.actor.run.options(name=f"{self._run}/{work.label}").remote(work.to_json(), host.ticket)
        self._busy[reference] = (host, work)

    def poll(self, timeout_s: float, *, meanwhile: Callable[[], None]) -> list[tuple[Work, Outcome]]:  # noqa: ARG002 - it blocks nobody
        references = list(self._busy)
        if not references:
            time.sleep(timeout_s)
            return []
        try:
            ready, _ = self._ray.wait(references, num_returns=1, timeout=timeout_s)
            if ready and len(references) > 1:
                ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        except Exception as error:
            raise _gone(error) from error
        if not ready:
            self._refuse_if_gone()
        return [self._collect(reference) for reference in ready]

    def show(self, count_states: Callable[[], Mapping[str, int]], *, is_final: bool = False) -> None:
        self._metrics.show(count_states, is_final=is_final)

    def cancel(self, label: str) -> None:
        for host, work in self._busy.values():
            if work.label == label:
                host.actor.cancel.remote(host.ticket)

    def kill(self, label: str) -> None:
        for host, work in self._busy.values():
            if work.label == label:
                host.kill_asked = True
                self._ray.kill(host.actor, no_restart=True)

    def close(self) -> None:
        self._idle.clear()
        self._busy.clear()
        if self._ray is not None:
            cluster.stop(self._ray)
            self._ray = None

    def _collect(self, reference: Any) -> tuple[Work, Outcome]:
        host, work = self._busy.pop(reference)
        work, outcome = self._outcome(reference, host, work)
        held = dict(host.key)
        self._metrics.attempt_ended(
            stage=work.stage, ending=outcome.ending.value, seconds=time.monotonic() - host.began_s,
            cpus=held.get("CPU", 0), gpus=held.get("GPU", 0),
        )  # fmt: skip
        return work, outcome

    def _outcome(self, reference: Any, host: _Host, work: Work) -> tuple[Work, Outcome]:
        try:
            outcome = Outcome.from_json(self._ray.get(reference))
        except self._ray.exceptions.OutOfMemoryError as error:
            return work, Outcome(ending=Ending.NO_MEMORY, error=_first_line(error), error_type="OutOfMemoryError")
        except self._ray.exceptions.RayError as error:
            if isinstance(error, self._ray.exceptions.RayTaskError):  # the host's own code raised: another attempt would, too
                return work, Outcome(
                    ending=Ending.FAILED, error=_first_line(error), error_type=type(error).__name__, trace=str(error)
                )
            self._refuse_if_gone(error)
            ending, why = host_loss(error, kill_asked=host.kill_asked)
            return work, Outcome(
                ending=ending, error=f"lost the stage host: {why}", error_type=type(error).__name__, trace=str(error)
            )
        if outcome.ending in (Ending.DONE, Ending.SHARED, Ending.BUSY, Ending.CANCELLED) and not host.single_use:
            self._idle.append(host)
        else:
            self._retire(host)
        return work, outcome

    def _retire(self, host: _Host) -> None:
        """End a host's process and free what it holds. A stage may have left threads behind, which a polite end waits for."""
        with suppress(Exception):
            self._ray.kill(host.actor, no_restart=True)

    def _refuse_if_gone(self, error: Exception | None = None) -> None:
        """A dead host on a dead cluster is not worth a retry: the run stops, and submitting again continues it."""
        dead = cluster.dead_service(self._services)
        if dead:
            raise _gone(RuntimeError(f"its process {dead} was killed or crashed")) from error
        if error is None:
            return
        try:
            alive = any(node["Alive"] for node in self._ray.nodes())
        except Exception as cause:  # noqa: BLE001 - whatever Ray raises here, it is gone
            raise _gone(cause) from error
        if not alive:
            raise _gone(error)

    def _host(self, resources: Resources) -> _Host:
        wanted = request_amounts(resources)
        key = tuple(sorted(wanted.items()))
        if not resources.fresh_process:
            for host in self._idle:
                if host.key == key:
                    self._idle.remove(host)
                    return host
        while self._idle and not self._fits(wanted):
            self._retire(self._idle.pop(0))
        return _Host(self._new_actor(wanted), key, single_use=resources.fresh_process)

    def _fits(self, wanted: Amounts) -> bool:
        held: Amounts = dict(wanted)
        for host in [*self._idle, *(host for host, _ in self._busy.values())]:
            for name, amount in host.key:
                held[name] = held.get(name, 0.0) + amount
        return all(amount <= self._total.get(name, 0.0) + 1e-9 for name, amount in held.items())

    def _new_actor(self, wanted: Amounts) -> Any:
        from orchestrator.engine.executors.ray_host import StageHost

        custom = {name: amount for name, amount in wanted.items() if name not in ("CPU", "GPU", "memory")}
        return (
            self._ray.remote(concurrency_groups={"control": 1}, max_restarts=0, max_task_retries=0)(StageHost)
            .options(
                name=f"{self._run}/host-{next(self._numbers)}",
                num_cpus=wanted.get("CPU", 0),
                num_gpus=wanted.get("GPU", 0),
                memory=wanted.get("memory"),
                resources=custom or None,
            )
            .remote(self._store_url, self._run)
        )


def host_loss(error: Exception, *, kill_asked: bool) -> tuple[Ending, str]:
    """How an attempt ended whose host did not answer any more, and in words why; Ray tells of its node in words only."""
    if kill_asked:
        return Ending.LOST, "it was stopped"
    if getattr(error, "preempted", False):
        return Ending.PREEMPTED, "its machine was taken away"
    if _NODE_LOSS.search(str(error)):
        return Ending.LOST_NODE, "its machine died or left"
    return Ending.LOST, "its process died (killed, crashed or out of memory)"


def _gone(error: Exception) -> ClusterError:
    return ClusterError(
        f"Ray on this machine has died: {_first_line(error)}", next_step="submit the same file again: it continues"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
