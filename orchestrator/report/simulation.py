"""A plan driven over machines that are only described: the real scheduler in virtual time, with what stages took before.

Trials of sweeps are foreseen (see `foreseen`), none is stopped early, and the first stands for the best. What has no record
must be given. Needs neither ray nor torch; writes nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.engine.executors.base import UNBOUNDED_BYTES, MachineShape
from orchestrator.engine.executors.simulated import Outage, SimulatedCluster, random_attempts, random_outages
from orchestrator.engine.gpu_memory import GpuPeak
from orchestrator.engine.meter import hours_of
from orchestrator.engine.run_options import RunOptions
from orchestrator.engine.scheduler import Scheduler
from orchestrator.engine.units import Origin, Unit
from orchestrator.engine.work import Ending, Work
from orchestrator.errors import UsageError
from orchestrator.report.foreseen import Foreseen, foresee
from orchestrator.report.foreseen_searches import ForeseenSearches, sweeps_before, waits_for_sweep
from orchestrator.store.artifacts import Artifacts
from orchestrator.workflow.budget import NOTHING, Hours
from orchestrator.workflow.cluster_spec import ClusterSpec
from orchestrator.workflow.estimate import Estimator
from orchestrator.workflow.plan import Plan, PlanNode, Status

MAX_FOR_RANGE = 20_000
"""Plans with more nodes are driven once, with what is typical, and not with the shortest and longest times too."""

TICK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """How a plan went on a cluster on paper. Seconds are virtual.

    Attributes:
        makespan_s: from the first start to the last end; `shortest_s`, `longest_s`: with the range of the records.
        used: hours that attempts held; `lost` those of attempts that came to nothing; `offered` what was there meanwhile.
        by_hits, by_sharing: hours that were not spent.
        busy: by resource, the share of what is there that was held.
        path: labels of the longest chain of what ran, and `path_s` what it takes on machines without end.
        usd: price of the machines for that time; None where none has a price.
        given, num_records: names whose seconds the file gave, and on how many attempts the others rest.
        trials: foreseen ones by sweep.
    """

    state: str
    makespan_s: float
    shortest_s: float
    longest_s: float
    used: Hours
    lost: Hours
    offered: Hours
    by_hits: Hours
    by_sharing: Hours
    busy: Mapping[str, float]
    path: tuple[str, ...]
    path_s: float
    num_nodes: int
    num_attempts: int
    num_failed_attempts: int
    num_machines: int
    usd: float | None
    given: tuple[str, ...]
    num_records: int
    trials: Mapping[str, int] = field(default_factory=dict)
    unforeseen: tuple[str, ...] = ()

    @property
    def bottleneck(self) -> str:
        """What holds the run up: "path", or the name of the resource that is busiest."""
        busiest = max(self.busy, key=lambda name: self.busy[name], default="")
        waits_for_itself = self.path_s >= 0.8 * self.makespan_s and self.busy.get(busiest, 0.0) < 0.9
        return "path" if waits_for_itself or not busiest else busiest


def simulate(plan: Plan, cluster: ClusterSpec, artifacts: Artifacts) -> Simulation:
    """Drive the plan to its end in virtual time.

    UsageError where a node has neither a record nor given seconds; PlanError where one fits no machine.
    """
    foreseen = foresee(plan, artifacts, seed=cluster.seed)
    nodes = {**foreseen.plan.nodes}
    for drawn in foreseen.trials.values():
        for trial in drawn:
            nodes |= trial
    durations = _Durations(nodes, cluster, artifacts)
    typical = _Drive(foreseen, cluster, durations, which=1)
    ranges = [typical.makespan_s]
    if durations.has_range and len(nodes) <= MAX_FOR_RANGE:
        ranges += [_Drive(foreseen, cluster, durations, which=which).makespan_s for which in (0, 2)]
    path, path_s = typical.critical_path()
    hours = typical.makespan_s / 3600
    prices = [kind.usd_per_hour * kind.count for kind in cluster.nodes if kind.usd_per_hour is not None]
    by_hits, by_sharing = typical.avoided()
    attempts = [each for each in typical.world.executions if each.worker == 0]
    return Simulation(
        state=typical.state.value,
        makespan_s=typical.makespan_s,
        shortest_s=min(ranges),
        longest_s=max(ranges),
        used=typical.used(lambda _ending: True),
        lost=typical.used(lambda ending: ending not in (Ending.DONE, Ending.SHARED)),
        offered=Hours(
            sum(kind.gpus * kind.count for kind in cluster.nodes) * hours,
            sum(kind.cpus * kind.count for kind in cluster.nodes) * hours,
        ),
        by_hits=by_hits,
        by_sharing=by_sharing,
        busy=typical.busy(),
        path=path,
        path_s=path_s,
        num_nodes=len(typical.scheduler.units),
        num_attempts=len(attempts),
        num_failed_attempts=sum(each.ending not in (Ending.DONE, Ending.SHARED) for each in attempts),
        num_machines=sum(kind.count for kind in cluster.nodes),
        usd=sum(prices) * hours if prices else None,
        given=tuple(cluster.seconds),
        num_records=durations.num_records,
        trials={name: len(drawn) for name, drawn in foreseen.trials.items()},
        unforeseen=tuple(name for name in foreseen.plan.later if name not in foreseen.sweeps),
    )


class _Durations:
    """Seconds of every key: given by name, else as recorded (shortest, typical, longest)."""

    def __init__(self, nodes: Mapping[str, PlanNode], cluster: ClusterSpec, artifacts: Artifacts) -> None:
        self.estimator = Estimator(artifacts.store, nodes)
        self._by_key: dict[str, tuple[float, float, float]] = {}
        unknown: dict[str, None] = {}
        records: dict[object, int] = {}
        for node in nodes.values():
            if node.key in self._by_key or node.status in (Status.HIT, Status.SKIP):
                continue
            given_s = cluster.seconds.get(node.node)
            found = self.estimator.estimate(node) if given_s is None else None
            if given_s is not None:
                self._by_key[node.key] = (given_s, given_s, given_s)
            elif found is not None:
                self._by_key[node.key] = (found.low_s, found.typical_s, found.high_s)
                records[(node.spec.name, found.low_s, found.high_s)] = found.num_records
            else:
                unknown[node.node] = None
        self.num_records = sum(records.values())
        _refuse_unknown(unknown, nodes, cluster)
        self._overhead_s = cluster.overhead

    @property
    def has_range(self) -> bool:
        """Whether the shortest and the longest seconds of any node differ."""
        return any(low_s != high_s for low_s, _, high_s in self._by_key.values())

    def of(self, key: str, which: int) -> float:
        """Seconds of a node: 0 the shortest, 1 typical, 2 the longest; what was a hit and must be made again takes none."""
        return self._by_key.get(key, (0.0, 0.0, 0.0))[which] + self._overhead_s


def _refuse_unknown(unknown: Mapping[str, None], nodes: Mapping[str, PlanNode], cluster: ClusterSpec) -> None:
    legal = {node.node for node in nodes.values()}
    strange = [name for name in cluster.seconds if name not in legal]
    if strange:
        names = ", ".join(dict.fromkeys(node.node for node in nodes.values()))
        raise UsageError(
            f'"seconds" of the cluster file names {", ".join(strange)}, which the workflow has not; it has {names}',
            next_step=f"seconds: {{{next(iter(nodes.values())).node}: 10m}}" if nodes else "remove it",
        )
    if unknown:
        given = ", ".join(f"{name}: 10m" for name in list(unknown)[:3])
        raise UsageError(
            f"no record yet of how long {', '.join(unknown)} takes, and the cluster file does not say",
            next_step=f"in the cluster file: seconds: {{{given}}}",
        )


class _Drive:
    """One run in virtual time, and what can be read off it."""

    def __init__(self, foreseen: Foreseen, cluster: ClusterSpec, durations: _Durations, *, which: int) -> None:
        self._seconds: Callable[[str], float] = lambda key: durations.of(key, which)
        self._estimator = durations.estimator
        self._foreseen = foreseen
        shapes = _shapes(cluster)
        self.world = SimulatedCluster(
            random_attempts(self._of_work, failure_rate=cluster.failure_rate, seed=cluster.seed),
            shapes=shapes,
            outages=_outages(cluster, shapes),
            resumes=True,
        )
        nodes = [node for node in foreseen.plan.nodes.values() if not waits_for_sweep(node, foreseen)]
        for node in foreseen.plan.nodes.values():
            if node.status is Status.HIT and node.record is not None:
                self.world.done[node.key] = node.record
        self.scheduler = Scheduler(
            Plan(foreseen.plan.checked, {node.label: node for node in nodes}),
            run="simulated",
            executor=self.world,
            shapes=self.world.start(),
            artifacts=self.world,
            leases=self.world,
            clock=self.world,
            emit=lambda _events: None,
            options=RunOptions(keep_going=True, tick_s=TICK_S),
            guide=ForeseenSearches(foreseen, self.world),
            gpu_need=self._gpu_need,
        )
        self.state = self.scheduler.drive()
        self.makespan_s = max((execution.ended_s for execution in self.world.executions), default=0.0)
        self._shapes = shapes

    def _of_work(self, work: Work) -> float:
        return self._seconds(work.key)

    def _gpu_need(self, unit: Unit, _units: Mapping[str, Unit]) -> GpuPeak | None:
        seen = self._estimator.gpu_peak(unit.node)
        return GpuPeak(seen.peak_bytes, seen.gpu_bytes) if seen is not None else None

    def used(self, counts: Callable[[Ending], bool]) -> Hours:
        """Hours held by attempts that ended in such a way."""
        spent = NOTHING
        for each in self.world.executions:
            if counts(each.ending):
                hours = (each.ended_s - each.began_s) / 3600
                spent += Hours(each.amounts.get("GPU", 0.0) * hours, each.amounts.get("CPU", 0.0) * hours)
        return spent

    def busy(self) -> dict[str, float]:
        """By resource that anything asked for, the share that was held."""
        totals: dict[str, float] = {}
        for shape in self._shapes:
            for name, amount in (
                ("CPU", shape.cpus),
                ("GPU", shape.gpus),
                ("memory", shape.memory_bytes),
                *shape.custom.items(),
            ):
                totals[name] = totals.get(name, 0.0) + amount
        return {
            name: held_s / (totals[name] * self.makespan_s)
            for name, held_s in self.world.held_s.items()
            if totals.get(name) and self.makespan_s
        }

    def avoided(self) -> tuple[Hours, Hours]:
        """Hours that hits and that sharing have saved."""
        by_hits = by_sharing = NOTHING
        for unit in self.scheduler.units.values():
            if unit.origin is Origin.HIT and unit.node.existing is None:
                by_hits += hours_of(unit.node.asked.resources, unit.cost_s)
            elif unit.origin is Origin.SHARED:
                by_sharing += hours_of(unit.node.asked.resources, self._seconds(unit.node.key))
        return by_hits, by_sharing

    def critical_path(self) -> tuple[tuple[str, ...], float]:
        """The longest chain of what was made, each after what it needs; a node after a sweep needs all its trials."""
        ends: dict[str, float] = {}
        before: dict[str, str] = {}
        last_of_sweep: dict[str, str] = {}
        for label, unit in self.scheduler.units.items():
            node = unit.node
            needs = [*node.parents, *([unit.maker] if unit.maker else [])]
            needs += [last_of_sweep[name] for name in sweeps_before(node, self._foreseen) if name in last_of_sweep]
            latest = max((parent for parent in needs if parent in ends), key=lambda parent: ends[parent], default="")
            own_s = self._seconds(node.key) if unit.origin is Origin.MADE else 0.0
            ends[label] = ends.get(latest, 0.0) + own_s
            if latest:
                before[label] = latest
            if node.name in self._foreseen.sweeps and ends[label] >= ends.get(last_of_sweep.get(node.name, ""), 0.0):
                last_of_sweep[node.name] = label
        if not ends:
            return (), 0.0
        label = max(ends, key=lambda each: ends[each])
        path, path_s = [label], ends[label]
        while label in before:
            label = before[label]
            path.append(label)
        made = [each for each in reversed(path) if self.scheduler.units[each].origin is Origin.MADE]
        return tuple(made), path_s


def _shapes(cluster: ClusterSpec) -> list[MachineShape]:
    return [
        MachineShape(
            name=f"{kind_number}-{number}",
            cpus=kind.cpus,
            gpus=kind.gpus,
            memory_bytes=kind.memory or UNBOUNDED_BYTES,
            gpu_memory_bytes=kind.gpu_memory or 0,
            custom=kind.custom,
        )
        for kind_number, kind in enumerate(cluster.nodes)
        for number in range(kind.count)
    ]


def _outages(cluster: ClusterSpec, shapes: list[MachineShape]) -> Iterator[Outage]:
    found = []
    for number, kind in enumerate(cluster.nodes):
        names = [shape.name for shape in shapes if shape.name.startswith(f"{number}-")]
        for rate, is_preempted in ((kind.failures_per_hour, False), (kind.preemptions_per_hour, True)):
            found.append(
                random_outages(
                    names, per_hour=rate, away_s=kind.back_after, is_preempted=is_preempted, seed=cluster.seed + number
                )
            )
    return heapq.merge(*found, key=lambda outage: outage.at_s)
