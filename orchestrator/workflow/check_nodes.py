"""The nodes of one scope against the catalog: names, stages, references, artifact kinds, conditions, resources."""

from __future__ import annotations

import re

from orchestrator.workflow.check_params import check_params
from orchestrator.workflow.order import order_of
from orchestrator.workflow.places import KeyPath, entry, list_names, nearest, shorten
from orchestrator.workflow.references import EXISTING, EXISTING_PATTERN, FRONT, OUTPUT, Reference, split_metric
from orchestrator.workflow.scope import Scope
from orchestrator.workflow.spec import NAME_PATTERN, NAME_RULE, Node, Resources, When
from stages import catalog
from stages.contract import Port, StageSpec

ANY_KIND = "any"
RESERVED_RESOURCES = {"cpu": "cpus", "gpu": "gpus", "memory": "memory"}


class NodesCheck:
    """One pass over the nodes of a scope; what is wrong goes to the scope's findings."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.findings = scope.findings
        self.nodes = scope.nodes
        self.specs = scope.specs

    def find_stages(self) -> None:
        """Fill the scope's `specs`; before anything else, since references are judged by them."""
        for name, node in self.nodes.items():
            self._stage(name, node)

    def check(self) -> None:
        """Check every node; the parameters of a sweep's nodes are checked with its space."""
        is_of_sweep = self.scope.around is not None
        for name, node in self.nodes.items():
            place: KeyPath = (*self.scope.place, name)
            is_whole = not self.findings.known_below(place)
            spec = self.specs.get(name)
            if spec is not None and not is_of_sweep:
                check_params(self.scope.said(name), node, spec, place=place, findings=self.findings, is_whole=is_whole)
            self._inputs(name, node, spec, is_whole=is_whole)
            if is_of_sweep:
                self._no_foreach(name, node)
            else:
                self._foreach_inputs(name, node, spec)
            self._needs(name, node)
            self._when(name, node.when)
            self._resources(name, node.resources)
            if spec is not None:
                self._workers(name, node.resources, spec)
        unread = [path[-1] for path in self.scope.unread if path[:-1] == self.scope.place]
        for name in [*self.nodes, *sorted(map(str, unread))]:
            self.name(name)

    def order(self) -> tuple[str, ...]:
        """The nodes in an order in which they can run; cycles are reported."""
        order, cycles = order_of(self.scope.edges)
        for cycle in cycles:
            self._cycle(cycle)
        return order

    def name(self, name: str) -> None:
        if re.fullmatch(NAME_PATTERN, name) is None:
            self.findings.add(
                (*self.scope.place, name),
                f'"{shorten(name)}" cannot be the name of a node',
                found=f'"{shorten(name)}:"',
                expected=NAME_RULE,
                suggestion=f"rename it, for example {_plain_name(name)}",
            )

    def _stage(self, name: str, node: Node) -> None:
        spec = catalog.find_stage(node.stage)
        if spec is not None:
            self.specs[name] = spec
            return
        stages = catalog.all_stages()
        kind = node.stage.partition(".")[0]
        same_kind = [stage for stage in stages if stage.startswith(f"{kind}.")]
        self.findings.add(
            (*self.scope.place, name, "stage"),
            f'node "{self.scope.said(name)}": unknown stage "{shorten(node.stage)}"',
            found=entry("stage", node.stage),
            expected=f"one of the stages {list_names(same_kind or stages)}",
            suggestion=self.findings.did_you_mean(node.stage, stages),
            next_step="orchestrator stages ls",
        )

    def _inputs(self, name: str, node: Node, spec: StageSpec | None, *, is_whole: bool) -> None:
        for port_name, reference in node.inputs.items():
            place: KeyPath = (*self.scope.place, name, "inputs", port_name)
            port = self._port(name, port_name, spec, place, found=entry(port_name, reference))
            if isinstance(reference, str):
                self._edge(name, port_name, reference, place, port)
                continue
            if port is not None and not port.many:
                self.findings.add(
                    place,
                    f'node "{self.scope.said(name)}": input "{port_name}" takes one artifact',
                    found=entry(port_name, reference),
                    expected="the name of one node",
                    suggestion=f"to run this node once for each: foreach: {{{port_name}: [{list_names(reference)}]}}",
                )
                port = None
            elif spec is not None and port is not None and not reference and not port.optional:
                self._missing_port(name, port_name, port, spec, place)
            for index, item in enumerate(reference):
                self._edge(name, port_name, item, (*place, index), port)
                if item in reference[:index]:
                    self.findings.add(
                        (*place, index),
                        f'node "{self.scope.said(name)}": input "{port_name}" lists "{shorten(item)}" twice',
                        found=entry(port_name, reference),
                        expected="each node once",
                        suggestion="remove one of the two",
                    )
        if spec is not None and is_whole:
            self._required_ports(name, node, spec)

    def _required_ports(self, name: str, node: Node, spec: StageSpec) -> None:
        unknown = [given for given in node.inputs if given not in spec.inputs]
        for port_name, port in spec.inputs.items():
            is_misspelt = any(nearest(given, [port_name]) for given in unknown)
            if not port.optional and not is_misspelt and port_name not in node.inputs and port_name not in node.foreach:
                self._missing_port(name, port_name, port, spec, (*self.scope.place, name, "inputs"))

    def _port(self, name: str, port_name: str, spec: StageSpec | None, place: KeyPath, *, found: str) -> Port | None:
        if spec is None or port_name in spec.inputs:
            return spec.inputs[port_name] if spec is not None else None
        is_parameter = port_name in spec.settings.model_fields
        self.findings.add(
            place,
            f'node "{self.scope.said(name)}": unknown input "{shorten(port_name)}"',
            found=found,
            expected=f"stage {spec.name} takes {_ports(spec)}",
            suggestion=f"{port_name} is a parameter: write it under params"
            if is_parameter
            else self.findings.did_you_mean(port_name, spec.inputs),
            next_step=f"orchestrator stages show {spec.name}",
        )
        return None

    def _missing_port(self, name: str, port_name: str, port: Port, spec: StageSpec, place: KeyPath) -> None:
        makers = [other for other, made in self.scope.offers(name) if port.kind in {ANY_KIND, made.output}]
        self.findings.add(
            place,
            f'node "{self.scope.said(name)}": input "{port_name}" is missing',
            found=f"inputs from {list_names(self.nodes[name].inputs)}" if self.nodes[name].inputs else "no inputs",
            expected=f"stage {spec.name} takes {_ports(spec)}",
            suggestion=f"write inputs: {{{port_name}: {makers[0] if len(makers) == 1 else 'NODE'}}}"
            + (f", with one of {list_names(makers, limit=6)}" if len(makers) > 1 else ""),
            next_step=f"orchestrator stages show {spec.name}",
        )

    def _foreach_inputs(self, name: str, node: Node, spec: StageSpec | None) -> None:
        for port_name in [port for port in node.foreach if spec is not None and port in spec.inputs]:
            assert spec is not None
            place: KeyPath = (*self.scope.place, name, "foreach", port_name)
            port = spec.inputs[port_name]
            if port_name in node.inputs:
                self.findings.add(
                    place,
                    f'node "{self.scope.said(name)}": "{port_name}" stands under both inputs and foreach',
                    found=entry(port_name, node.inputs[port_name]),
                    expected="one of the two",
                    suggestion=f"remove {port_name} from inputs",
                )
            if port.many:
                self.findings.add(
                    place,
                    f'node "{self.scope.said(name)}": input "{port_name}" takes several artifacts, so foreach cannot list them',
                    found=entry(port_name, node.foreach[port_name]),
                    expected=f"a list of nodes under inputs: {{{port_name}: [...]}}",
                    suggestion="move the list to inputs",
                )
                continue
            listed = node.foreach[port_name]
            if isinstance(listed, str):
                reference = self._edge(name, port_name, listed, place, port)
                if reference is not None and not reference.is_expanded:
                    self.findings.add(
                        place,
                        f'node "{self.scope.said(name)}": foreach "{port_name}" is one reference',
                        found=entry(port_name, listed),
                        expected=f"a list of nodes, or SWEEP.{FRONT}.NODE",
                        suggestion=f"write inputs: {{{port_name}: {listed}}}",
                    )
                continue
            for index, item in enumerate(listed):
                if isinstance(item, str):
                    self._edge(name, port_name, item, (*place, index), port)
                else:
                    self.findings.add(
                        (*place, index),
                        f'node "{self.scope.said(name)}": value {index + 1} of foreach "{port_name}" is not a reference',
                        found=entry(index, item),
                        expected=f"the name of a node, since {port_name} is an input",
                        suggestion=f"one of {list_names(other for other in self.nodes if other != name)}",
                    )

    def _no_foreach(self, name: str, node: Node) -> None:
        for key, values in node.foreach.items():
            self.findings.add(
                (*self.scope.place, name, "foreach", key),
                f'node "{self.scope.said(name)}": foreach cannot stand inside a sweep',
                found=entry(key, values),
                expected="one node in each trial",
                suggestion=f"list the values in the space: {name}.{key}: {{choice: {shorten(values)}}}",
            )

    def _edge(self, name: str, port_name: str, text: str, place: KeyPath, port: Port | None) -> Reference | None:
        """Note that an input refers to a node, and check that the node makes what the port takes."""
        found = entry(port_name, text)
        if text.startswith(EXISTING):
            return self._existing(name, text, place, found=found)
        reference = self.scope.resolve(name, text, place, found=found)
        if reference is None:
            return None
        target, output = str(reference), text.partition(".")[2]
        if not reference.which and (output not in {"", OUTPUT} or text.endswith(".")):
            self.findings.add(
                place,
                f'node "{self.scope.said(name)}": "{shorten(text)}" names an output that there is not',
                found=found,
                expected=f'the name of a node: each node has one output, so "{target}" says it all',
                suggestion=f"write {port_name}: {target}",
            )
        made = self.scope.spec_of(reference)
        if port is None or made is None or port.kind in {ANY_KIND, made.output}:
            return reference
        fitting = [other for other, spec in self.scope.offers(name) if spec.output == port.kind]
        self.findings.add(
            place,
            f'node "{self.scope.said(name)}": input "{port_name}" takes another kind of artifact',
            found=f"{found}, and {target} ({made.name}) makes {made.output}",
            expected=f"a node that makes {port.kind}",
            suggestion=f"one of {list_names(fitting, limit=6)}" if fitting else f"add a node whose stage makes {port.kind}",
            next_step=f"orchestrator stages show {made.name}",
        )
        return reference

    def _existing(self, name: str, text: str, place: KeyPath, *, found: str) -> Reference | None:
        """An artifact of the store; whether there is one, and of which kind, is known when a plan is made."""
        if EXISTING_PATTERN.fullmatch(text):
            return Reference(text)
        self.findings.add(
            place,
            f'node "{self.scope.said(name)}": "{shorten(text)}" cannot be the name or the key of an artifact',
            found=found,
            expected=f"{EXISTING}NAME, {EXISTING}NAME@VERSION (from 1), or {EXISTING}KEY with at least 8 letters of the key",
            suggestion=f"write the name in small letters: {text.lower()}" if EXISTING_PATTERN.fullmatch(text.lower()) else "",
            next_step="orchestrator artifacts names",
        )
        return None

    def _needs(self, name: str, node: Node) -> None:
        for index, target in enumerate(node.needs):
            self.need(name, target, (*self.scope.place, name, "needs", index))

    def need(self, name: str, target: str, place: KeyPath) -> None:
        """Check a name under `needs` of a node, or of a sweep."""
        found = f'"needs: {shorten(target)}"'
        reference = self.scope.resolve(name, target, place, found=found, is_need=True)
        if reference is not None and not reference.which and target != reference.node:
            self.findings.add(
                place,
                f'node "{self.scope.said(name)}" needs "{shorten(target)}", and the workflow has no such node',
                found=found,
                expected="the name of a node",
                suggestion=f"write {reference.node}",
            )

    def _when(self, name: str, when: When | None) -> None:
        if when is None:
            return
        place: KeyPath = (*self.scope.place, name, "when")
        found = entry("metric", when.metric)
        self.metric(name, when.metric, (*place, "metric"), field="when.metric", found=found)
        if when.min is None and when.max is None:
            problem, suggestion = "when has no bound", "add min: or max:"
        elif when.min is not None and when.max is not None and when.min > when.max:
            problem, suggestion = "when can never hold: min is above max", "swap min and max"
        else:
            return
        bounds = f'"min: {when.min:g}, max: {when.max:g}"' if when.min is not None and when.max is not None else found
        self.findings.add(
            place,
            f'node "{self.scope.said(name)}": {problem}',
            found=bounds,
            expected="min, max, or min below max",
            suggestion=suggestion,
        )

    def metric(self, name: str, text: str, place: KeyPath, *, field: str, found: str) -> Reference | None:
        """Check a text that must name a node and one of its metrics; returns the node, where there is one."""
        target, metric = split_metric(text)
        if target in self.scope.sweeps and self.scope.resolve(name, text, place, found=found, is_need=True) is None:
            return None
        if not target or not metric or target in self.scope.sweeps:
            self.findings.add(
                place,
                f'node "{self.scope.said(name)}": {field} does not name a node and a metric',
                found=found,
                expected='"node.metric"',
                suggestion=f"for example {text if target in self.scope.sweeps else next(iter(self.nodes), 'NODE')}.METRIC",
            )
            return None
        reference = self.scope.resolve(name, target, place, found=found)
        if reference is not None:
            self.reports(name, str(reference), metric, self.scope.spec_of(reference), place, found=found)
        return reference

    def reports(self, name: str, target: str, metric: str, spec: StageSpec | None, place: KeyPath, *, found: str) -> None:
        """Check that a stage reports a metric; one that declares none may report any."""
        if spec is None or not spec.metrics or metric in spec.metrics:
            return
        self.findings.add(
            place,
            f'node "{self.scope.said(name)}": node "{target}" reports no metric "{shorten(metric)}"',
            found=found,
            expected=f"one of the metrics {list_names(spec.metrics)}",
            suggestion=self.findings.did_you_mean(metric, spec.metrics),
            next_step=f"orchestrator stages show {spec.name}",
        )

    def _resources(self, name: str, resources: Resources) -> None:
        place: KeyPath = (*self.scope.place, name, "resources")
        for field, amount in (("cpus", resources.cpus), ("gpus", resources.gpus)):
            if amount > 1 and amount != int(amount):
                self.findings.add(
                    (*place, field),
                    f'node "{self.scope.said(name)}": {field} above 1 must be a whole number',
                    found=f'"{field}: {amount:g}"',
                    expected="a fraction below 1, or a whole number",
                    suggestion=f"write {field}: {int(amount)} or {field}: {int(amount) + 1}",
                )
        for custom, amount in resources.custom.items():
            field = RESERVED_RESOURCES.get(custom.lower(), "")
            if field or amount <= 0 or not custom:
                self.findings.add(
                    (*place, "custom", custom),
                    f'node "{self.scope.said(name)}": "{shorten(custom)}" cannot be a custom resource'
                    if field or not custom
                    else f'node "{self.scope.said(name)}": custom resource "{shorten(custom)}" is out of range',
                    found=f'"{shorten(custom)}: {amount:g}"',
                    expected=f"resources.{field}" if field else "a name and a number above 0",
                    suggestion=f"write {field}: {amount:g} under resources" if field else "remove it or ask for 1",
                )

    def _workers(self, name: str, resources: Resources, spec: StageSpec) -> None:
        if resources.workers == 1:
            return
        if spec.data_parallel:
            if 0 < resources.gpus < 1:
                self.findings.add(
                    (*self.scope.place, name, "resources", "gpus"),
                    f'node "{self.scope.said(name)}": workers cannot share a GPU',
                    found=f'"workers: {resources.workers}, gpus: {resources.gpus:g}"',
                    expected="a whole GPU for each worker (NCCL joins GPUs, not parts of one), or none",
                    suggestion="write gpus: 1, or remove workers",
                )
            return
        able = [other.name for other in catalog.all_stages().values() if other.data_parallel]
        self.findings.add(
            (*self.scope.place, name, "resources", "workers"),
            f'node "{self.scope.said(name)}": {spec.name} runs in one process',
            found=f'"workers: {resources.workers}"',
            expected=f"one of the stages that several processes can run together: {list_names(able, limit=len(able))}",
            suggestion="remove workers",
        )

    def _cycle(self, cycle: tuple[str, ...]) -> None:
        path = " -> ".join([*cycle, cycle[0]])
        self.findings.add(
            self.scope.edges[cycle[0]][cycle[1]],
            f'node "{self.scope.said(cycle[0])}" needs its own result: the references form a cycle',
            found=path if len(path) <= 2000 else f"{path[:2000]} ... ({len(cycle)} nodes)",
            expected="references that lead back to a node without inputs",
            suggestion=f'remove one of these references, for example that of "{cycle[0]}" to "{cycle[1]}"',
        )


def _ports(spec: StageSpec) -> str:
    """The inputs of a stage with their kinds, as a list in words."""
    described = [
        f"{name} ({'several ' if port.many else ''}{port.kind}{', optional' if port.optional else ''})"
        for name, port in spec.inputs.items()
    ]
    return f"the inputs {list_names(described)}" if described else "no inputs"


def _plain_name(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name[:63]).strip("-")
    return plain if re.fullmatch(NAME_PATTERN, plain) else f"n_{plain}"[:63]
