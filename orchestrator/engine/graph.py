"""The nodes of a run and what binds them: who waits for whom, who makes which key, and whether anybody still wants it.

It grows while the run goes on. Knows no executor, no clock and no store: the scheduler tells it what ended, and is told what
may start (`ready`), what closed (events) and what nobody wants any more (`take_unwanted`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from orchestrator.engine.units import Group, Origin, State, Unit
from orchestrator.workflow.plan import PlanNode, Status


class Emit(Protocol):
    """Receives what happened to a node."""

    def __call__(self, kind: str, unit: Unit, **details: Any) -> None: ...


class Graph:
    """Units by label and groups by name. A node of no group counts for the whole run: where it fails, the run has failed."""

    def __init__(self, emit: Emit) -> None:
        self.units: dict[str, Unit] = {}
        self.groups: dict[str, Group] = {}
        self.ready: deque[Unit] = deque()  # pending units that wait for nothing; a queue, since chains may be thousands long
        self.has_failed = False
        self.num_changes = 0  # grows with every unit that is added or ends
        self.given_up: set[str] = set()  # nodes and trials that somebody asked to stop while the run goes on
        self._emit = emit
        self._makers: dict[str, str] = {}  # by key: the unit whose attempt the others with that key wait for
        self._doubtful: deque[Unit] = deque()  # not asked for, and perhaps not needed by others any more
        self._next_index = 0

    def count_states(self) -> Counter[str]:
        """How many nodes are in which state; those that are done by where their artifacts came from."""
        return Counter(str(unit.origin if unit.state is State.DONE else unit.state) for unit in self.units.values())

    @property
    def num_open(self) -> int:
        """Nodes that may yet run or end otherwise."""
        return sum(group.num_open for group in self.groups.values())

    # Growing

    def enter(self, nodes: Iterable[PlanNode], *, group: str) -> list[Unit]:
        """Units for the nodes that are new or were cancelled, and for cancelled ones that these need; not yet linked."""
        members = self.groups.setdefault(group, Group(group))
        members.abandoned_as = None
        entered: list[Unit] = []
        for node in nodes:
            known = self.units.get(node.label)
            if known is not None and known.node.key != node.key:
                raise ValueError(
                    f'node "{node.label}" is in this run already, with key {known.node.key[:12]} for other settings'
                )
            if known is not None:
                known.is_asked_for = True
            if known is None or known.state is State.CANCELLED:
                entered += self._revive_parents(node)
                entered.append(self._enter_again(known, node) if known is not None else self._enter_new(node, members))
        self.num_changes += len(entered)
        return entered

    def link(self, unit: Unit) -> None:
        """Let a unit wait for its parents, and for the maker of its key where another unit makes or has made that."""
        if unit.state is State.PENDING:
            unit.maker = self._maker_for(unit)
            self._await(unit, [*unit.node.parents, *filter(None, [unit.maker])])

    def _enter_new(self, node: PlanNode, group: Group) -> Unit:
        for label in node.parents:
            if label not in self.units:
                raise ValueError(f'node "{node.label}" needs "{label}", which is not in this run')
        unit = self.units[node.label] = Unit(node, self._new_index(), group)
        self._apply_plan(unit)
        return unit

    def _enter_again(self, unit: Unit, node: PlanNode) -> Unit:
        """A cancelled unit as if new, save for the numbers of its attempts."""
        unit.node = node
        unit.index = self._new_index()
        unit.num_stopped = unit.attempt - unit.num_uncounted
        unit.repaired_inputs = False
        unit.become(State.PENDING)
        self._apply_plan(unit)
        return unit

    def _apply_plan(self, unit: Unit) -> None:
        node = unit.node
        if node.status is Status.HIT and node.record is not None:
            unit.become(State.DONE)
            unit.origin = Origin.HIT
            unit.metrics = {**node.record.metrics, **node.record.measurements}
            unit.cost_s = node.record.seconds
            maker = self.units.get(self._makers.get(node.key, ""))
            if node.when is None and (maker is None or not (maker.is_open or maker.state is State.DONE)):
                self._makers[node.key] = unit.label
        elif node.status is Status.SKIP:
            unit.become(State.SKIPPED)

    def _revive_parents(self, node: PlanNode) -> list[Unit]:
        """Cancelled units above the node, pending again because it needs them, in an order in which they can run."""
        found: dict[str, Unit] = {}
        waiting = deque(node.parents)
        while waiting:
            unit = self.units.get(waiting.popleft())
            if unit is not None and unit.state is State.CANCELLED and unit.label not in found:
                found[unit.label] = unit
                waiting.extend(unit.node.parents)
        revived = [self._enter_again(unit, unit.node) for unit in sorted(found.values(), key=lambda unit: unit.index)]
        for unit in revived:
            self._doubt(unit)  # what needs it may be closed already by another of its parents
        return revived

    def _maker_for(self, unit: Unit) -> str:
        node = unit.node
        maker = self.units.get(self._makers.get(node.key, ""))
        came_to_nothing = (State.BLOCKED, State.SKIPPED, State.CANCELLED)
        if maker is None or maker is unit or maker.state in came_to_nothing or (node.forced and maker.origin is Origin.HIT):
            if node.when is None:  # a node that may yet be skipped makes nothing for others
                self._makers[node.key] = unit.label
            return ""
        return maker.label

    def _new_index(self) -> int:
        self._next_index += 1
        return self._next_index

    # Waiting and ending

    def _await(self, unit: Unit, labels: Iterable[str]) -> None:
        """Wait for what is open among the labels; what failed or was skipped among them closes the unit at once."""
        if unit.state is not State.PENDING:
            return
        for parent in [self.units[label] for label in dict.fromkeys(labels)]:
            if parent.state in (State.FAILED, State.BLOCKED):
                self._block(unit, parent)
                return
            if parent.state is State.SKIPPED:
                self.skip(unit, f"needs {parent.label}, which is skipped")
                return
            if parent.state is not State.DONE:
                unit.waits_for(parent)
        if not unit.open_parents:
            self.ready.append(unit)

    def done(self, unit: Unit) -> None:
        """It is made: what waited for it may go on."""
        self._end(unit, State.DONE)
        for label in unit.children:
            child = self.units[label]
            if child.state is State.PENDING:
                self._settle(child, unit)

    def fail(self, unit: Unit, **details: Any) -> None:
        """It cannot be made: what needs it is blocked."""
        self._end(unit, State.FAILED)
        unit.error, unit.error_type = details["error"], details["error_type"]
        self.has_failed = self.has_failed or not unit.group.name
        self._emit("node_failed", unit, **details)
        self._leave(unit)
        self._block_below(unit)

    def skip(self, unit: Unit, why: str) -> None:
        """Its condition does not hold, or what it needs is skipped."""
        self._end(unit, State.SKIPPED)
        self._emit("node_skipped", unit, why=why)
        self._leave(unit)
        for child, parent in self._close_below(unit, State.SKIPPED):
            self._emit("node_skipped", child, why=f"needs {parent.label}, which is skipped")

    def cancel(self, unit: Unit, **details: Any) -> None:
        """Nobody wants it, or the run was stopped; whoever asks for it again finds what it had saved."""
        self._end(unit, State.CANCELLED)
        self._emit("node_cancelled", unit, **details)
        for label in unit.open_parents:
            self.units[label].children.pop(unit.label, None)
        self._leave(unit)

    def _block(self, unit: Unit, by: Unit) -> None:
        self._note_block(unit, by)
        self._leave(unit)
        self._block_below(unit, by=by)

    def _block_below(self, unit: Unit, *, by: Unit | None = None) -> None:
        for child, _ in self._close_below(unit, State.BLOCKED):
            self._note_block(child, by or unit)

    def _note_block(self, unit: Unit, by: Unit) -> None:
        if unit.state is not State.BLOCKED:
            self._end(unit, State.BLOCKED)
        self.has_failed = self.has_failed or not unit.group.name
        reason = f": {by.error}" if by.error else ""
        unit.error_type = by.error_type
        unit.error = by.error if by.state is State.BLOCKED else f"needs {by.label}, which failed{reason}"
        self._emit("node_blocked", unit, by=by.label)

    def _close_below(self, unit: Unit, state: State) -> Iterator[tuple[Unit, Unit]]:
        """Put every pending node below `unit` into `state`; yields each with the parent that closed it.

        Nodes that only left their work to a closed one do the work themselves, the first of them for all, unless the work
        itself is what failed.
        """
        waiting = deque([unit])
        while waiting:
            parent = waiting.popleft()
            heirs = []
            for child in [self.units[label] for label in parent.children]:
                if child.state is not State.PENDING or parent.label not in child.open_parents:
                    continue
                if child.maker == parent.label and parent.state is not State.FAILED and parent.label not in child.node.parents:
                    heirs.append(child)
                    continue
                self._end(child, state)
                self._leave(child)
                waiting.append(child)
                yield child, parent
            self._inherit(parent, heirs)

    def _inherit(self, closed: Unit, heirs: list[Unit]) -> None:
        if not heirs:
            return
        first = min(heirs, key=lambda heir: heir.index)
        self._makers[first.node.key] = first.label
        first.maker = ""
        for heir in heirs:
            if heir is not first:
                heir.maker = first.label
                heir.waits_for(first)
            self._settle(heir, closed)

    def _settle(self, child: Unit, parent: Unit) -> None:
        child.open_parents.discard(parent.label)
        if not child.open_parents:
            self.ready.append(child)

    def _end(self, unit: Unit, state: State) -> None:
        unit.become(state)
        self.num_changes += 1

    # Making again what was found damaged

    def make_inputs_again(self, unit: Unit, *, is_there: Callable[[Unit], bool]) -> None:
        """An input's bytes were found damaged and set aside. Make what is missing again, then this node."""
        unit.repaired_inputs = True
        unit.become(State.PENDING)
        parents = [self.units[label] for label in dict.fromkeys(unit.input_labels)]
        missing = [parent for parent in parents if not (parent.state is State.DONE and is_there(parent))]
        for parent in missing:
            if parent.state is State.DONE:
                self._reopen(parent)
        self._link_all(self._revive_parents(unit.node))
        self._await(unit, [parent.label for parent in missing])

    def _reopen(self, unit: Unit) -> None:
        """A finished node whose artifact is gone: it runs again, and what is still pending below waits for it again."""
        unit.become(State.PENDING)
        unit.origin = Origin.NONE
        for label in unit.children:
            if self.units[label].state is State.PENDING:
                self.units[label].open_parents.add(unit.label)
        for label in unit.node.parents:
            parent = self.units[label]
            if parent.state in (State.FAILED, State.BLOCKED, State.SKIPPED):  # it was a hit, and cannot be made any more
                self._block(unit, parent)
                return
        self._link_all(self._revive_parents(unit.node))
        self._await(unit, unit.node.parents)

    def _link_all(self, units: Iterable[Unit]) -> None:
        for unit in units:
            self.link(unit)

    # Wanting

    def abandon(self, name: str) -> None:
        """Nobody in this group wants its nodes any more; `take_unwanted` then yields those that no other unit needs."""
        assert name, "the nodes of no group are the run itself"
        group = self.groups[name]
        group.abandon()
        for label in reversed(group.labels):
            unit = self.units[label]
            unit.is_asked_for = False
            self._doubt(unit)

    def give_up(self, name: str) -> bool:
        """Somebody wants a node or a trial stopped while the rest goes on: nobody wants it any more, nor what needs it.

        An equal node elsewhere that left the work to it still does. False where it has ended, is unknown or was given up.
        """
        if name in self.given_up or not (name in self.groups or (name in self.units and self.units[name].is_open)):
            return False
        self.given_up.add(name)
        if name in self.groups:
            self.abandon(name)
            return True
        below = [self.units[name]]
        for each in below:
            children = [self.units[label] for label in each.children]
            below += [child for child in children if each.label in child.node.parents and child.is_open and child not in below]
        for each in sorted(below, key=lambda each: -each.index):
            each.is_asked_for = False
            self._doubt(each)
        return True

    def without_given_up(self, nodes: Iterable[PlanNode]) -> list[PlanNode]:
        """The nodes that need nothing which was given up."""
        left, lost = [], set(self.given_up)
        for node in nodes:
            if node.label in lost or not lost.isdisjoint(node.parents):
                lost.add(node.label)
            else:
                left.append(node)
        return left

    def is_wanted(self, unit: Unit) -> bool:
        """Whether it was asked for, or an open unit waits for it; one that is itself dropped lets this be asked again."""
        return unit.is_asked_for or any(
            child.state is State.PENDING and unit.label in child.open_parents
            for child in (self.units[label] for label in unit.children)
        )

    def take_unwanted(self) -> Iterator[Unit]:
        """Open units that nobody wants, each once; the caller cancels them while it iterates, which may make others so."""
        while self._doubtful:
            unit = self._doubtful.popleft()
            if unit.is_open and unit.unwanted_at is None and not self.is_wanted(unit):
                yield unit

    def _leave(self, unit: Unit) -> None:
        """The unit has closed: what it waited for may have lost the last one that wanted it."""
        for label in unit.open_parents:
            self._doubt(self.units[label])
        unit.open_parents.clear()

    def _doubt(self, unit: Unit) -> None:
        if unit.is_open and not unit.is_asked_for:
            self._doubtful.append(unit)
