"""Runs nodes in stage-host actors on Ray: a pool keyed by what a host holds, reused because a process that has imported
torch is worth seconds. Retries are the scheduler's; a host that failed, or that Ray lost, is not used again.

The Ray is this run's own, on this machine; or another's, whose machines come and go, and which others use beside us.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from orchestrator.engine import attached, cluster
from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.floor import Amounts, request_amounts, shape_amounts
from orchestrator.engine.gpu_memory import local_gpu_memory_bytes
from orchestrator.engine.hosts import refuse_private_store
from orchestrator.engine.place import RayPlace
from orchestrator.engine.work import Ending, Outcome, Work
from orchestrator.errors import ClusterError
from orchestrator.store.base import Store
from orchestrator.workflow.spec import Resources

_NODE_LOSS = re.compile(r"its node has died|the actor's node was terminated")

READ_EVERY_S = 1.0
"""How often it is asked which machines a Ray of others has."""

MAX_IDLE_S = 20.0
"""What an idle host holds, others on the same Ray may be waiting for."""

PATIENCE_S = 2.0
"""A host that has found no machine for so long waits for what idle ones hold, or for others, or for a new machine."""

HostKey = tuple[tuple[str, float], ...]


@dataclass
class _Host:
    actor: Any
    key: HostKey
    single_use: bool = False
    began_s: float = 0.0
    ticket: int = 0  # of its present attempt: a cancellation that comes late must not stop the next one
    kill_asked: bool = False
    group: Any = None  # tells the placement group of several workers, once they have begun
    idle_since_s: float = 0.0
    placed: Any = None  # tells on which machine it is, once it is on one; asked on a Ray of others only
    machine: str = ""


class RayExecutor:
    """A pool of stage hosts."""

    name = "ray"
    max_at_once: int | None = None
    dashboard = ("", "")

    def __init__(self, store: Store, *, run: str, place: RayPlace | None = None, workflow: str = "") -> None:
        self._store_url = store.url
        self._run = run
        self._place = place or RayPlace()
        self._metadata = {"orchestrator_run": run, "workflow": workflow, "store": store.url}
        self._metrics: Any = None
        self._ray: Any = None
        self._idle: list[_Host] = []
        self._busy: dict[Any, tuple[_Host, Work]] = {}
        self._numbers = itertools.count(1)
        self._tickets = itertools.count(1)
        self._machines: tuple[MachineShape, ...] = ()
        self._read_due_s = 0.0
        self._services: tuple[cluster.Service, ...] = ()

    def start(self) -> tuple[MachineShape, ...]:
        place = self._place
        if self._ray is None and place.address:
            self._ray = attached.attach(place.address, metadata=self._metadata, ships_code=place.ships_code)
        elif self._ray is None:
            cluster.sweep_sessions()
            num_cpus = place.num_cpus or os.cpu_count() or 1
            self._ray = cluster.start_local(num_cpus=num_cpus, dashboard=place.dashboard, metadata=self._metadata)
            self.dashboard = cluster.dashboard(self._ray)
            self._services = cluster.services(self._ray)
        from orchestrator.engine.executors.ray_metrics import RunMetrics

        self._metrics = RunMetrics()
        self._read_machines()
        return self._machines

    def machines(self) -> tuple[MachineShape, ...]:
        now_s = time.monotonic()
        if self._place.address and now_s >= self._read_due_s:
            self._read_due_s = now_s + READ_EVERY_S
            self._read_machines()
            self._mind_hosts(now_s)
        return self._machines

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
        for host, _ in self._busy.values():
            if host.kill_asked and host.group is not None:
                self._kill(host)
        try:
            ready, _ = self._ray.wait(references, num_returns=1, timeout=timeout_s)
            if ready and len(references) > 1:
                ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        except Exception as error:
            raise self._gone(error) from error
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
                self._kill(host)

    def _kill(self, host: _Host) -> None:
        """End a host's process. Several workers that are only being started live on until it is known what they hold."""
        if host.group is not None and not self._ray.wait([host.group], timeout=0)[0]:
            return  # `poll` tries again
        self._ray.kill(host.actor, no_restart=True)
        self._free_group(host)

    def _free_group(self, host: _Host) -> None:
        """Give back what several workers held whose host is gone."""
        if host.group is not None and self._ray.wait([host.group], timeout=0)[0]:
            with suppress(Exception):  # the host may have died before it knew
                self._ray.util.remove_placement_group(self._ray.get(host.group))

    def close(self) -> None:
        hosts = self._hosts()
        self._idle.clear()
        self._busy.clear()
        if self._ray is None:
            return
        if self._place.address:
            for host in hosts:
                self._retire(host)
            attached.detach(self._ray)
        else:
            cluster.stop(self._ray)
        self._ray = None

    def _hosts(self) -> list[_Host]:
        return [*self._idle, *(host for host, _ in self._busy.values())]

    def _read_machines(self) -> None:
        try:
            found = attached.machines(self._ray)
            if self._place.address and found != self._machines:
                hosts = attached.host_names(self._ray)
                refuse_private_store(self._store_url, hosts, is_shared=self._place.store_is_shared)
        except ClusterError:
            raise
        except Exception as error:
            raise self._gone(error) from error
        if not self._place.address and any(shape.gpus for shape in found):
            found = tuple(replace(shape, gpu_memory_bytes=local_gpu_memory_bytes()) for shape in found)
        self._machines = found

    def _mind_hosts(self, now_s: float) -> None:
        """Give up idle hosts that stand in the way: of others who use this Ray, or of a host of ours that finds no machine."""
        waiting = 0
        for host in self._hosts():
            if not host.machine and self._ray.wait([host.placed], timeout=0)[0]:
                with suppress(Exception):  # its end is told where its work is collected
                    host.machine = self._ray.get(host.placed)
            waiting += not host.machine and now_s - host.began_s > PATIENCE_S
        there = {shape.name for shape in self._machines}
        for host in list(self._idle):
            if host.machine not in there or waiting or now_s - host.idle_since_s > MAX_IDLE_S:
                self._idle.remove(host)
                self._retire(host)
                waiting = max(0, waiting - 1)

    def _collect(self, reference: Any) -> tuple[Work, Outcome]:
        host, work = self._busy.pop(reference)
        outcome = self._outcome(reference, host)
        held = dict(host.key)
        self._metrics.attempt_ended(
            stage=work.stage, ending=outcome.ending.value, seconds=time.monotonic() - host.began_s,
            cpus=held.get("CPU", 0), gpus=held.get("GPU", 0),
        )  # fmt: skip
        return work, outcome

    def _outcome(self, reference: Any, host: _Host) -> Outcome:
        try:
            outcome = Outcome.from_json(self._ray.get(reference))
        except self._ray.exceptions.OutOfMemoryError as error:
            return Outcome(ending=Ending.NO_MEMORY, error=_first_line(error), error_type="OutOfMemoryError")
        except self._ray.exceptions.RayError as error:
            if isinstance(error, self._ray.exceptions.RayTaskError):  # the host's own code raised: another attempt would, too
                cause = error.cause if isinstance(error.cause, Exception) else error
                return Outcome(
                    ending=Ending.FAILED, error=_first_line(cause), error_type=type(cause).__name__, trace=str(error)
                )
            self._refuse_if_gone(error)
            self._free_group(host)
            ending, why = host_loss(error, kill_asked=host.kill_asked)
            return Outcome(
                ending=ending, error=f"lost the stage host: {why}", error_type=type(error).__name__, trace=str(error)
            )
        if outcome.ending in (Ending.DONE, Ending.SHARED, Ending.BUSY, Ending.CANCELLED) and not host.single_use:
            host.idle_since_s = time.monotonic()
            self._idle.append(host)
        else:
            self._retire(host)
        return outcome

    def _retire(self, host: _Host) -> None:
        """End a host's process and free what it holds. A stage may have left threads behind, which a polite end waits for."""
        with suppress(Exception):
            self._ray.kill(host.actor, no_restart=True)

    def _refuse_if_gone(self, error: Exception | None = None) -> None:
        """A dead host on a dead cluster is not worth a retry: the run stops, and submitting again continues it."""
        dead = cluster.dead_service(self._services)
        if dead:
            raise self._gone(RuntimeError(f"its process {dead} was killed or crashed")) from error
        if error is None:
            return
        try:
            alive = any(node["Alive"] for node in self._ray.nodes())
        except Exception as cause:  # noqa: BLE001 - whatever Ray raises here, it is gone
            raise self._gone(cause) from error
        if not alive:
            raise self._gone(error)

    def _host(self, resources: Resources) -> _Host:
        wanted = request_amounts(resources)
        if resources.workers > 1:
            return self._gang(wanted, resources.workers)
        key = tuple(sorted(wanted.items()))
        if not resources.fresh_process:
            for host in self._idle:
                if host.key == key:
                    self._idle.remove(host)
                    return host
        while self._idle and not self._fits(wanted):
            self._retire(self._idle.pop(0))
        actor = self._new_actor(wanted)
        placed = actor.machine.remote() if self._place.address else None
        return _Host(actor, key, single_use=resources.fresh_process, placed=placed)

    def _gang(self, wanted: Amounts, workers: int) -> _Host:
        """Several workers at once: they need room on particular machines, so no idle host may stand in their way."""
        for host in self._idle:
            self._retire(host)
        self._idle.clear()
        from orchestrator.engine.executors.ray_train import GangHost

        actor = self._begin(self._actor_class(GangHost), {}, self._store_url, self._run, workers, wanted)
        key = tuple(sorted((name, amount * workers) for name, amount in wanted.items()))
        return _Host(
            actor,
            key,
            single_use=True,
            group=actor.group.remote(),
            placed=actor.machine.remote() if self._place.address else None,
        )

    def _fits(self, wanted: Amounts) -> bool:
        """Whether all machines together have room beside the hosts that there are; on one machine that decides it."""
        held: Amounts = dict(wanted)
        for host in self._hosts():
            for name, amount in host.key:
                held[name] = held.get(name, 0.0) + amount
        total: Amounts = {}
        for shape in self._machines:
            if shape.is_expected:
                continue
            for name, amount in shape_amounts(shape).items():
                total[name] = total.get(name, 0.0) + amount
        return all(amount <= total.get(name, 0.0) + 1e-9 for name, amount in held.items())

    @cached_property
    def _host_class(self) -> Any:
        """Made once: Ray pickles and sends each class that it is given, the same one, too."""
        from orchestrator.engine.executors.ray_host import StageHost

        return self._actor_class(StageHost)

    def _actor_class(self, kind: type) -> Any:
        return self._ray.remote(concurrency_groups={"control": 1, "waiting": 1}, max_restarts=0, max_task_retries=0)(kind)

    def _new_actor(self, wanted: Amounts) -> Any:
        return self._begin(self._host_class, wanted, self._store_url, self._run)

    def _begin(self, kind: Any, wanted: Amounts, *arguments: Any) -> Any:
        custom = {name: amount for name, amount in wanted.items() if name not in ("CPU", "GPU", "memory")}
        return kind.options(
            name=f"{self._run}/host-{next(self._numbers)}",
            num_cpus=wanted.get("CPU", 0),
            num_gpus=wanted.get("GPU", 0),
            memory=wanted.get("memory"),
            resources=custom or None,
        ).remote(*arguments)

    def _gone(self, error: Exception) -> ClusterError:
        which = f"the Ray at {self._place.address}" if self._place.address else "Ray on this machine"
        return ClusterError(f"{which} has died: {_first_line(error)}", next_step="submit the same file again: it continues")


def host_loss(error: Exception, *, kill_asked: bool) -> tuple[Ending, str]:
    """How an attempt ended whose host did not answer any more, and in words why; Ray tells of its node in words only."""
    if kill_asked:
        return Ending.LOST, "it was stopped"
    if getattr(error, "preempted", False):
        return Ending.PREEMPTED, "its machine was taken away"
    if _NODE_LOSS.search(str(error)):
        return Ending.LOST_NODE, "its machine died or left"
    return Ending.LOST, "its process died (killed, crashed or out of memory)"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
