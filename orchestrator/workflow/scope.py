"""Nodes that are checked together, and what their references can mean: nodes, and nodes of sweeps. Knows no parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from orchestrator.workflow.places import Findings, KeyPath, list_names, shorten
from orchestrator.workflow.references import BEST, FRONT, OUTPUT, Reference, parse_reference, split_metric
from orchestrator.workflow.spec import Node
from stages.contract import StageSpec


class Scope:
    """The workflow's own nodes with its sweeps, or the nodes of one sweep with the workflow around them.

    Attributes:
        place: where the nodes stand in the file.
        specs: stages of the nodes, by name; filled by `check_nodes`.
        sweeps: of the workflow, by name.
        edges: `edges[node][target]` is the place where the node refers to the target; sweeps are nodes here.
        around: for the nodes of a sweep, the workflow's scope; `sweep` is then the name of the sweep.
    """

    def __init__(
        self,
        nodes: Mapping[str, Node],
        *,
        place: KeyPath,
        findings: Findings,
        unread: AbstractSet[KeyPath],
        around: Scope | None = None,
        sweep: str = "",
    ) -> None:
        self.nodes = nodes
        self.place = place
        self.findings = findings
        self.unread = unread
        self.around = around
        self.sweep = sweep
        self.specs: dict[str, StageSpec] = {}
        self.sweeps: dict[str, Scope] = {} if around is None else around.sweeps
        self.edges: dict[str, dict[str, KeyPath]] = {name: {} for name in nodes}
        self._expanded: frozenset[str] | None = None

    def add_sweep(self, name: str, nodes: Mapping[str, Node]) -> None:
        """Take in a sweep of the workflow, with a scope of its own for its nodes."""
        place = (*self.place, name, "nodes")
        self.edges[name] = {}
        self.sweeps[name] = Scope(nodes, place=place, findings=self.findings, unread=self.unread, around=self, sweep=name)

    def sort_by_place(self) -> None:
        """Put nodes and sweeps in the file's order, which decides wherever references leave a choice."""
        self.edges = dict(sorted(self.edges.items(), key=lambda item: self.findings.places[(*self.place, item[0])]))

    def said(self, name: str) -> str:
        """What a node is called in messages."""
        return f"{shorten(self.sweep)}.{shorten(name)}" if self.around is not None else shorten(name)

    def spec_of(self, reference: Reference) -> StageSpec | None:
        """The stage that makes what a reference names, where it is known."""
        if reference.which:
            return self.sweeps[reference.node].specs.get(reference.part)
        if reference.node in self.nodes or self.around is None:
            return self.specs.get(reference.node)
        return self.around.specs.get(reference.node)

    def offers(self, name: str = "") -> Iterator[tuple[str, StageSpec]]:
        """Every reference to one artifact that node `name` may make, as it is written, with the stage that makes it."""
        yield from ((other, spec) for other, spec in self.specs.items() if other != name)
        if self.around is not None:
            yield from ((other, spec) for other, spec in self.around.specs.items() if not self.around.is_expanded(other))
        for sweep, parts in self.sweeps.items():
            if sweep not in {name, self.sweep}:
                yield from ((f"{sweep}.{BEST}.{part}", spec) for part, spec in parts.specs.items())

    def is_expanded(self, name: str) -> bool:
        """Whether a node may have several instances: it lists values, or refers to a node that does."""
        if self._expanded is None:
            self._expanded = self._all_expanded()
        return name in self._expanded

    def resolve(self, name: str, text: str, place: KeyPath, *, found: str, is_need: bool = False) -> Reference | None:
        """What the text at `place` of node `name` refers to; notes the edge. Reports a text that refers to nothing.

        Words behind a node's name are the caller's to judge. Only where a node waits (`is_need`) may a sweep be named itself.
        """
        head = text.partition(".")[0]
        if head == name:
            self.findings.add(
                place,
                f'node "{self.said(name)}" refers to itself',
                found=found,
                expected="the name of another node",
                suggestion="remove the reference, or name the node whose result is meant",
            )
        elif head in self.nodes:
            self.edges[name].setdefault(head, place)
            return Reference(head)
        elif head == self.sweep and self.around is not None:
            self.findings.add(
                place,
                f'node "{self.said(name)}" refers to the sweep that it is part of',
                found=found,
                expected="a node of the same trial by its own name, or one outside of the sweep",
                suggestion=self.findings.did_you_mean(text.rpartition(".")[2], self.nodes),
            )
        elif head in self.sweeps:
            return self._into_sweep(name, text, place, found=found, is_need=is_need)
        elif self.around is not None and head in self.around.nodes:
            return self._outside(name, head, place, found=found)
        elif (*self.place, head) not in self.unread and ("nodes", head) not in self.unread:
            self._unknown(name, head, place, found=found)
        return None

    def _unknown(self, name: str, head: str, place: KeyPath, *, found: str) -> None:
        legal = [other for other in self.nodes if other != name]
        legal += [other for other in (self.around.nodes if self.around is not None else ()) if other not in legal]
        inside = next((sweep for sweep, parts in self.sweeps.items() if head in parts.nodes and sweep != name), "")
        self.findings.add(
            place,
            f'node "{self.said(name)}" refers to "{shorten(head)}", and the workflow has no such node',
            found=found,
            expected=f"one of the nodes {list_names(legal)}",
            suggestion=f"{shorten(head)} is a node of a sweep: write {inside}.{BEST}.{head}"
            if inside
            else self.findings.did_you_mean(head, [*legal, *self.sweeps]),
        )

    def _outside(self, name: str, head: str, place: KeyPath, *, found: str) -> Reference | None:
        assert self.around is not None
        if self.around.is_expanded(head):
            self.findings.add(
                place,
                f'node "{self.said(name)}" refers to "{head}", which foreach makes several of',
                found=found,
                expected="a node with one instance: a trial takes one artifact",
                suggestion=f'search over what "{head}" lists: make it a node of the sweep, its list a choice of the space',
            )
            return None
        self.around.edges[self.sweep].setdefault(head, place)
        return Reference(head)

    def _into_sweep(self, name: str, text: str, place: KeyPath, *, found: str, is_need: bool) -> Reference | None:
        sweep, *words = text.split(".")
        parts = list(self.sweeps[sweep].nodes)
        who = f'node "{self.said(name)}"'
        expected = f"{sweep}.{BEST}.NODE or {sweep}.{FRONT}.NODE, with one of {list_names(parts)}"
        if (not words and is_need) or (len(words) > 1 and ("nodes", sweep, "nodes", words[1]) in self.unread):
            return self._edge(name, Reference(sweep), place)
        if not words:
            what, suggestion = f'{who} refers to the whole sweep "{sweep}"', f"for example {sweep}.{BEST}.{parts[-1]}"
        elif words[0] not in {BEST, FRONT}:
            what = f'{who} refers to "{shorten(words[0])}" of sweep "{sweep}"; there are {BEST} and {FRONT}'
            suggestion = (
                f"write {sweep}.{BEST}.{words[0]}"
                if words[0] in parts
                else self.findings.did_you_mean(words[0], [BEST, FRONT]) or f"for example {sweep}.{BEST}.{parts[-1]}"
            )
        elif len(words) == 1:
            what, suggestion = f"{who} does not say which node of the trial", f"for example {text}.{parts[-1]}"
        elif words[1] not in parts:
            what = f'sweep "{sweep}" has no node "{shorten(words[1])}"'
            near = self.findings.did_you_mean(words[1], parts)
            suggestion = near or f"for example {sweep}.{words[0]}.{parts[-1]}"
        elif words[2:] not in ([], [OUTPUT]):
            what = f'{who}: "{shorten(text)}" names an output that there is not'
            suggestion = f"write {sweep}.{words[0]}.{words[1]}"
        elif words[0] == FRONT and self.around is not None:
            what, suggestion = (
                f"{who} refers to a whole front, and a trial takes one artifact",
                f"write {sweep}.{BEST}.{words[1]}",
            )
            expected = f"{sweep}.{BEST}.NODE"
        else:
            return self._edge(name, Reference(sweep, *words[:2]), place)
        self.findings.add(place, what, found=found, expected=expected, suggestion=suggestion)
        return None

    def _edge(self, name: str, reference: Reference, place: KeyPath) -> Reference:
        edges = self.edges[name] if self.around is None else self.around.edges[self.sweep]
        edges.setdefault(reference.node, place)
        return reference

    def _all_expanded(self) -> frozenset[str]:
        below: dict[str, list[str]] = {}
        found = {name for name, node in self.nodes.items() if node.foreach}
        for name, node in self.nodes.items():
            ports = self.specs[name].inputs if name in self.specs else {}
            texts = [text for port, text in node.inputs.items() if isinstance(text, str) and not _is_many(ports, port)]
            texts += [split_metric(node.when.metric)[0]] if node.when is not None else []
            for reference in map(parse_reference, texts):
                below.setdefault(reference.node, []).append(name)
                if reference.is_expanded:
                    found.add(name)
        waiting = list(found)
        while waiting:
            for name in below.get(waiting.pop(), ()):
                if name not in found:
                    found.add(name)
                    waiting.append(name)
        return frozenset(found)


def _is_many(ports: Mapping[str, object], port: str) -> bool:
    return bool(getattr(ports.get(port), "many", False))
