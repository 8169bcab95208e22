"""The scheduler's own view of a plan node: its state, how often it was tried, and who waits for it; and of a group of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.retries import UNCOUNTED, Decision, FailureClass, Tries, decide, failure_class
from orchestrator.engine.work import Ending, InputRef, Outcome, Work
from orchestrator.store.artifacts import Record, record_mark
from orchestrator.store.ledger import node_folder
from orchestrator.workflow.plan import PlanNode
from orchestrator.workflow.spec import Resources


class State(StrEnum):
    """Where a node stands in a run."""

    PENDING = "pending"  # waits for nodes before it
    READY = "ready"  # waits for a place to run
    RUNNING = "running"
    BUSY = "busy"  # another run is making it
    DELAYED = "delayed"  # will be tried again
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"  # a node before it failed
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


FINAL = (State.DONE, State.FAILED, State.BLOCKED, State.SKIPPED, State.CANCELLED)


class Origin(StrEnum):
    """Where a node's artifact came from, as far as this run is concerned; NONE until there is one."""

    NONE = ""
    HIT = "hit"  # it stood in the store when the node was added
    MADE = "made"  # an attempt at this very node made it
    SHARED = "shared"  # another node of this run, or another run, made it meanwhile


class GroupState(StrEnum):
    """Where a group of nodes (a trial) stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Group:
    """Nodes that were asked for together: counts of their states, kept as they change, so that asking costs nothing."""

    name: str
    labels: list[str] = field(default_factory=list)
    counts: Counter[State] = field(default_factory=Counter)
    num_open: int = 0
    abandoned_as: GroupState | None = None

    @property
    def state(self) -> GroupState:
        """Running while any of its nodes may yet come to something; an abandoned group has ended, whatever still stops."""
        if self.abandoned_as is not None:
            return self.abandoned_as
        if self.num_open:
            return GroupState.RUNNING
        if self.counts[State.FAILED] or self.counts[State.BLOCKED]:
            return GroupState.FAILED
        return GroupState.CANCELLED if self.counts[State.CANCELLED] else GroupState.DONE

    def abandon(self) -> None:
        """Nobody wants what is still open; a group that has ended already stays as it ended."""
        if self.num_open and self.abandoned_as is None:
            failed = self.counts[State.FAILED] or self.counts[State.BLOCKED]
            self.abandoned_as = GroupState.FAILED if failed else GroupState.CANCELLED


@dataclass(eq=False)
class Unit:
    """One node while its plan is driven."""

    node: PlanNode
    index: int  # larger than that of every node it waits for
    group: Group
    state: State = State.PENDING
    is_asked_for: bool = True  # False: only other nodes may still want it
    open_parents: set[str] = field(default_factory=set)
    children: dict[str, None] = field(default_factory=dict)  # by label, in the plan's order
    maker: str = ""  # the node with the same key that this one leaves the work to
    origin: Origin = Origin.NONE
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    error_type: str = ""
    cost_s: float = 0.0  # what the artifact took to make, by whomever
    spent_s: float = 0.0  # what attempts at this node took in this run, whatever came of them
    attempt: int = 0
    num_stopped: int = 0  # attempts that ended because nobody wanted them: they do not count against `retry`
    num_uncounted: int = 0  # attempts that were preempted, or lost their lease: neither do they, up to a limit
    larger: Resources | None = None  # what it asks for since it ran out of memory
    started_at: float = 0.0
    stop_asked_at: float | None = None  # because of its timeout
    unwanted_at: float | None = None  # since then its attempt is asked to stop because nobody wants it
    wake_at: float = 0.0
    busy_wait_s: float = 0.0
    stale_lease: str = ""
    repaired_inputs: bool = False

    def __post_init__(self) -> None:
        self.group.labels.append(self.label)
        self.group.counts[self.state] += 1
        self.group.num_open += 1

    @property
    def label(self) -> str:
        return self.node.label

    @property
    def folder(self) -> str:
        return node_folder(self.node.node, self.node.key)

    @property
    def resources(self) -> Resources:
        """What the next attempt asks for; the number of threads stays that of the file, since results depend on it."""
        return self.larger or self.node.asked.resources

    @property
    def replaces(self) -> str:
        """Of a node that runs again on purpose: the record that it makes anew, "" if there was none."""
        record = self.node.record
        return record_mark(record) if self.node.forced and record is not None else ""

    @property
    def plan_row(self) -> list[str]:
        """The node as the ledger lists it: label, node, stage, key, status in its plan, group."""
        node = self.node
        return [node.label, node.node, node.spec.name, node.key, node.status.value, self.group.name]

    @property
    def is_open(self) -> bool:
        """Whether it may yet run or end otherwise."""
        return self.state not in FINAL

    @property
    def input_labels(self) -> list[str]:
        """Labels of the nodes whose artifacts this one reads (it may wait for others, too)."""
        return [label for value in self.node.inputs.values() for label in ([value] if isinstance(value, str) else value)]

    def become(self, state: State) -> None:
        """Enter a state; its group's counts follow."""
        group = self.group
        group.counts[self.state] -= 1
        group.counts[state] += 1
        group.num_open += (state not in FINAL) - (self.state not in FINAL)
        self.state = state

    def ran_too_long(self, outcome: Outcome, *, now_s: float) -> bool:
        """Whether the attempt ended because of its timeout, noticed by the scheduler or by an executor that blocks it."""
        timeout_s = self.node.asked.timeout
        return self.stop_asked_at is not None or (
            outcome.ending is Ending.CANCELLED and timeout_s is not None and now_s - self.started_at > timeout_s
        )

    def decide_after(
        self, outcome: Outcome, *, run: str, now_s: float, shapes: Sequence[MachineShape], is_alone: bool
    ) -> tuple[FailureClass, Decision]:
        """What becomes of the node after an attempt that came to nothing; a larger request is taken over."""
        self.num_uncounted += outcome.ending in UNCOUNTED
        kind = failure_class(outcome, ran_too_long=self.ran_too_long(outcome, now_s=now_s))
        decision = decide(
            outcome,
            kind=kind,
            retry=self.node.asked.retry,
            tries=Tries(
                attempt=self.attempt,
                counted=self.attempt - self.num_stopped - self.num_uncounted,
                uncounted=self.num_uncounted,
            ),
            held=self.resources,
            shapes=shapes,
            is_alone=is_alone,
            chance=f"{run} {self.label} {self.attempt}",
        )
        self.larger = decision.resources or self.larger
        return kind, decision

    def failure_details(self, outcome: Outcome, *, kind: FailureClass, now_s: float) -> dict[str, Any]:
        """What an event says of an attempt that came to nothing; `seconds` is how long it was under way."""
        details = {**outcome.failure(attempt=self.attempt), "class": kind.value, "seconds": round(now_s - self.started_at, 3)}
        if kind is FailureClass.TIMEOUT:
            details |= {"ending": kind.value, "error": f"ran longer than its timeout of {self.node.asked.timeout:g} s"}
        return details

    def makes_anew(self, record: Record) -> bool:
        """Whether the node runs again on purpose and this is still the record that it is to replace."""
        return self.node.forced and record_mark(record) == self.replaces

    def waits_for(self, parent: Unit) -> None:
        """Do not start before `parent` is done."""
        self.open_parents.add(parent.label)
        parent.children[self.label] = None


def order_for(unit: Unit, units: Mapping[str, Unit], *, run: str, provenance: Mapping[str, Any]) -> Work:
    """The order to run a unit's next attempt."""
    node, resources = unit.node, unit.node.asked.resources

    def reference(label: str) -> InputRef:
        parent = units[label].node
        return InputRef(stage=parent.spec.name, key=parent.key, label=label)

    return Work(
        run=run,
        label=unit.label,
        folder=unit.folder,
        stage=node.spec.name,
        key=node.key,
        identity=node.identity,
        settings=node.settings.model_dump(mode="json", exclude_unset=True),
        seed=node.seed,
        inputs={
            port: reference(value) if isinstance(value, str) else [reference(label) for label in value]
            for port, value in node.inputs.items()
        },
        attempt=unit.attempt,
        num_threads=max(1, int(resources.cpus)),
        use_gpu=resources.gpus > 0,
        forced=node.forced,
        replaces=unit.replaces,
        stale_lease=unit.stale_lease,
        timeout_s=node.asked.timeout,
        provenance=provenance,
    )
